//! The traits of an allocator that can be replayed on.
//!
//! Implement [`ObjectTarget`] to replay the object events of a trace on an allocator of your own,
//! and [`PageTarget`] for its page events. Methods about CPUs and counters have defaults, for
//! allocators without either. One thread drives a target, and announces before each call which CPU
//! it plays.

use std::ptr::NonNull;

use page_frame::OutOfMemory;

use super::outcome::StackTotals;

/// Alignment of all objects in bytes.
pub const OBJECT_ALIGN: usize = 8;

/// Why there is no cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoCache {
    /// Memory is out.
    OutOfMemory,
    /// There can be none for such objects, however much memory there is.
    Impossible(String),
}

/// An allocator of objects: named caches, and bytes of any size.
///
/// # Safety
/// 1. Where [`BACKED`](Self::BACKED), each returned pointer is valid for reads and writes of the
///    object's bytes, aligned to [`OBJECT_ALIGN`], and has no other user until it is freed.
pub unsafe trait ObjectTarget {
    /// Names a cache of this target.
    type Cache: Copy;

    /// Whether there is memory behind objects, to be written and checked.
    const BACKED: bool = true;

    /// Goes on as CPU `cpu`.
    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        let _ = cpu;
    }

    /// Makes a cache of objects of `object_bytes`, a multiple of [`OBJECT_ALIGN`].
    ///
    /// # Errors
    /// Why there is no such cache.
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

    /// Frees what `allocate_bytes` returned.
    ///
    /// # Safety
    /// 1. `start` was returned for `bytes` and not freed since.
    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize);

    /// Returns what the stack below counted.
    fn totals(&self) -> StackTotals {
        StackTotals::default()
    }

    /// Gives back every page, those that idle CPUs keep too. Called once, at the end, when no
    /// object is live.
    ///
    /// # Errors
    /// What is wrong below, or still keeps pages.
    fn shrink(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Returns whether the pages below are as they were at the start.
    fn is_as_at_start(&self) -> bool {
        true
    }

    /// Returns whether the replay is to end here, without another request and without freeing what
    /// is live. Asked after each event.
    #[inline]
    fn has_given_up(&self) -> bool {
        false
    }
}

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
    /// [`MAX_FRAMES`](crate::trace::event::MAX_FRAMES). `migratetype` is the recorded kernel's:
    /// 0 unmovable, 1 movable, 2 reclaimable, others its own.
    ///
    /// # Errors
    /// When memory is out.
    fn allocate(&mut self, order: u8, migratetype: u8) -> Result<u64, OutOfMemory>;

    /// Frees the block of `order` at `frame`.
    ///
    /// # Errors
    /// What the allocator found wrong with that.
    fn free(&mut self, frame: u64, order: u8) -> Result<(), String>;

    /// Releases what CPUs keep.
    fn drain(&mut self) {}

    /// Returns how many blocks were split in two, and how many pairs became one; nothing where
    /// nobody counts.
    fn splits_and_merges(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Returns whether the free blocks are as they were at the start.
    fn is_as_at_start(&self) -> bool {
        true
    }

    /// Returns the number of free blocks of each order, where the allocator can say.
    fn free_counts(&self) -> Option<FreeCounts> {
        None
    }

    /// Returns whether the replay is to end here, as [`ObjectTarget::has_given_up`] does.
    #[inline]
    fn has_given_up(&self) -> bool {
        false
    }
}

/// Counts object events and allocates nothing: what a trace asks for, without an allocator.
#[derive(Debug, Default)]
pub struct CountOnly;

// SAFETY: not `BACKED`, so nothing is promised.
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
