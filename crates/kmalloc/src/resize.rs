//! The size of an allocation: checking it, and changing it, in place where its class or its run
//! allows that, otherwise by moving.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{Fault, FaultKind, OutOfMemory, PAGE_SHIFT, PageResize};
use slab::{Hardening, System};

use crate::class::ClassIndex;
use crate::kmalloc::Kmalloc;
use crate::large::{LargeRuns, pages_for};

/// From this size on content is moved by mapping its pages elsewhere, where the page source can: a
/// guess. A remapped page costs its entries in the CPU's translation caches, a copied one two
/// passes over it.
const REMAPPED_BYTES: usize = 1 << 20;

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Returns the usable size of the allocation at `start`, after the checks of
    /// [`Cache::check`](slab::Cache::check). O(1), no lock.
    ///
    /// ```
    /// # use kmalloc::Kmalloc;
    /// # use page_frame::{Arena, FaultKind, SingleCpu};
    /// # use slab::{Hardened, Registry};
    /// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// let registry = Registry::new(&arena, SingleCpu::new())?;
    /// let kmalloc = Kmalloc::<_, Hardened>::with_hardening(registry);
    /// let start = kmalloc.kmalloc(20)?;
    /// assert_eq!(kmalloc.check(start).map_err(|fault| fault.to_string())?, 32);
    /// let hundred = core::alloc::Layout::new::<[u8; 100]>();
    /// assert_eq!(kmalloc.check_layout(start, hundred).unwrap_err().kind.name(), "WrongSize");
    /// // SAFETY: clause 1: allocated above, and not used any more.
    /// unsafe { kmalloc.kfree(Some(start)) };
    /// // SAFETY: clause 1: there is no other thread.
    /// assert_eq!(unsafe { kmalloc.check_free_objects() }, 0); // nothing wrote to `start`
    /// assert_eq!(kmalloc.check(start).unwrap_err().kind, FaultKind::DoubleFree);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that a free of `start` would be.
    #[track_caller]
    pub fn check(&self, start: NonNull<u8>) -> Result<usize, Fault> {
        let class = self.class_at(start);
        if let Some(cache) = class.and_then(|class| self.caches.get(class)) {
            cache.check(start)?;
        }
        match self.usable_size_in(class, start) {
            Some(bytes) => Ok(bytes),
            None => Err(Fault::at_address(self.misuse_at(start.addr().get()), start.addr().get())),
        }
    }

    /// Checks the allocation at `start` as [`check`](Self::check) does, and that an allocation for
    /// `layout` has the same usable size. Example: see [`Kmalloc::check`].
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`FaultKind::WrongSize`].
    #[track_caller]
    pub fn check_layout(&self, start: NonNull<u8>, layout: Layout) -> Result<(), Fault> {
        let allocated = self.check(start)?;
        let given = match ClassIndex::for_layout(layout) {
            Some(class) => class.size(),
            None => pages_for(layout.size()) << PAGE_SHIFT,
        };
        if allocated == given {
            return Ok(());
        }
        Err(Fault::at_address(FaultKind::WrongSize { allocated, given }, start.addr().get()))
    }

    /// Changes the size of an allocation to `new_bytes`, keeping its alignment and the content that
    /// both sizes have.
    ///
    /// Within a class nothing moves. A large allocation grows into free pages behind it and gives
    /// its tail back, where the page source can. Otherwise it is copied to a new place: O(bytes). A
    /// large one that grows is moved to where there are free pages behind it, if there is such a
    /// place, as what has grown once will grow again. Example: see [`Kmalloc`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no room, or `new_bytes` rounded up to the alignment exceeds
    /// `isize::MAX`; the allocation is then as it was.
    ///
    /// # Safety
    /// 1. `start` came from this allocator for `layout` and has not been freed since.
    /// 2. Unless it fails, the address returned is used from now on, and `start` no longer.
    pub unsafe fn reallocate(
        &self,
        start: NonNull<u8>,
        layout: Layout,
        new_bytes: usize,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let new = Layout::from_size_align(new_bytes, layout.align())?;
        // SAFETY: the caller's clauses: the layout leads to the class that it was allocated from.
        unsafe { self.resize(start, ClassIndex::for_layout(layout), layout.size(), new) }
    }

    /// Makes the allocation at `start`, of `class` or large, of which `bytes` bytes are in use, one
    /// for the layout `new`.
    ///
    /// # Safety
    /// 1. As for [`reallocate`](Self::reallocate).
    pub(crate) unsafe fn resize(
        &self,
        start: NonNull<u8>,
        class: Option<ClassIndex>,
        bytes: usize,
        new: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let (source, new_class) = (self.source(), ClassIndex::for_layout(new));
        let stays = match (class, new_class) {
            (Some(old), Some(new)) => old == new,
            // SAFETY: clause 1: without a class it is large, and what is behind the new size is
            // given up.
            (None, None) => unsafe { self.large.resize(source, start, new.size()) },
            _ => false,
        };
        if stays {
            return Ok(start);
        }
        let moved = match new_class {
            Some(class) => self.allocate_in(class)?,
            None if new.size() > bytes => self.large.allocate_with_room(source, new)?,
            None => self.large.allocate(source, new)?.start(),
        };
        let kept = bytes.min(new.size());
        // SAFETY: clause 1: both are large allocations of the caller's, of at least `kept` bytes.
        let is_remapped = class.is_none()
            && kept >= REMAPPED_BYTES
            && unsafe { LargeRuns::remap(source, start, moved, kept) };
        if !is_remapped {
            // SAFETY: both have `kept` bytes, and one was just allocated, so they do not overlap.
            unsafe { moved.copy_from_nonoverlapping(start, kept) };
        }
        // SAFETY: clause 1: the content has been moved out, and the caller gives the allocation up.
        unsafe { self.free_in(class, start) };
        Ok(moved)
    }
}
