//! Giving memory back to the page source: on request, by age, and under pressure.

pub(crate) mod aging;
pub(crate) mod clock;
pub(crate) mod pressure;
