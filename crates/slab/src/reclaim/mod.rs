//! Giving memory back to the page source: on request, by age, and under pressure.

pub(crate) mod aging;
pub(crate) mod pressure;
pub(crate) mod shrink;
