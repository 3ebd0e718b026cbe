//! The traits of an allocator that can be replayed on.
//!
//! Implement [`ObjectTarget`] to replay the object events of a trace on an allocator of your own,
//! and [`PageTarget`] for its page events. Methods about CPUs and counters have defaults, for
//! allocators without either. One thread drives a target, and calls `switch_cpu` before each event.

use std::ptr::NonNull;

use page_frame::OutOfMemory;

use super::outcome::{Shortage, StackTotals};

/// Alignment of all objects in bytes.
pub const OBJECT_ALIGN: usize = 8;

/// Why a target did not open a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCache {
    /// The target has no memory for it.
    OutOfMemory,
    /// The target has no caches for such objects, however much memory there is: the reason.
    Impossible(String),
}

/// An allocator of objects: named caches, and bytes of any size.
///
/// # Safety
/// 1. Where [`BACKED`](Self::BACKED), each returned pointer is valid for reads and writes of the
///    object's bytes, aligned to [`OBJECT_ALIGN`], and has no other user until it is freed.
pub unsafe trait ObjectTarget {
    /// A handle of a cache of this target.
    type Cache: Copy;

    /// Whether objects are memory that the replay may write and check.
    const BACKED: bool = true;

    /// Goes on as CPU `cpu`.
    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        let _ = cpu;
    }

    /// Makes a cache of objects of `object_bytes`, a multiple of [`OBJECT_ALIGN`].
    ///
    /// # Errors
    /// Why the target did not open the cache.
    fn open_cache(&mut self, name: &str, object_bytes: usize) -> Result<Self::Cache, NoCache>;

    /// Allocates an object of `cache`.
    ///
    /// # Errors
    /// When memory is out.
    fn allocate_object(&mut self, cache: Self::Cache) -> Result<NonNull<u8>, OutOfMemory>;

    /// Frees an object of `cache`.
    ///
    /// # Safety
    /// 1. `object` was allocated from `cache` and not freed since.
    unsafe fn free_object(&mut self, cache: Self::Cache, object: NonNull<u8>);

    /// Allocates `bytes`, 1 or more.
    ///
    /// # Errors
    /// When memory is out.
    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory>;

    /// Frees memory that `allocate_bytes` returned.
    ///
    /// # Safety
    /// 1. `start` was returned for `bytes` and not freed since.
    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize);

    /// Calls `look` with the start address and the bytes of each slab. The default reports none.
    fn for_each_slab(&self, look: &mut dyn FnMut(usize, usize)) {
        let _ = look;
    }

    /// Returns the reason why a request for `bytes` has just found no memory.
    fn shortage(&self, bytes: usize) -> Shortage {
        let _ = bytes;
        Shortage::Unknown
    }

    /// Returns the target's counters.
    fn totals(&self) -> StackTotals {
        StackTotals::default()
    }

    /// Frees every page, also those cached for idle CPUs. The replay calls it once, at the end,
    /// when no object is live.
    ///
    /// # Errors
    /// What the target found wrong, or what still holds pages.
    fn shrink(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Returns whether the target's free pages are the same as at the start.
    fn is_as_at_start(&self) -> bool {
        true
    }

    /// Returns whether the replay must end here, without another request and without freeing the
    /// live objects. The replay calls it after each event.
    #[inline]
    fn has_given_up(&self) -> bool {
        false
    }
}

/// Frame numbers of page targets are less than this: those of all addresses of a process are.
pub const MAX_TARGET_FRAMES: u64 = 1 << 45;

/// Free blocks by order.
pub type FreeCounts = [usize; page_frame::Order::COUNT];

/// An allocator of page blocks by frame number. Its frames need no memory behind them.
pub trait PageTarget {
    /// Goes on as CPU `cpu`.
    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        let _ = cpu;
    }

    /// Allocates 2^`order` frames and returns the first, which is below
    /// [`MAX_TARGET_FRAMES`]. `migratetype` is the recorded kernel's:
    /// 0 unmovable, 1 movable, 2 reclaimable, others its own.
    ///
    /// # Errors
    /// When memory is out.
    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory>;

    /// Returns the reason why a request for a block of `order` has just found no memory.
    fn shortage(&self, order: u8) -> Shortage {
        let _ = order;
        Shortage::Unknown
    }

    /// Frees the block of `order` at `frame`.
    ///
    /// # Errors
    /// What the allocator found wrong with the block.
    fn free(&mut self, frame: u64, order: u8) -> Result<(), String>;

    /// Frees the pages that the CPU slots cache.
    fn drain(&mut self) {}

    /// Returns how many blocks were split in two, and how many pairs were merged; zeros if the
    /// target does not count them.
    fn splits_and_merges(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Returns whether the free blocks are the same as at the start.
    fn is_as_at_start(&self) -> bool {
        true
    }

    /// Returns the number of free blocks of each order, if the allocator counts them.
    fn free_counts(&self) -> Option<FreeCounts> {
        None
    }

    /// Returns whether the replay must end here, as [`ObjectTarget::has_given_up`] does.
    #[inline]
    fn has_given_up(&self) -> bool {
        false
    }
}

/// A target that allocates nothing, for the totals of a trace.
#[derive(Debug, Default)]
pub struct CountOnly;

// SAFETY: not `BACKED`, so clause 1 of `ObjectTarget` demands nothing.
unsafe impl ObjectTarget for CountOnly {
    type Cache = ();

    const BACKED: bool = false;

    fn open_cache(&mut self, _: &str, _: usize) -> Result<(), NoCache> {
        Ok(())
    }

    fn allocate_object(&mut self, (): ()) -> Result<NonNull<u8>, OutOfMemory> {
        Ok(NonNull::dangling())
    }

    unsafe fn free_object(&mut self, (): (), _: NonNull<u8>) {}

    fn allocate_bytes(&mut self, _: usize) -> Result<NonNull<u8>, OutOfMemory> {
        Ok(NonNull::dangling())
    }

    unsafe fn free_bytes(&mut self, _: NonNull<u8>, _: usize) {}
}

impl PageTarget for CountOnly {
    fn allocate(&mut self, _: u8, _: u8) -> Result<u64, OutOfMemory> {
        Ok(0)
    }

    fn free(&mut self, _: u64, _: u8) -> Result<(), String> {
        Ok(())
    }
}
