//! One event of a trace, as the reader passes it to the replay.
//!
//! Addresses and frame numbers of a trace stay plain integers: they identify objects of the
//! recorded machine and are never turned into pointers.

/// CPU numbers of a trace are less than this; others are an error of the input.
pub const MAX_CPUS: u16 = 1024;

/// Largest order of a page event: 2^18 pages of 4 KiB are 1 GiB.
pub const MAX_ORDER: u8 = 18;

/// Largest request of an object event: 1 GiB, the size of a block of [`MAX_ORDER`].
pub const MAX_REQUEST_BYTES: u32 = 4096 << MAX_ORDER;

/// A trace stores each address minus this base, so a stored value plus the base must fit 64 bits.
pub const ADDRESS_BASE: u64 = 0xffff_8880_0000_0000;

/// Frame numbers lie below this: 2^52 frames of 4 KiB are all that 64 bits can address.
pub const MAX_FRAMES: u64 = 1 << 52;

/// An event of one of the six kinds (`a`, `A`, `f`, `F`, `p`, `P`) that are replayed and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// Microseconds from the end of the previous batch to this event; `u32::MAX` means 72 minutes
    /// or more.
    pub micros_in_batch: u32,
    /// Index of this event's line in the batch; the first line is 0.
    pub line_in_batch: u16,
    /// CPU that executed the operation, below [`MAX_CPUS`].
    pub cpu: u16,
    /// What happened.
    pub action: Action,
}

/// The operation of an event. Each variant begins with its letter in the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `a`: kmalloc.
    AllocateBytes {
        /// Traced address, less [`ADDRESS_BASE`].
        object: u64,
        /// Bytes asked for, 1 to [`MAX_REQUEST_BYTES`].
        requested_bytes: u32,
        /// Bytes that the recorded kernel allocated for it, at least `requested_bytes`.
        allocated_bytes: u32,
        /// Number of the call site's name.
        site: u32,
    },
    /// `A`: kmem_cache_alloc.
    AllocateObject {
        /// Traced address, less [`ADDRESS_BASE`].
        object: u64,
        /// Bytes asked for, 1 to [`MAX_REQUEST_BYTES`].
        requested_bytes: u32,
        /// Bytes that the recorded kernel allocated for it, at least `requested_bytes`.
        allocated_bytes: u32,
        /// Number of the cache's name.
        cache: u32,
        /// Number of the call site's name; that of the cache where the trace does not name the
        /// call site.
        site: u16,
    },
    /// `f` and `F`: kfree and kmem_cache_free. They are treated alike: the
    /// object that is live at the address is freed, whichever kind it is.
    FreeObject {
        /// Traced address, less [`ADDRESS_BASE`].
        object: u64,
    },
    /// `p`: mm_page_alloc.
    AllocatePages {
        /// Number of the block's first frame.
        frame: u64,
        /// 0 to [`MAX_ORDER`].
        order: u8,
        /// The recorded kernel's migratetype: 0 unmovable, 1 movable, 2 reclaimable, others
        /// specific to that kernel.
        migratetype: u8,
        /// Number of the gfp mask's name.
        gfp: u16,
        /// Number of the call site's name, where the trace names it.
        site: Option<u16>,
    },
    /// `P`: mm_page_free.
    FreePages {
        /// Number of the block's first frame.
        frame: u64,
        /// 0 to [`MAX_ORDER`].
        order: u8,
    },
}

// Two events in a cache line: a larger event would slow the replay down.
const _: () = assert!(size_of::<Event>() <= 32);
