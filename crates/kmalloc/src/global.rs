//! The allocator as a program's `#[global_allocator]`: a constant that sets itself up at the first
//! request.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use page_frame::sync::{AtomicU8, Ordering, UnsafeCell, spin_hint};
use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, Off, System};

use crate::class::ClassIndex;
use crate::kmalloc::Kmalloc;

/// No request has come yet, or setting up failed.
const UNTOUCHED: u8 = 0;
/// Somebody is setting up; others wait.
const STARTING: u8 = 1;
/// `kmalloc` is there, for ever.
const READY: u8 = 2;

/// Makes the allocator of a [`Global`] at its first request: a function, or a value with options.
///
/// ```
/// use kmalloc::{Global, Kmalloc, SetUp};
/// use page_frame::{Arena, OutOfMemory};
/// use hosted::{Mapped, Threads};
/// use slab::{Off, Registry};
/// /// A heap of this many bytes.
/// struct Bytes(usize);
/// impl SetUp<(Arena<'static>, Threads), Off> for Bytes {
///     fn set_up(&self) -> Result<Kmalloc<(Arena<'static>, Threads)>, OutOfMemory> {
///         let memory = Mapped::reserve(self.0)?;
///         // SAFETY: no other code uses the memory, which stays as it is forgotten.
///         let arena = unsafe { Arena::from_raw(memory.start(), memory.bytes()) };
///         std::mem::forget(memory);
///         Ok(Kmalloc::new(Registry::new(arena.map_err(|_| OutOfMemory)?, Threads)?))
///     }
/// }
/// static HEAP: Global<(Arena<'static>, Threads), Off, Bytes> = Global::new(Bytes(8 << 20));
/// assert!(HEAP.setup().0 == 8 << 20 && HEAP.kmalloc()?.kmalloc(16 << 20).is_err());
/// # Ok::<(), OutOfMemory>(())
/// ```
pub trait SetUp<S: System<Pages: PageResize>, K: Hardening> {
    /// Makes the allocator. It must not allocate from the [`Global`] that calls it.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no memory to begin with; the next request tries again.
    /// Example: see [`SetUp`].
    fn set_up(&self) -> Result<Kmalloc<S, K>, OutOfMemory>;
}

impl<S: System<Pages: PageResize>, K: Hardening> SetUp<S, K>
    for fn() -> Result<Kmalloc<S, K>, OutOfMemory>
{
    fn set_up(&self) -> Result<Kmalloc<S, K>, OutOfMemory> {
        self()
    }
}

/// A [`Kmalloc`] that can be a static, and the program's global allocator.
///
/// `setup` runs once, at the first request, on the thread or CPU that makes it. It must not
/// allocate from this allocator. When it fails or panics, that request fails, and the next one
/// tries again.
///
/// A global allocator must not unwind ([`GlobalAlloc`]). Should `setup`, the registry's fault hook,
/// or a destructor or callback of another cache of the registry panic in a request that comes
/// through `GlobalAlloc`, the program ends. Through [`kmalloc`](Self::kmalloc) the panic goes on to
/// the caller.
///
/// ```
/// use buddy::page_frame::{DirectMap, OutOfMemory};
/// use buddy::{Buddy, Mode, ZeroedMemory};
/// use hosted::{Mapped, Threads};
/// use kmalloc::{Global, Kmalloc};
/// use slab::Registry;
///
/// type Pages = Buddy<'static, DirectMap, Threads>;
///
/// #[global_allocator]
/// static HEAP: Global<(Pages, Threads)> = Global::new(|| {
///     let frames = Mapped::reserve(1 << 30)?;
///     let ranges = [frames.frames()];
///     let layout = Pages::metadata_layout(&ranges, hosted::THREAD_SLOTS)?;
///     let metadata = Mapped::reserve(layout.size())?;
///     let map = frames.direct_map();
///     // SAFETY: the mapping is fresh, so zero, page-aligned and not shared, and stays as long as
///     // the allocator.
///     let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
///     // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
///     let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, Threads, Mode::Cached) };
///     core::mem::forget((frames, metadata));
///     Ok(Kmalloc::new(Registry::new(buddy?, Threads)?))
/// });
///
/// let numbers: Vec<u32> = (0..1000).collect();
/// assert_eq!(numbers.len(), 1000);
/// assert!(HEAP.get().is_some_and(|kmalloc| kmalloc.pages_held() > 0));
/// HEAP.kmalloc()?.shrink_all(); // `get` is `None` before the first request, `kmalloc` sets up
/// # Ok::<(), OutOfMemory>(())
/// ```
pub struct Global<
    S: System<Pages: PageResize>,
    K: Hardening = Off,
    F: SetUp<S, K> = fn() -> Result<Kmalloc<S, K>, OutOfMemory>,
> {
    setup: F,
    state: AtomicU8,
    kmalloc: UnsafeCell<MaybeUninit<Kmalloc<S, K>>>,
}

// SAFETY: `kmalloc` is written once, by the CPU that changed `state` from untouched to starting,
// and from then on only shared; P and C come from `setup` on whichever CPU runs it.
unsafe impl<S, K: Hardening, F: SetUp<S, K> + Sync> Sync for Global<S, K, F> where
    S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>
{
}

impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> Global<S, K, F> {
    page_frame::const_unless_loom! {
        /// Makes an allocator that `setup` will set up. Example: see [`Global`].
        pub fn new(setup: F) -> Self {
            let kmalloc = UnsafeCell::new(MaybeUninit::uninit());
            Self { setup, state: AtomicU8::new(UNTOUCHED), kmalloc }
        }
    }

    /// Returns the value that sets the allocator up. Example: see [`SetUp`].
    pub const fn setup(&self) -> &F {
        &self.setup
    }

    /// Returns the allocator, and sets it up if that has not happened yet. Spins while somebody
    /// else does. Example: see [`Global`].
    ///
    /// # Errors
    /// What `setup` fails with.
    #[inline]
    pub fn kmalloc(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        self.get().map_or_else(|| self.start(), Ok)
    }

    /// Returns the allocator if it has been set up. One load. Example: see [`Global`].
    #[inline(always)]
    pub fn get(&self) -> Option<&Kmalloc<S, K>> {
        // Acquire: pairs with the Release in `start`; sees the allocator as it was made.
        let is_ready = self.state.load(Ordering::Acquire) == READY;
        // SAFETY: it is ready.
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

    /// Allocates what was no hit, for `GlobalAlloc`. The first request sets the allocator up.
    #[cold]
    #[inline(never)]
    fn allocate_missed(&self, layout: Layout) -> *mut u8 {
        if layout.size() == 0 {
            return dangling(layout);
        }
        let no_unwind = NoUnwind;
        let start = or_null(self.kmalloc().and_then(|kmalloc| kmalloc.allocate_missed(layout)));
        core::mem::forget(no_unwind);
        start
    }

    /// Frees what is no hit, for `GlobalAlloc`.
    ///
    /// # Safety
    /// 1. As for [`GlobalAlloc::dealloc`]; or the layout has no size.
    #[cold]
    #[inline(never)]
    unsafe fn free_missed(&self, start: *mut u8, layout: Layout) {
        if layout.size() == 0 {
            return;
        }
        let no_unwind = NoUnwind;
        // SAFETY: clause 1: memory of ours, and therefore ready when it was allocated.
        let kmalloc = unsafe { self.assume_ready() };
        // SAFETY: clause 1: it came from `alloc`, and therefore not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: clause 1: allocated with this layout and not used any more.
        unsafe { kmalloc.free_sized_missed(start, layout) };
        core::mem::forget(no_unwind);
    }

    /// Changes the size of what has none, or to none.
    ///
    /// # Safety
    /// 1. As for [`GlobalAlloc::realloc`], but one of the sizes is zero.
    #[cold]
    #[inline(never)]
    unsafe fn resize_empty(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_bytes, layout.align()) else {
            return core::ptr::null_mut();
        };
        let moved = self.allocate_missed(new);
        if !moved.is_null() {
            // SAFETY: clause 1: given up, as there is other memory; one of the two has no bytes, so
            // no byte is copied.
            unsafe { self.free_missed(start, layout) };
        }
        moved
    }

    #[cold]
    fn start(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        loop {
            let (old, new) = (UNTOUCHED, STARTING);
            // Acquire: as in `get`, when somebody else has finished; otherwise the Release after a
            // failure.
            match self.state.compare_exchange(old, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break,
                // SAFETY: ready.
                Err(READY) => return Ok(unsafe { self.assume_ready() }),
                Err(_) => spin_hint(),
            }
        }
        let starting = Starting(&self.state);
        match self.setup.set_up() {
            Ok(made) => {
                core::mem::forget(starting);
                self.kmalloc.with_mut(|kmalloc| {
                    // SAFETY: we changed the state to starting, so no other code reads or writes
                    // this.
                    let kmalloc = unsafe { &mut *kmalloc };
                    kmalloc.write(made);
                });
                // Release: pairs with the Acquire in `get`.
                self.state.store(READY, Ordering::Release);
                // SAFETY: ready.
                Ok(unsafe { self.assume_ready() })
            }
            Err(OutOfMemory) => {
                drop(starting);
                Err(OutOfMemory)
            }
        }
    }
}

/// Somebody who sets up. Dropping it resets the state, when `setup` fails or panics.
struct Starting<'g>(&'g AtomicU8);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire of the exchange in `start`, whose caller tries again.
        self.0.store(UNTOUCHED, Ordering::Release);
    }
}

/// Ends the program when it is dropped by unwinding, which is the only way it is dropped: a panic
/// then is the second one.
struct NoUnwind;

impl Drop for NoUnwind {
    fn drop(&mut self) {
        panic!("a global allocator must not unwind");
    }
}

// SAFETY: memory is valid, aligned and not shared until freed (slab cache and page source). Nothing
// unwinds: a hit calls no code of the user, and all else runs under a `NoUnwind`. An address that
// comes back with a layout without a size, which the trait does not allow, enters no cache.
unsafe impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> GlobalAlloc
    for Global<S, K, F>
where
    S: System<Pages: Send + Sync, Cpus: Send + Sync>,
{
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let (Some(kmalloc), Some(class)) = (self.get(), ClassIndex::of_some_bytes(layout)) {
            if let Some(start) = kmalloc.caches.hit(class) {
                return start.as_ptr();
            }
        }
        self.allocate_missed(layout)
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let no_unwind = NoUnwind;
        let start = or_null(self.kmalloc().and_then(|kmalloc| kmalloc.allocate_zeroed(layout)));
        core::mem::forget(no_unwind);
        start
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // First, as no memory is allocated for a layout without a size: such an address does not
        // even say that there is an allocator.
        if let Some(class) = ClassIndex::of_some_bytes(layout) {
            // SAFETY: `GlobalAlloc`: memory of ours, and therefore ready when it was allocated.
            let kmalloc = unsafe { self.assume_ready() };
            // SAFETY: `GlobalAlloc`: it came from `alloc`, and therefore not null.
            let object = unsafe { NonNull::new_unchecked(start) };
            // SAFETY: `GlobalAlloc`: allocated with this layout, so from its class, and not used
            // any more.
            if unsafe { kmalloc.caches.free_hit(class, object) } {
                return;
            }
        }
        // SAFETY: the caller's clauses, and nothing has happened.
        unsafe { self.free_missed(start, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        if layout.size() == 0 || new_bytes == 0 {
            // SAFETY: the caller's clauses, and one size is zero.
            return unsafe { self.resize_empty(start, layout, new_bytes) };
        }
        let no_unwind = NoUnwind;
        // SAFETY: `GlobalAlloc`: memory of ours, and therefore ready when it was allocated.
        let kmalloc = unsafe { self.assume_ready() };
        // SAFETY: `GlobalAlloc`: it came from `alloc`, and therefore not null.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: `GlobalAlloc`: allocated with this layout; the caller goes on with the address
        // returned.
        let moved = or_null(unsafe { kmalloc.reallocate(start, layout, new_bytes) });
        core::mem::forget(no_unwind);
        moved
    }
}

impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> Drop for Global<S, K, F> {
    /// Destroys the allocator if it was set up. Statics are never dropped.
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

impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> fmt::Debug for Global<S, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Global").field("kmalloc", &self.get()).finish_non_exhaustive()
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
