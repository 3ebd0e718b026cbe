//! Page allocators: the traits, the workloads, and the contestants.

pub mod allocator;
mod churn;
pub mod contestant;
#[cfg(feature = "counted")]
pub mod counted;
mod cpu_time;
mod floor;
pub(crate) mod linux_like;
mod ours;
mod rivals;
pub mod rows;
mod single_thread;
mod two_threads;
pub mod workload;
