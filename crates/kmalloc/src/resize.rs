//! The size of an allocation: how many bytes may be used, checks of it, and its change, in place
//! where the class, the run or the granules allow that, otherwise by moving.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{Fault, FaultKind, OutOfMemory, PAGE_SHIFT, PageResize};
use slab::{Hardening, System};

use crate::class::ClassIndex;
use crate::kmalloc::Kmalloc;
use crate::large::{LargeRuns, pages_for};
use crate::mixed::is_checked;

/// From this size on content is moved by mapping its pages elsewhere, where the page source can: a
/// guess. A remapped page costs its entries in the CPU's translation caches, a copied one two
/// passes over it.
const REMAPPED_BYTES: usize = 1 << 20;

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Returns the usable size of the allocation at `start`, after the checks of
    /// [`Cache::check`](slab::Cache::check). Any address is allowed. O(slabs), takes locks.
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
        let bytes = self.usable_size_in(class, start);
        bytes.ok_or_else(|| self.caches.misuse_of(start))
    }

    /// Checks the allocation at `start` as [`check`](Self::check) does, and that an allocation for
    /// `layout` has the same usable size. Example: see [`Kmalloc::check`].
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`FaultKind::WrongSize`].
    #[track_caller]
    pub fn check_layout(&self, start: NonNull<u8>, layout: Layout) -> Result<(), Fault> {
        let allocated = self.check(start)?;
        self.compare(start, allocated, layout)
    }

    /// Returns the usable size of an allocation of the caller's, after the checks of
    /// [`Cache::check_owned`](slab::Cache::check_owned): of these, [`check`](Self::check) makes no
    /// search for writes beyond the allocation. O(1), no lock, but as [`usable_size`].
    ///
    /// ```
    /// # use kmalloc::Kmalloc;
    /// # use page_frame::{Arena, SingleCpu};
    /// # use slab::{Debugging, Registry};
    /// # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// let registry = Registry::new(&arena, SingleCpu::new())?;
    /// let kmalloc = Kmalloc::<_, Debugging>::with_hardening(registry);
    /// let start = kmalloc.kmalloc(100)?;
    /// // SAFETY: clauses 1 and 2: allocated above; there is no other thread.
    /// assert_eq!(unsafe { kmalloc.check_owned(start) }.ok(), Some(100));
    /// let layout = core::alloc::Layout::from_size_align(100, 16)?;
    /// // SAFETY: as above.
    /// unsafe { kmalloc.check_layout_owned(start, layout) }.map_err(|fault| fault.to_string())?;
    /// // SAFETY: the bug shown. The class has that byte.
    /// unsafe { start.add(100).write(1) };
    /// // SAFETY: as above.
    /// let fault = unsafe { kmalloc.check_owned(start) }.unwrap_err();
    /// assert!(fault.to_string().contains("offset 100 of 100 bytes asked for"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that a free of `start` would be.
    ///
    /// # Safety
    /// 1. As clause 1 of [`free`](Self::free). Where that is a mistake, the check finds it as a
    ///    free does.
    /// 2. No other code allocates, frees, resizes or checks the allocation meanwhile.
    ///
    /// [`usable_size`]: Self::usable_size
    #[track_caller]
    pub unsafe fn check_owned(&self, start: NonNull<u8>) -> Result<usize, Fault> {
        let class = self.class_at(start);
        if let Some(cache) = class.and_then(|class| self.caches.get(class)) {
            // SAFETY: clauses 1 and 2.
            unsafe { cache.check_owned(start)? };
        }
        // SAFETY: clause 1.
        let bytes = unsafe { self.usable_size_owned(class, start) };
        bytes.ok_or_else(|| self.caches.misuse_of(start))
    }

    /// Checks an allocation of the caller's as [`check_owned`](Self::check_owned) does, and its
    /// size as [`check_layout`](Self::check_layout) does. Example: see [`Kmalloc::check_owned`].
    ///
    /// # Errors
    /// Those of [`check_layout`](Self::check_layout).
    ///
    /// # Safety
    /// 1. As for [`check_owned`](Self::check_owned).
    /// 2. As for [`check_owned`](Self::check_owned).
    #[track_caller]
    pub unsafe fn check_layout_owned(
        &self,
        start: NonNull<u8>,
        layout: Layout,
    ) -> Result<(), Fault> {
        // SAFETY: clauses 1 and 2.
        let allocated = unsafe { self.check_owned(start)? };
        self.compare(start, allocated, layout)
    }

    /// Compares the usable size `allocated` of an allocation with that of one for `layout`.
    #[track_caller]
    fn compare(&self, start: NonNull<u8>, allocated: usize, layout: Layout) -> Result<(), Fault> {
        let given = match ClassIndex::for_layout(layout) {
            _ if self.caches.bytes_at(start).is_some() => layout.size().max(1).next_multiple_of(16),
            Some(_) if K::REQUESTED_SIZE => layout.size().max(1),
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
    #[inline]
    pub unsafe fn reallocate(
        &self,
        start: NonNull<u8>,
        layout: Layout,
        new_bytes: usize,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let new = Layout::from_size_align(new_bytes, layout.align())?;
        let classes = (
            ClassIndex::fitting(layout.size(), layout.align()),
            ClassIndex::fitting(new.size(), new.align()),
        );
        if let (false, (Some(class), Some(new_class))) = (is_checked::<K>(), classes) {
            if self.caches.get_pure(class).is_some() {
                let bytes = layout.size().min(new_bytes);
                let allocate = || self.allocate_in_class(new_class, new);
                // SAFETY: clause 1: the class is pure, so it is an object of its cache. Clause 2:
                // at most the new size.
                let resize = || unsafe { self.move_object(start, class, bytes, allocate) };
                return if class == new_class { Ok(start) } else { resize() };
            }
        }
        // SAFETY: the caller's clauses: the layout leads to the class that it was allocated from.
        unsafe { self.resize(start, ClassIndex::for_layout(layout), layout.size(), new) }
    }

    /// Moves the first `bytes` bytes of the object of `class` at `start`, or all that it has, to
    /// what `allocate` allocates, and frees the object.
    ///
    /// # Errors
    /// That of `allocate`; the object is then as it was.
    ///
    /// # Safety
    /// 1. `start` is an object of the cache of `class`, which the caller owns, and which the
    ///    caller gives up unless this fails.
    /// 2. `allocate` allocates at least `bytes` bytes.
    #[inline(never)]
    pub(crate) unsafe fn move_object(
        &self,
        start: NonNull<u8>,
        class: ClassIndex,
        bytes: usize,
        allocate: impl FnOnce() -> Result<NonNull<u8>, OutOfMemory>,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let moved = allocate()?;
        // SAFETY: both have as many bytes (clauses 1 and 2). One was just allocated, so they do not
        // overlap.
        unsafe { moved.copy_from_nonoverlapping(start, bytes.min(class.size())) };
        // SAFETY: clause 1 of `free_object`: clause 1.
        unsafe { self.free_object(class, start) };
        Ok(moved)
    }

    /// Makes the allocation at `start`, of `class` or large, of which `bytes` bytes are in use, one
    /// for the layout `new`.
    ///
    /// # Safety
    /// 1. As for [`reallocate`](Self::reallocate).
    #[inline(never)]
    pub(crate) unsafe fn resize(
        &self,
        start: NonNull<u8>,
        class: Option<ClassIndex>,
        bytes: usize,
        new: Layout,
    ) -> Result<NonNull<u8>, OutOfMemory> {
        let (source, new_class) = (self.source(), ClassIndex::for_layout(new));
        // Memory of a class that is not pure may be bytes.
        let class = match class {
            Some(class) if self.caches.get_pure(class).is_some() => Some(class),
            Some(_) => self.class_at(start),
            None => None,
        };
        let stays = match (class, new_class) {
            (Some(old), Some(new_class)) => {
                // SAFETY: clause 1 of `resize_in_class`: clause 1.
                old == new_class && unsafe { self.caches.resize_in_class(old, start, new.size()) }
            }
            // SAFETY: clause 1: without a class it is large or bytes, and what is behind the new
            // size is given up.
            (None, _) => unsafe { self.resize_without_class(start, new) },
            _ => false,
        };
        if stays {
            return Ok(start);
        }
        let moved = match new_class {
            Some(class) => self.allocate_in_class(class, new)?,
            None if new.size() > bytes => match self.large.allocate_with_room(source, new) {
                Ok(start) => start,
                Err(OutOfMemory) => self.caches.retry_large(&self.large, new)?,
            },
            None => self.caches.allocate_large(&self.large, new)?,
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
        match class.and_then(|class| self.caches.get(class)) {
            // SAFETY: clauses 1 and 2: an object of the class's cache, whose content has been moved
            // out, and which the caller gives up.
            Some(cache) => unsafe { cache.free(start) },
            // SAFETY: clauses 1 and 2: no object of a class, and as above.
            None => unsafe { self.caches.free_without_class(&self.large, start) },
        }
        Ok(moved)
    }

    /// Changes the size of a run of pages or of bytes to that of `new`, without moving them.
    /// Returns whether that succeeded.
    ///
    /// # Safety
    /// 1. The caller owns what is at `start`, no object of a class, and no code uses a tail that is
    ///    given up.
    unsafe fn resize_without_class(&self, start: NonNull<u8>, new: Layout) -> bool {
        if LargeRuns::pages_at(self.source(), start.addr().get()).is_some() {
            let is_large = ClassIndex::for_layout(new).is_none();
            // SAFETY: clause 1: a run of pages starts here.
            return is_large && unsafe { self.large.resize(self.source(), start, new.size()) };
        }
        // SAFETY: clause 1.
        unsafe { self.caches.resize_bytes(start, new) }
    }

    /// Returns how many bytes at `start` may be used, at least as many as were asked for; `None`
    /// for an address at which no allocation of this allocator starts, as far as the page map
    /// shows. O(1), no lock. For memory of an arena that serves bytes it takes the arena's lock and
    /// counts the granules of the allocation: O(size).
    ///
    /// Under a preset that keeps the [requested size](Hardening::REQUESTED_SIZE), these are the
    /// bytes that were asked for, at least one: a write behind them is a fault at the free. If
    /// [`check`](Self::check) finds a fault, they are the bytes of the class. This costs what
    /// [`check`](Self::check) does.
    ///
    /// Does not read the memory at `start`, so any address is allowed. The result for memory that
    /// is freed meanwhile is out of date. Example: see [`Kmalloc`].
    pub fn usable_size(&self, start: NonNull<u8>) -> Option<usize> {
        self.usable_size_in(self.class_at(start), start)
    }

    /// Returns [`usable_size`](Self::usable_size) of an address whose class is `class`.
    pub(crate) fn usable_size_in(
        &self,
        class: Option<ClassIndex>,
        start: NonNull<u8>,
    ) -> Option<usize> {
        match class {
            Some(class) => Some(self.caches.usable_size_of(class, start)),
            None => {
                let pages = LargeRuns::pages_at(self.source(), start.addr().get());
                pages.map(|pages| pages << PAGE_SHIFT).or_else(|| self.caches.bytes_at(start))
            }
        }
    }

    /// Returns [`usable_size_in`](Self::usable_size_in) without a lock.
    ///
    /// # Safety
    /// 1. The caller owns what is at `start`, an allocation of this allocator.
    pub(crate) unsafe fn usable_size_owned(
        &self,
        class: Option<ClassIndex>,
        start: NonNull<u8>,
    ) -> Option<usize> {
        match class {
            // SAFETY: clause 1: an object of the class in whose slab it lies.
            Some(class) => Some(unsafe { self.caches.usable_size_owned(class, start) }),
            None => self.usable_size_in(None, start),
        }
    }

    /// Returns the bytes that may be used of memory that was just allocated for `class`.
    pub(crate) fn bytes_in(&self, class: ClassIndex, start: NonNull<u8>) -> usize {
        match self.caches.get_pure(class) {
            // SAFETY: clause 1: the caller has just allocated it.
            Some(_) => unsafe { self.caches.usable_size_owned(class, start) },
            None => self.usable_size(start).expect("it was just allocated"),
        }
    }
}
