//! Getting pages back when memory is short.
//!
//! Shrink orders travel down: whoever runs out asks a [`Shrink`], which gives pages to *their* source, and then tries
//! once more. [`Reclaiming`] is the one place where that happens.

use core::ptr::NonNull;

use crate::sync::Lock;
use crate::{Order, OutOfMemory, PageBlock, PageMap, PageResize, PageRun, PageSource};

/// Something that holds pages it could do without.
pub trait Shrink: Sync {
    /// Returns an estimate of the pages that `shrink` could give back. O(1), no lock.
    fn reclaimable(&self) -> usize;

    /// Gives back at least `target_pages` pages if it can; returns how many it gave.
    ///
    /// It never waits (locks are only tried) and never allocates, so it may be called wherever an allocation may.
    fn shrink(&self, target_pages: usize) -> usize;
}

impl<S: Shrink + ?Sized> Shrink for &S {
    fn reclaimable(&self) -> usize {
        (**self).reclaimable()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        (**self).shrink(target_pages)
    }
}

/// Up to `N` shrinkers that are asked in turn. They register after the page source that asks them has been built.
///
/// ```
/// use page_frame::{Shrink, ShrinkList};
/// use std::ptr::NonNull;
/// struct Kept<'a>(&'a [usize]);
/// impl Shrink for Kept<'_> {
///     fn reclaimable(&self) -> usize { self.0.len() }
///     fn shrink(&self, target_pages: usize) -> usize { target_pages.min(self.0.len()) }
/// }
/// let list = ShrinkList::<2>::new();
/// let pages = [1, 2, 3];
/// let kept = Kept(&pages);
/// let three: &dyn Shrink = &kept;
/// // SAFETY: it is taken out below, before it goes.
/// unsafe { list.register(NonNull::from(three)) }?;
/// assert_eq!((list.reclaimable(), list.shrink(2), list.shrink(9)), (3, 2, 3));
/// assert!(list.unregister(NonNull::from(three)));
/// assert_eq!(list.shrink(9), 0);
/// # Ok::<(), page_frame::ListFull>(())
/// ```
#[derive(Debug)]
pub struct ShrinkList<const N: usize> {
    members: Lock<[Option<Member>; N]>,
}

#[derive(Clone, Copy, Debug)]
struct Member(NonNull<dyn Shrink>);

// SAFETY: `Shrink` is `Sync`, so a shared reference may be used anywhere; `register` was promised its validity.
unsafe impl Send for Member {}

/// All `N` places of a [`ShrinkList`] are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFull {
    /// How many shrinkers the list has room for.
    pub capacity: usize,
}

impl core::fmt::Display for ListFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "all {} places of the shrink list are taken", self.capacity)
    }
}

impl core::error::Error for ListFull {}

impl<const N: usize> ShrinkList<N> {
    crate::const_unless_loom! {
        /// Makes an empty list.
        pub fn new() -> Self {
            Self { members: Lock::new([None; N]) }
        }
    }

    /// Adds `shrinker`.
    ///
    /// # Errors
    /// [`ListFull`] when all `N` places are taken.
    ///
    /// # Safety
    /// 1. `shrinker` is valid for shared use until the list is dropped or the shrinker is taken out with
    ///    [`unregister`](Self::unregister).
    pub unsafe fn register(&self, shrinker: NonNull<dyn Shrink + '_>) -> Result<(), ListFull> {
        // SAFETY: only the lifetime changes, which clause 1 stands for.
        let shrinker = unsafe {
            core::mem::transmute::<NonNull<dyn Shrink + '_>, NonNull<dyn Shrink>>(shrinker)
        };
        let mut members = self.members.lock();
        let place = members.iter_mut().find(|place| place.is_none());
        *place.ok_or(ListFull { capacity: N })? = Some(Member(shrinker));
        Ok(())
    }

    /// Takes `shrinker` out again; whether it was there. Afterwards it is not in use by this list.
    pub fn unregister(&self, shrinker: NonNull<dyn Shrink + '_>) -> bool {
        let mut members = self.members.lock();
        let is_it = |member: &Member| core::ptr::addr_eq(member.0.as_ptr(), shrinker.as_ptr());
        let place = members.iter_mut().find(|place| place.as_ref().is_some_and(is_it));
        place.is_some_and(|place| place.take().is_some())
    }

    fn member(&self, index: usize) -> Option<NonNull<dyn Shrink>> {
        self.members.try_lock().and_then(|members| members[index]).map(|member| member.0)
    }
}

impl<const N: usize> Default for ShrinkList<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Shrink for ShrinkList<N> {
    fn reclaimable(&self) -> usize {
        let members = (0..N).filter_map(|index| self.member(index));
        // SAFETY: `register`'s clause 1: valid while it is on the list.
        members.map(|member| unsafe { member.as_ref() }.reclaimable()).sum()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        let mut given = 0;
        for member in (0..N).filter_map(|index| self.member(index)) {
            if given >= target_pages {
                break;
            }
            // SAFETY: `register`'s clause 1. The list's lock is not held: shrinkers call into page sources.
            given += unsafe { member.as_ref() }.shrink(target_pages - given);
        }
        given
    }
}

/// A page source that, when the one below has run out, lets a shrinker give pages back and tries once more.
///
/// Nobody else retries. No lock of ours is held meanwhile.
///
/// ```
/// use page_frame::{Arena, Order, PageSource, Reclaiming, Shrink};
/// struct Nothing;
/// impl Shrink for Nothing {
///     fn reclaimable(&self) -> usize { 0 }
///     fn shrink(&self, _: usize) -> usize { 0 }
/// }
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// let source = Reclaiming::new(Arena::new(&mut memory)?, Nothing);
/// assert!(source.allocate(Order::MAX).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Reclaiming<P, S> {
    source: P,
    shrinker: S,
}

impl<P, S> Reclaiming<P, S> {
    /// Puts `shrinker` between the callers and `source`.
    pub const fn new(source: P, shrinker: S) -> Self {
        Self { source, shrinker }
    }

    /// Returns the source below.
    pub const fn source(&self) -> &P {
        &self.source
    }

    /// Returns the shrinker.
    pub const fn shrinker(&self) -> &S {
        &self.shrinker
    }
}

// SAFETY: blocks come from and go to the source below unchanged.
unsafe impl<P: PageSource, S: Shrink> PageSource for Reclaiming<P, S> {
    #[inline]
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.source.allocate(order).or_else(|_| {
            self.shrinker.shrink(order.pages());
            self.source.allocate(order)
        })
    }

    #[inline]
    fn try_allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.source.try_allocate(order)
    }

    #[inline]
    unsafe fn free(&self, block: PageBlock) {
        // SAFETY: the block is one of the source below: asking shrinkers changes no block.
        unsafe { self.source.free(block) }
    }
}

crate::page_map::forward_page_map!(impl[P: PageMap, S] for Reclaiming<P, S>, |this| this.source);

// SAFETY: runs come from and go to the source below unchanged.
unsafe impl<P: PageResize, S: Shrink> PageResize for Reclaiming<P, S> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.source.allocate_run(pages, alignment).or_else(|_| {
            self.shrinker.shrink(pages);
            self.source.allocate_run(pages, alignment)
        })
    }

    fn try_allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.source.try_allocate_run(pages, alignment)
    }

    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the run is one of the source below: asking shrinkers changes no block.
        unsafe { self.source.free_run(start, pages) }
    }

    unsafe fn move_content(&self, from: NonNull<u8>, to: NonNull<u8>, pages: usize) -> bool {
        // SAFETY: both runs are of the source below: asking shrinkers changes no block.
        unsafe { self.source.move_content(from, to, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        // SAFETY: a run of the source below, of so many pages: asking shrinkers changes no block.
        unsafe { self.source.resize_run(start, pages, new_pages) }
    }
}
