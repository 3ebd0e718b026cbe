//! The allocator under interfaces that others define: Rust's `Allocator`, the byte allocator of
//! ArceOS, the functions of Linux, and shrinkers.

#[cfg(any(feature = "allocator-api2-02", feature = "allocator-api2-04", feature = "nightly"))]
mod allocator;
#[cfg(any(feature = "ax-allocator", feature = "axallocator"))]
pub(crate) mod ax_allocator;
mod linux;
mod shrink;
