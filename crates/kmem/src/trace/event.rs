//! One event of a trace, in the form in which it travels from the reader to the replay.
//!
//! Numbers of a trace stay numbers here: a traced address is a *name* for an object that lived in
//! another machine, and is never turned into a pointer.

/// Trace CPUs are 0 to 1023; beyond is an error of the input.
pub const MAX_CPUS: u16 = 1024;

/// Largest order of a page event: 2^18 pages of 4 KiB are 1 GiB.
pub const MAX_ORDER: u8 = 18;

/// Largest request of an object event, the size of a block of [`MAX_ORDER`].
pub const MAX_REQUEST_BYTES: u32 = 4096 << MAX_ORDER;

/// Traced addresses are given less this base, so that PTR plus the base has to fit 64 bits.
pub const ADDRESS_BASE: u64 = 0xffff_8880_0000_0000;

/// Frame numbers lie below this: 2^52 frames of 4 KiB are all that 64 bits can address.
pub const MAX_FRAMES: u64 = 1 << 52;

/// An event of one of the six kinds that are replayed and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Microseconds between the batch's begin and this event; the largest number stands for all
    /// beyond an hour.
    pub micros_in_batch: u32,
    /// Lines between the batch's first line and this event's.
    pub line_in_batch: u16,
    /// CPU on which it happened, below [`MAX_CPUS`].
    pub cpu: u16,
    /// What happened.
    pub action: Action,
}

/// The operation of an event. The letters are those of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `a`: kmalloc.
    AllocateBytes {
        /// Traced address, less [`ADDRESS_BASE`].
        object: u64,
        /// Bytes asked for, 1 to [`MAX_REQUEST_BYTES`].
        requested_bytes: u32,
        /// Bytes which the recorded kernel set aside.
        allocated_bytes: u32,
        /// Number under which the call site's name was given.
        site: u32,
    },
    /// `A`: kmem_cache_alloc.
    AllocateObject {
        /// Traced address, less [`ADDRESS_BASE`].
        object: u64,
        /// Bytes asked for, 1 to [`MAX_REQUEST_BYTES`].
        requested_bytes: u32,
        /// Bytes which the recorded kernel set aside.
        allocated_bytes: u32,
        /// Number under which the cache's name was given.
        cache: u32,
    },
    /// `f` and `F`: kfree and kmem_cache_free. Both free whatever is live at the address.
    FreeObject {
        /// Traced address, less [`ADDRESS_BASE`].
        object: u64,
    },
    /// `p`: mm_page_alloc.
    AllocatePages {
        /// First traced frame.
        frame: u64,
        /// 0 to [`MAX_ORDER`].
        order: u8,
        /// The recorded kernel's migratetype: 0 unmovable, 1 movable, 2 reclaimable, others its
        /// own.
        migratetype: u8,
    },
    /// `P`: mm_page_free.
    FreePages {
        /// First traced frame.
        frame: u64,
        /// 0 to [`MAX_ORDER`].
        order: u8,
    },
}

// Two events a cache line: 20 MB of batches in flight would show in the replay's speed.
const _: () = assert!(size_of::<Event>() <= 32);
