//! The work behind the commands of the same names, but for `replay` and the walkthroughs: what they
//! compute, and how they print it.

pub mod check;
pub mod diff;
pub mod frag;
mod leak;
pub mod map;
pub mod plan;
pub mod top;
