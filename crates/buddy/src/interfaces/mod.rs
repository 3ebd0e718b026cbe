//! Traits of other crates that the allocators implement. Each has a feature.

#[cfg(any(feature = "ax-allocator", feature = "axallocator"))]
pub(crate) mod ax_allocator;
#[cfg(feature = "x86_64")]
mod x86_64;
