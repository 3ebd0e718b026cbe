//! Forwards [`PageMap`] to an inner value: for adapters and page sources that embed a page map.

use core::ptr::NonNull;

use crate::order::Order;
use crate::page_map::map::{PageMap, TagRange};
use crate::page_map::tag::Tag;

/// A type that implements [`PageMap`] by the page map of another value: one method instead of
/// seven.
///
/// ```
/// use page_frame::{Arena, ForwardPageMap, PageMap};
/// struct Adapter<'a>(Arena<'a>);
/// // SAFETY: clause 1: always the map of the field, which lives in the adapter.
/// unsafe impl ForwardPageMap for Adapter<'_> {
///     fn page_map(&self) -> &impl PageMap {
///         &self.0
///     }
/// }
/// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 64 * 1024];
/// assert!(!Adapter(Arena::new(&mut memory)?).tag(0).is_slab());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A crate that forbids unsafe code cannot implement it:
///
/// ```compile_fail,E0200
/// use page_frame::{Arena, ForwardPageMap, PageMap};
/// struct Adapter<'a>(Arena<'a>);
/// impl ForwardPageMap for Adapter<'_> {
///     fn page_map(&self) -> &impl PageMap {
///         &self.0
///     }
/// }
/// ```
///
/// The map's own type stays hidden, so that no caller reaches its safe setters through this method:
///
/// ```compile_fail,E0599
/// use page_frame::{ForwardPageMap, PageMapArray, Tag};
/// fn spoil(pages: impl ForwardPageMap) {
///     pages.page_map().set_tag(0, Tag::SLAB);
/// }
/// ```
///
/// # Safety
/// 1. `page_map` returns the same map each time, which lives and stays where it is as long as the
///    value.
pub unsafe trait ForwardPageMap {
    /// Returns the map to which this value forwards. Write the return type as here, so that the
    /// map's own type stays hidden. Example: see [`ForwardPageMap`].
    fn page_map(&self) -> &impl PageMap;
}

// SAFETY: clause 1: always the referenced map, which outlives the reference.
unsafe impl<P: PageMap> ForwardPageMap for &P {
    #[inline(always)]
    fn page_map(&self) -> &impl PageMap {
        *self
    }
}

// SAFETY: each method calls the one map that clause 1 of `ForwardPageMap` promises, which fulfils
// the clauses of `PageMap`.
unsafe impl<T: ForwardPageMap> PageMap for T {
    #[inline(always)]
    fn tag(&self, address: usize) -> Tag {
        self.page_map().tag(address)
    }

    #[inline(always)]
    fn tag_range(&self) -> TagRange {
        self.page_map().tag_range()
    }

    #[inline(always)]
    fn owner(&self, address: usize) -> *mut () {
        self.page_map().owner(address)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        // SAFETY: the clauses of `set_owner` are the same for the inner map.
        unsafe { self.page_map().set_owner(start, pages, tag, owner) }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: the clauses of `clear_owner` are the same for the inner map.
        unsafe { self.page_map().clear_owner(start, order) }
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        // SAFETY: the clauses of `set_run` are the same for the inner map.
        unsafe { self.page_map().set_run(start, pages) }
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        // SAFETY: the clauses of `clear_run` are the same for the inner map.
        unsafe { self.page_map().clear_run(start, order) }
    }

    #[inline(always)]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        self.page_map().pointer(address)
    }

    #[inline(always)]
    fn run_pages(&self, address: usize) -> Option<usize> {
        self.page_map().run_pages(address)
    }
}
