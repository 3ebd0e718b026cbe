//! A [`Kmalloc`] in a static: made once, then shared, and the methods of `GlobalAlloc` over it.
//!
//! [`Global`](crate::Global) makes the allocator at the first request, by a function of the user.
//! [`Heap`](crate::Heap) makes it over the first memory region.

use core::alloc::Layout;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use page_frame::sync::{AtomicU8, Ordering, UnsafeCell, spin_hint};
use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, System};

use crate::class::ClassIndex;
use crate::kmalloc::Kmalloc;

/// The allocator has not been made, or making it failed.
const UNTOUCHED: u8 = 0;
/// A caller makes it; others wait.
const STARTING: u8 = 1;
/// The allocator is there, and stays.
const READY: u8 = 2;

/// An allocator that is made once.
pub(crate) struct KmallocCell<S: System<Pages: PageResize>, K: Hardening> {
    state: AtomicU8,
    kmalloc: UnsafeCell<MaybeUninit<Kmalloc<S, K>>>,
}

// SAFETY: `kmalloc` is written once, by the CPU that changed `state` from untouched to starting,
// and from then on only shared. The page source and the CPUs are made on whichever CPU that is.
unsafe impl<S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>, K: Hardening> Sync
    for KmallocCell<S, K>
{
}

impl<S: System<Pages: PageResize>, K: Hardening> KmallocCell<S, K> {
    page_frame::const_unless_loom! {
        /// Makes a cell without an allocator.
        pub(crate) fn new() -> Self {
            let kmalloc = UnsafeCell::new(MaybeUninit::uninit());
            Self { state: AtomicU8::new(UNTOUCHED), kmalloc }
        }
    }

    /// Returns the allocator if it has been made. One load.
    #[inline(always)]
    pub(crate) fn get(&self) -> Option<&Kmalloc<S, K>> {
        // Acquire: pairs with the Release in `make_by`; sees the allocator as it was made.
        let is_ready = self.state.load(Ordering::Acquire) == READY;
        // SAFETY: clause 1 of `assume_ready`: the state is ready.
        is_ready.then(|| unsafe { self.assume_ready() })
    }

    /// # Safety
    /// 1. `state` was seen to be ready, by the caller or by the caller that passed memory of this
    ///    allocator.
    #[inline(always)]
    unsafe fn assume_ready(&self) -> &Kmalloc<S, K> {
        let kmalloc = self.kmalloc.with(|kmalloc| kmalloc);
        // SAFETY: clause 1: written before, and never again.
        let kmalloc = unsafe { &*kmalloc };
        // SAFETY: clause 1: initialised.
        unsafe { kmalloc.assume_init_ref() }
    }

    /// Makes the allocator by `make`, unless it is there. Spins while another caller makes it.
    /// Returns it, and whether this call made it.
    ///
    /// # Errors
    /// Those of `make`. The next call tries again.
    #[cold]
    pub(crate) fn make_by<E>(
        &self,
        make: impl FnOnce() -> Result<Kmalloc<S, K>, E>,
    ) -> Result<(&Kmalloc<S, K>, bool), E> {
        loop {
            let (old, new) = (UNTOUCHED, STARTING);
            // Acquire: as in `get`, when another caller has finished; otherwise the Release after a
            // failure.
            match self.state.compare_exchange(old, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break,
                // SAFETY: clause 1 of `assume_ready`: the state is ready.
                Err(READY) => return Ok((unsafe { self.assume_ready() }, false)),
                Err(_) => spin_hint(),
            }
        }
        let starting = Starting(&self.state);
        // On a failure or a panic `starting` resets the state.
        let made = make()?;
        core::mem::forget(starting);
        self.kmalloc.with_mut(|kmalloc| {
            // SAFETY: this call changed the state to starting, so no other code reads or writes
            // this.
            let kmalloc = unsafe { &mut *kmalloc };
            kmalloc.write(made);
        });
        // Release: pairs with the Acquire in `get`.
        self.state.store(READY, Ordering::Release);
        // SAFETY: clause 1 of `assume_ready`: stored above.
        Ok((unsafe { self.assume_ready() }, true))
    }
}

/// A caller that makes the allocator. Dropping it resets the state, when that fails or panics.
struct Starting<'g>(&'g AtomicU8);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of the exchange in `make_by`, whose caller tries again.
        self.0.store(UNTOUCHED, Ordering::Release);
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> Drop for KmallocCell<S, K> {
    /// Destroys the allocator if it was made. Statics are never dropped.
    fn drop(&mut self) {
        // Acquire: as in `get`.
        if self.state.load(Ordering::Acquire) == READY {
            self.kmalloc.with_mut(|kmalloc| {
                // SAFETY: `&mut self` proves exclusive use.
                let kmalloc = unsafe { &mut *kmalloc };
                // SAFETY: ready, so initialised; not used again.
                unsafe { kmalloc.assume_init_drop() };
            });
        }
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> fmt::Debug for KmallocCell<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A global allocator over a [`KmallocCell`]. The provided methods are those of `GlobalAlloc`.
///
/// They never unwind: a hit calls no code of the user, and all else runs under a [`NoUnwind`].
pub(crate) trait StaticKmalloc {
    type System: System<Pages: PageResize>;
    type Checks: Hardening;

    fn cell(&self) -> &KmallocCell<Self::System, Self::Checks>;

    /// Returns the allocator, and makes it if that is possible in a request.
    fn ready(&self) -> Result<&Kmalloc<Self::System, Self::Checks>, OutOfMemory>;

    #[inline(always)]
    fn alloc(&self, layout: Layout) -> *mut u8 {
        if let (Some(kmalloc), Some(class)) =
            (self.cell().get(), ClassIndex::fitting(layout.size(), layout.align()))
        {
            if let Some(start) = kmalloc.caches.allocate_hit(class) {
                return start.as_ptr();
            }
        }
        self.alloc_missed(layout)
    }

    /// Allocates after a miss, or before the allocator has been made.
    #[cold]
    #[inline(never)]
    fn alloc_missed(&self, layout: Layout) -> *mut u8 {
        if layout.size() == 0 {
            return dangling(layout);
        }
        let no_unwind = NoUnwind;
        let start = or_null(self.ready().and_then(|kmalloc| kmalloc.allocate_missed(layout)));
        core::mem::forget(no_unwind);
        start
    }

    #[inline(always)]
    fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let no_unwind = NoUnwind;
        let start = or_null(self.ready().and_then(|kmalloc| kmalloc.allocate_zeroed(layout)));
        core::mem::forget(no_unwind);
        start
    }

    /// # Safety
    /// 1. As for [`GlobalAlloc::dealloc`](core::alloc::GlobalAlloc::dealloc).
    #[inline(always)]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // First, as no memory is allocated for a layout without a size: such an address does not
        // even say that there is an allocator.
        if let Some(class) = ClassIndex::fitting(layout.size(), layout.align()) {
            // SAFETY: clause 1: memory of ours, and therefore ready when it was allocated.
            let kmalloc = unsafe { self.cell().assume_ready() };
            // SAFETY: clause 1: it came from `alloc`, and therefore not null.
            let object = unsafe { NonNull::new_unchecked(start) };
            // SAFETY: clause 1: allocated with this layout, so from its class, and not used any
            // more.
            if unsafe { kmalloc.caches.free_hit(class, object) } {
                return;
            }
        }
        // SAFETY: clause 1, and nothing has happened.
        unsafe { self.dealloc_missed(start, layout) };
    }

    /// Frees after a miss.
    ///
    /// # Safety
    /// 1. As for [`GlobalAlloc::dealloc`](core::alloc::GlobalAlloc::dealloc); or the layout has no
    ///    size.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_missed(&self, start: *mut u8, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        let no_unwind = NoUnwind;
        // SAFETY: clause 1: memory of ours, and therefore ready when it was allocated.
        let kmalloc = unsafe { self.cell().assume_ready() };
        // SAFETY: clause 1: it came from `alloc`, and therefore not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: clause 1: allocated with this layout and not used any more.
        unsafe { kmalloc.free_sized_missed(start, layout) };
        core::mem::forget(no_unwind);
    }

    /// # Safety
    /// 1. As for [`GlobalAlloc::realloc`](core::alloc::GlobalAlloc::realloc).
    #[inline(always)]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        if layout.size() == 0 || new_bytes == 0 {
            // SAFETY: clause 1, and one size is zero.
            return unsafe { self.realloc_empty(start, layout, new_bytes) };
        }
        let no_unwind = NoUnwind;
        // SAFETY: clause 1: memory of ours, and therefore ready when it was allocated.
        let kmalloc = unsafe { self.cell().assume_ready() };
        // SAFETY: clause 1: it came from `alloc`, and therefore not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: clause 1: allocated with this layout; the caller goes on with the address
        // returned.
        let moved = or_null(unsafe { kmalloc.reallocate(start, layout, new_bytes) });
        core::mem::forget(no_unwind);
        moved
    }

    /// Changes the size of an empty allocation, or to an empty one.
    ///
    /// # Safety
    /// 1. As for [`GlobalAlloc::realloc`](core::alloc::GlobalAlloc::realloc), but one of the sizes
    ///    is zero.
    #[cold]
    #[inline(never)]
    unsafe fn realloc_empty(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_bytes, layout.align()) else {
            return core::ptr::null_mut();
        };
        let moved = self.alloc_missed(new);
        if !moved.is_null() {
            // SAFETY: clause 1: given up, as there is other memory; one of the two has no bytes, so
            // no byte is copied.
            unsafe { self.dealloc_missed(start, layout) };
        }
        moved
    }
}

/// Implements `GlobalAlloc` by the methods of [`StaticKmalloc`].
macro_rules! global_alloc {
    () => {
        #[inline]
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            StaticKmalloc::alloc(self, layout)
        }

        #[inline]
        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            StaticKmalloc::alloc_zeroed(self, layout)
        }

        #[inline]
        unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
            // SAFETY: clause 1: the caller's clauses.
            unsafe { StaticKmalloc::dealloc(self, start, layout) };
        }

        #[inline]
        unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
            // SAFETY: clause 1: the caller's clauses.
            unsafe { StaticKmalloc::realloc(self, start, layout, new_bytes) }
        }
    };
}
pub(crate) use global_alloc;

/// Ends the program when it is dropped by unwinding, which is the only way it is dropped: a panic
/// then is the second one.
struct NoUnwind;

impl Drop for NoUnwind {
    fn drop(&mut self) {
        panic!("a global allocator must not unwind");
    }
}

/// Returns an address for no bytes.
fn dangling(layout: Layout) -> *mut u8 {
    core::ptr::without_provenance_mut(layout.align())
}

#[inline(always)]
fn or_null(outcome: Result<NonNull<u8>, OutOfMemory>) -> *mut u8 {
    outcome.map_or(core::ptr::null_mut(), NonNull::as_ptr)
}
