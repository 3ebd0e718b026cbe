//! Sizes of the caches of a process: a magazine, the depot of a class, and a slab.

/// The bytes of objects that a thread's magazine holds in programs. A kernel, with few CPUs and
/// many caches, uses an eighth of it.
///
/// Measured with 4, 16 and 32 KiB, in nanoseconds per object (2 cores, one run each, noisy). 10,000
/// objects allocated and freed: 33, 16, 13. 300 objects replaced at random: 24, 18, 17. Two threads
/// that serve requests: 40, 32, 22. Example: see `crates/kmalloc-preload/src/heap.rs`.
pub const MAGAZINE_BYTES: usize = 32 << 10;

/// The bytes of free objects for which the depot of each class has room in a heap in a process, for
/// [`Kmalloc::with_depot_bytes`](kmalloc::Kmalloc::with_depot_bytes). Free memory goes back to the
/// system by time, not by event. Example: see `crates/kmalloc-preload/src/heap.rs`.
///
/// Measured: see decision 35.
pub const DEPOT_BYTES: usize = 1 << 20;

/// The minimum number of objects in a slab of a heap in a process, for
/// [`Kmalloc::with_min_objects`](kmalloc::Kmalloc::with_min_objects): the pages of a slab cost no
/// memory before they are touched. Example: see `crates/kmalloc-preload/src/heap.rs`.
///
/// Measured with 8, 16, 32 and 64: see decision 32.
pub const MIN_OBJECTS: usize = 32;
