//! Memory that the allocators manage in this process: with pages behind it, or numbers alone; and
//! how much of it is resident.

pub mod backed;
pub mod resident;
pub mod simulated;
