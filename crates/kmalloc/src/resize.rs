//! The size of an allocation: its usable size, checks of it, and resizing. An allocation is resized
//! in place where its class, its run of pages or its byte source allows that, and moved otherwise.

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{Fault, FaultKind, OutOfMemory, PAGE_SHIFT, PageResize};
use slab::{Hardening, System};

use crate::classes::class::ClassIndex;
use crate::kmalloc::Kmalloc;
use crate::large::{LargeRuns, pages_for};
use crate::mixed::is_checked;

/// The smallest content in bytes that is moved by mapping its pages elsewhere, if the page source
/// can, instead of copying it: a guess. Remapping a page costs its entries in the CPU's translation
/// caches; copying it costs two passes over its bytes.
const REMAPPED_BYTES: usize = 1 << 20;
/// The step of sizes of byte sources in bytes ([`ByteSource`](page_frame::ByteSource)).
const BYTE_STEP: usize = 16;

impl<S: System<Pages: PageResize>, K: Hardening> Kmalloc<S, K> {
    /// Checks the allocation at `start` as [`Cache::check`](slab::Cache::check) does; returns its
    /// usable size. Any address is allowed. O(slabs), takes locks.
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

    /// Checks the allocation at `start` as [`check`](Self::check) does, and compares its usable
    /// size with that of an allocation for `layout`. Example: see [`Kmalloc::check`].
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`FaultKind::WrongSize`] if the sizes differ.
    #[track_caller]
    pub fn check_layout(&self, start: NonNull<u8>, layout: Layout) -> Result<(), Fault> {
        let allocated = self.check(start)?;
        self.compare(start, allocated, layout)
    }

    /// Checks an allocation that the caller owns as
    /// [`Cache::check_owned`](slab::Cache::check_owned) does; returns its usable size. Unlike
    /// [`check`](Self::check) it also looks for writes beyond the allocation. O(1), no lock; memory
    /// of an arena that serves bytes costs what [`usable_size`] says.
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
            // SAFETY: clauses 1 and 2 of `Cache::check_owned`: clauses 1 and 2.
            unsafe { cache.check_owned(start)? };
        }
        // SAFETY: clause 1 of `usable_size_owned`: clause 1.
        let bytes = unsafe { self.usable_size_owned(class, start) };
        bytes.ok_or_else(|| self.caches.misuse_of(start))
    }

    /// Checks an allocation that the caller owns as [`check_owned`](Self::check_owned) does, and
    /// its size as [`check_layout`](Self::check_layout) does. Example: see
    /// [`Kmalloc::check_owned`].
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
        // SAFETY: clauses 1 and 2 of `check_owned`: clauses 1 and 2.
        let allocated = unsafe { self.check_owned(start)? };
        self.compare(start, allocated, layout)
    }

    /// Compares `allocated`, the usable size of the allocation at `start`, with that of an
    /// allocation for `layout`.
    #[track_caller]
    fn compare(&self, start: NonNull<u8>, allocated: usize, layout: Layout) -> Result<(), Fault> {
        let given = match ClassIndex::for_layout(layout) {
            _ if self.caches.bytes_at(start).is_some() => {
                layout.size().max(1).next_multiple_of(BYTE_STEP)
            }
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
    /// An allocation stays in place if both sizes have the same class. A large one grows into the
    /// free pages after it, and shrinks by freeing its tail, if the page source can do that. Every
    /// other allocation is copied to a new place: O(bytes). A large one that grows is moved to a
    /// place with free pages after it, if there is one, as it will probably grow again.
    /// Example: see [`Kmalloc`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no room, or `new_bytes` rounded up to the alignment exceeds
    /// `isize::MAX`; the allocation is then as it was.
    ///
    /// # Safety
    /// 1. `start` came from this allocator for `layout` and has not been freed since.
    /// 2. Unless this fails, no code uses `start` from now on, but the address returned.
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
                // SAFETY: clause 1: all memory of a pure class is of its cache, and by the caller's
                // clauses the caller owns the object and gives it up. Clause 2: `bytes` is at most
                // the new size.
                let resize = || unsafe { self.move_object(start, class, bytes, allocate) };
                return if class == new_class { Ok(start) } else { resize() };
            }
        }
        // SAFETY: clause 1: the caller's clauses, and by clause 1 `start` was allocated for the
        // layout's class.
        unsafe { self.resize(start, ClassIndex::for_layout(layout), layout.size(), new) }
    }

    /// Moves the content of the object of `class` at `start` to memory from `allocate`, and frees
    /// the object. Copies `bytes` bytes, or the whole object if it is smaller.
    ///
    /// # Errors
    /// The error of `allocate`. The object then stays as it is.
    ///
    /// # Safety
    /// 1. `start` is an object of the cache of `class` that the caller owns, and gives up unless
    ///    this fails.
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
        // SAFETY: the object has `class.size()` bytes (clause 1), and the new memory has `bytes`
        // bytes (clause 2). They do not overlap, as one was just allocated.
        unsafe { moved.copy_from_nonoverlapping(start, bytes.min(class.size())) };
        // SAFETY: clause 1 of `free_object`: clause 1.
        unsafe { self.free_object(class, start) };
        Ok(moved)
    }

    /// Changes the allocation at `start` to one for the layout `new`: in place if that is possible,
    /// otherwise by moving its content. The allocation was made for `class`, or without one, and
    /// `bytes` of its bytes are in use.
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
        // Memory of a class that is not pure may be bytes of the source: the page map decides.
        let class = match class {
            Some(class) if self.caches.get_pure(class).is_some() => Some(class),
            Some(_) => self.class_at(start),
            None => None,
        };
        let stays = match (class, new_class) {
            (Some(old), Some(new_class)) => {
                // SAFETY: clause 1 of `resize_in_class`: by clause 1 the caller owns the
                // allocation.
                old == new_class && unsafe { self.caches.resize_in_class(old, start, new.size()) }
            }
            // SAFETY: clause 1 of `resize_without_class`: without a class it is a run of pages or
            // bytes of the source. By clause 1 the caller owns it and gives up what it returns.
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
        // SAFETY: clause 1 of `remap`: the caller owns both; the old one has no class, and `remap`
        // checks that both are runs of pages. Each has at least `kept` bytes.
        let is_remapped = class.is_none()
            && kept >= REMAPPED_BYTES
            && unsafe { LargeRuns::remap(source, start, moved, kept) };
        if !is_remapped {
            // SAFETY: both have `kept` bytes, and one was just allocated, so they do not overlap.
            unsafe { moved.copy_from_nonoverlapping(start, kept) };
        }
        match class.and_then(|class| self.caches.get(class)) {
            // SAFETY: clauses 1 and 2 of `free`: an object of the class's cache, which the caller
            // gives up, as its content has been moved. Clause 3: caches of classes have no hooks.
            Some(cache) => unsafe { cache.free(start) },
            // SAFETY: clause 1 of `free_without_class`: no object of a class. Clause 2: the caller
            // gives the allocation up, as its content has been moved.
            None => unsafe { self.caches.free_without_class(&self.large, start) },
        }
        Ok(moved)
    }

    /// Changes the size of a run of pages, or of bytes of the source, to that of `new` in place.
    /// Returns whether that succeeded.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, which is no object of a class. If the new size
    ///    is smaller, no code uses the bytes after it.
    unsafe fn resize_without_class(&self, start: NonNull<u8>, new: Layout) -> bool {
        if LargeRuns::pages_at(self.source(), start.addr().get()).is_some() {
            let is_large = ClassIndex::for_layout(new).is_none();
            // SAFETY: clause 1 of `LargeRuns::resize`: a run of pages starts here, and clause 1.
            return is_large && unsafe { self.large.resize(self.source(), start, new.size()) };
        }
        // SAFETY: clause 1 of `resize_bytes`: clause 1.
        unsafe { self.caches.resize_bytes(start, new) }
    }

    /// Returns how many bytes of the allocation at `start` its owner may use: at least as many as
    /// it asked for. `None` if no allocation of this allocator starts there, as far as the page map
    /// shows. O(1), no lock. For memory of an arena that serves bytes, this takes the arena's lock
    /// and counts the granules of the allocation: O(size).
    ///
    /// Under a preset that records the [requested size](Hardening::REQUESTED_SIZE), the result is
    /// the requested size, at least one: a write beyond it is a fault when the memory is freed. If
    /// [`check`](Self::check) finds a fault, the result is the size of the class. Under such a
    /// preset this costs what [`check`](Self::check) does.
    ///
    /// This does not read the memory at `start`, so any address is allowed. If another CPU frees
    /// the memory meanwhile, the result is out of date. Example: see [`Kmalloc`].
    pub fn usable_size(&self, start: NonNull<u8>) -> Option<usize> {
        self.usable_size_in(self.class_at(start), start)
    }

    /// Returns what [`usable_size`](Self::usable_size) does for an address whose class is `class`.
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

    /// Returns what [`usable_size_in`](Self::usable_size_in) does, for objects without a lock.
    ///
    /// # Safety
    /// 1. The caller owns the allocation at `start`, which is one of this allocator.
    pub(crate) unsafe fn usable_size_owned(
        &self,
        class: Option<ClassIndex>,
        start: NonNull<u8>,
    ) -> Option<usize> {
        match class {
            // SAFETY: clause 1 of `ClassCaches::usable_size_owned`: clause 1.
            Some(class) => Some(unsafe { self.caches.usable_size_owned(class, start) }),
            None => self.usable_size_in(None, start),
        }
    }

    /// Returns the usable size in bytes of memory that the caller has just allocated for `class`.
    pub(crate) fn bytes_in(&self, class: ClassIndex, start: NonNull<u8>) -> usize {
        match self.caches.get_pure(class) {
            // SAFETY: clause 1: the caller has just allocated it.
            Some(_) => unsafe { self.caches.usable_size_owned(class, start) },
            None => self.usable_size(start).expect("it was just allocated"),
        }
    }
}
