//! The allocator as a program's `#[global_allocator]`: a constant that sets itself up at the first
//! request.
//!
//! # Concurrency
//! The first request changes `state` from untouched to starting, makes the allocator, and stores
//! ready. Requests that find it starting spin. If setting up fails or panics, the state becomes
//! untouched again, and the next request tries again. A hit does not look at `state`: it compares
//! its size with `limit`, which is zero until the allocator is there.
//!
//! # Panics
//! A global allocator must not unwind. A hit calls no code of the user, and everything else runs
//! under a [`NoUnwind`].

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use page_frame::sync::{AtomicU8, AtomicUsize, Ordering, UnsafeCell, spin_hint};
use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, Off, System};

use crate::classes::class::{ClassIndex, LARGEST};
use crate::kmalloc::Kmalloc;

/// The allocator has not been made, or making it failed.
const UNTOUCHED: u8 = 0;
/// A caller makes it; others wait.
const STARTING: u8 = 1;
/// The allocator is there, and stays.
const READY: u8 = 2;

/// A [`Kmalloc`] that can be a static, and the program's global allocator.
///
/// `setup` runs once, at the first request, on the thread or CPU that makes it. It must not
/// allocate from this allocator. When it fails or panics, that request fails, and the next one
/// tries again.
///
/// A global allocator must not unwind ([`GlobalAlloc`]). A request through `GlobalAlloc` ends the
/// program if code of the user panics in it: `setup`, the registry's fault hook, or a destructor or
/// callback of another cache of the registry. In a call through [`kmalloc`](Self::kmalloc) the
/// panic unwinds to the caller.
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
    /// The size in bytes up to which requests try for a hit. Invariant I2: [`LARGEST`] after
    /// `kmalloc` was written, and zero before.
    limit: AtomicUsize,
    /// Invariant I1: written by the caller that changed `state` from untouched to starting; read
    /// only after `state` is ready, or `limit` is not zero.
    kmalloc: UnsafeCell<MaybeUninit<Kmalloc<S, K>>>,
}

// SAFETY: I1: `kmalloc` is written once and from then on only shared. Any CPU may be the one that
// makes the page source and the CPUs, so both are `Send`.
unsafe impl<S, K: Hardening, F: SetUp<S, K> + Sync> Sync for Global<S, K, F> where
    S: System<Pages: PageResize + Send + Sync, Cpus: Send + Sync>
{
}

// SAFETY: memory is valid, aligned and not shared until freed (slab cache and page source). Nothing
// unwinds: see the head of the file. A free for a layout of zero bytes, for which the trait allows
// no allocation, frees nothing.
unsafe impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> GlobalAlloc
    for Global<S, K, F>
where
    S: System<Pages: Send + Sync, Cpus: Send + Sync>,
{
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (bytes, alignment) = (layout.size(), layout.align());
        // SAFETY: clause 1: I2.
        if let Some(class) = unsafe { ClassIndex::fitting_below(self.limit(), bytes, alignment) } {
            // SAFETY: clause 1 of `assume_ready`: no byte has a number below zero, so by I2 the
            // limit is not zero.
            if let Some(object) = unsafe { self.assume_ready() }.caches.allocate_hit(class) {
                return object.as_ptr();
            }
        }
        // The miss looks the class up again: to pass it on costs two instructions in a hit whose
        // size is known at run time only.
        // SAFETY: clause 1: those of `layout`.
        unsafe { Self::alloc_missed(bytes, alignment, self) }
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
        // The class first: memory for zero bytes is not from this allocator, which may not even
        // have been made.
        if let Some(class) = ClassIndex::fitting(layout.size(), layout.align()) {
            // SAFETY: clause 1 of `assume_ready`: the caller owns `start`, which `alloc` returned.
            let kmalloc = unsafe { self.assume_ready() };
            // SAFETY: the caller's clause: `start` is memory from `alloc`, and null is none.
            let object = unsafe { NonNull::new_unchecked(start) };
            // SAFETY: clauses 1 and 2: the caller's clauses: allocated with this layout, so for its
            // class, and not used any more.
            if unsafe { kmalloc.caches.free_hit(class, object) } {
                return;
            }
        }
        // SAFETY: clause 1: the caller's clauses, as a miss has changed nothing.
        unsafe { Self::dealloc_missed(start, layout.size(), layout.align(), self) };
    }

    #[inline]
    unsafe fn realloc(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        if layout.size() == 0 || new_bytes == 0 {
            // SAFETY: clause 1: the caller's clauses, and one size is zero.
            return unsafe { self.realloc_empty(start, layout, new_bytes) };
        }
        let no_unwind = NoUnwind;
        // SAFETY: clause 1 of `assume_ready`: the caller owns `start`, which `alloc` returned.
        let kmalloc = unsafe { self.assume_ready() };
        // SAFETY: the caller's clause: `start` is memory from `alloc`, and null is none.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: clauses 1 and 2: the caller's clauses: allocated with this layout, and the caller
        // goes on with the address returned.
        let moved = or_null(unsafe { kmalloc.reallocate(start, layout, new_bytes) });
        core::mem::forget(no_unwind);
        moved
    }
}

impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> Global<S, K, F> {
    page_frame::const_unless_loom! {
        /// Makes an allocator that `setup` will set up. Example: see [`Global`].
        pub fn new(setup: F) -> Self {
            let kmalloc = UnsafeCell::new(MaybeUninit::uninit());
            Self { setup, state: AtomicU8::new(UNTOUCHED), limit: AtomicUsize::new(0), kmalloc }
        }
    }

    /// Returns the value that sets the allocator up. Example: see [`SetUp`].
    pub const fn setup(&self) -> &F {
        &self.setup
    }

    /// Returns the allocator if it has been set up. One load. Example: see [`Global`].
    #[inline(always)]
    pub fn get(&self) -> Option<&Kmalloc<S, K>> {
        // Acquire: pairs with the Release in `make_by`; sees the allocator as it was made.
        let is_ready = self.state.load(Ordering::Acquire) == READY;
        // SAFETY: clause 1 of `assume_ready`: the state is ready.
        is_ready.then(|| unsafe { self.assume_ready() })
    }

    /// Returns the size in bytes up to which requests try for a hit: see `limit`.
    #[inline(always)]
    fn limit(&self) -> usize {
        // Acquire: pairs with the Release in `make_by`; sees the allocator as it was made.
        self.limit.load(Ordering::Acquire)
    }

    /// Allocates `bytes` bytes as [`Kmalloc::kmalloc`] does, if that is a hit.
    #[doc(hidden)]
    #[inline(always)]
    pub fn kmalloc_hit(&self, bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: clause 1: I2.
        let class = unsafe { ClassIndex::fitting_aligned_below(self.limit(), bytes) }?;
        // SAFETY: clause 1 of `assume_ready`: as in `alloc`.
        unsafe { self.assume_ready() }.caches.allocate_hit(class)
    }

    /// Returns the allocator, and sets it up if that has not happened yet. Spins while another
    /// caller does. Example: see [`Global`].
    ///
    /// # Errors
    /// The error of `setup`.
    #[inline]
    pub fn kmalloc(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        self.get().map_or_else(|| self.set_up(), Ok)
    }

    #[cold]
    fn set_up(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        if !F::AT_FIRST_REQUEST {
            return Err(OutOfMemory);
        }
        self.make_by(|| self.setup.set_up()).map(|(kmalloc, _)| kmalloc)
    }

    /// Makes the allocator by `make`, unless it is there. Waits while another caller makes it.
    /// Returns it, and whether this call made it.
    ///
    /// # Errors
    /// Those of `make`. The next call tries again.
    #[cold]
    pub(crate) fn make_by<E>(
        &self,
        make: impl FnOnce() -> Result<Kmalloc<S, K>, E>,
    ) -> Result<(&Kmalloc<S, K>, bool), E> {
        for round in 0.. {
            let (old, new) = (UNTOUCHED, STARTING);
            // Acquire: as in `get`, when another caller has finished; otherwise the Release after a
            // failure.
            match self.state.compare_exchange(old, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => break,
                // SAFETY: clause 1 of `assume_ready`: the state is ready.
                Err(READY) => return Ok((unsafe { self.assume_ready() }, false)),
                Err(_) => self.setup.wait(round),
            }
        }
        let starting = Starting(&self.state);
        // On a failure or a panic `starting` resets the state.
        let made = make()?;
        core::mem::forget(starting);
        self.kmalloc.with_mut(|kmalloc| {
            // SAFETY: I1: this call changed the state to starting, so no other code reads or writes
            // this.
            let kmalloc = unsafe { &mut *kmalloc };
            kmalloc.write(made);
        });
        // Release: pairs with the Acquire in `limit`.
        self.limit.store(LARGEST, Ordering::Release);
        // Release: pairs with the Acquire in `get`.
        self.state.store(READY, Ordering::Release);
        // SAFETY: clause 1 of `assume_ready`: stored above.
        Ok((unsafe { self.assume_ready() }, true))
    }

    /// # Safety
    /// 1. The caller has seen that `state` is ready or that `limit` is not zero, or owns memory of
    ///    this allocator.
    #[inline(always)]
    pub(crate) unsafe fn assume_ready(&self) -> &Kmalloc<S, K> {
        let kmalloc = self.kmalloc.with(|kmalloc| kmalloc);
        // SAFETY: clause 1 and I1: written before, and never again.
        let kmalloc = unsafe { &*kmalloc };
        // SAFETY: clause 1: initialised.
        unsafe { kmalloc.assume_init_ref() }
    }

    /// Allocates after a miss, or before the allocator has been made. The arguments have the order
    /// of those of `__rust_alloc`, which are in registers: a hit moves none of them.
    ///
    /// # Safety
    /// 1. `bytes` and `alignment` are those of a [`Layout`].
    #[cold]
    #[inline(never)]
    unsafe fn alloc_missed(bytes: usize, alignment: usize, this: &Self) -> *mut u8 {
        // SAFETY: clause 1.
        let layout = unsafe { Layout::from_size_align_unchecked(bytes, alignment) };
        if bytes == 0 {
            return dangling(layout);
        }
        let no_unwind = NoUnwind;
        let start = or_null(this.kmalloc().and_then(|kmalloc| kmalloc.allocate_missed(layout)));
        core::mem::forget(no_unwind);
        start
    }

    /// Frees after a miss. The arguments have the order of those of `__rust_dealloc`.
    ///
    /// # Safety
    /// 1. As for [`GlobalAlloc::dealloc`], with the layout of `bytes` and `alignment`; or `bytes`
    ///    is zero.
    #[cold]
    #[inline(never)]
    unsafe fn dealloc_missed(start: *mut u8, bytes: usize, alignment: usize, this: &Self) {
        if bytes == 0 {
            return;
        }
        let no_unwind = NoUnwind;
        // SAFETY: clause 1: those of a layout.
        let layout = unsafe { Layout::from_size_align_unchecked(bytes, alignment) };
        // SAFETY: clause 1 of `assume_ready`: by clause 1 the caller owns memory of this allocator.
        let kmalloc = unsafe { this.assume_ready() };
        // SAFETY: clause 1: `start` is memory from `alloc`, and null is none.
        let start = unsafe { NonNull::new_unchecked(start) };
        // SAFETY: clause 1 of `free_sized_missed`: by clause 1 allocated with this layout and not
        // used any more.
        unsafe { kmalloc.free_sized_missed(start, layout) };
        core::mem::forget(no_unwind);
    }

    /// Changes the size of an allocation from or to zero bytes.
    ///
    /// # Safety
    /// 1. As for [`GlobalAlloc::realloc`], but one of the sizes is zero.
    #[cold]
    #[inline(never)]
    unsafe fn realloc_empty(&self, start: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        let Ok(new) = Layout::from_size_align(new_bytes, layout.align()) else {
            return core::ptr::null_mut();
        };
        // SAFETY: clause 1: those of `new`.
        let moved = unsafe { Self::alloc_missed(new_bytes, new.align(), self) };
        if !moved.is_null() {
            // SAFETY: clause 1: the caller gives `start` up, as there is other memory. One of the
            // two has no bytes, so no byte is copied.
            unsafe { Self::dealloc_missed(start, layout.size(), layout.align(), self) };
        }
        moved
    }
}

impl<S: System<Pages: PageResize>, K: Hardening, F> Drop for Global<S, K, F>
where
    F: SetUp<S, K>,
{
    /// Destroys the allocator if it was made. Statics are never dropped.
    fn drop(&mut self) {
        if self.get().is_some() {
            self.kmalloc.with_mut(|kmalloc| {
                // SAFETY: `&mut self` proves exclusive use.
                let kmalloc = unsafe { &mut *kmalloc };
                // SAFETY: I1: ready, so initialised; not used again.
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

/// Makes the allocator of a [`Global`] at the first request. Functions implement it; implement it
/// for a type of your own if the set-up has options.
///
/// ```
/// use kmalloc::{Global, Kmalloc, SetUp};
/// use page_frame::{Arena, Cpu, OutOfMemory};
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
///     fn wait(&self, round: usize) {
///         Threads.wait(round); // a thread that waits long sleeps
///     }
/// }
/// static HEAP: Global<(Arena<'static>, Threads), Off, Bytes> = Global::new(Bytes(8 << 20));
/// assert!(HEAP.setup().0 == 8 << 20 && HEAP.kmalloc()?.kmalloc(16 << 20).is_err());
/// # Ok::<(), OutOfMemory>(())
/// ```
pub trait SetUp<S: System<Pages: PageResize>, K: Hardening> {
    /// Whether a request sets the allocator up. If not, requests fail until other code has done so,
    /// and never wait for that code: they may have interrupted it.
    #[doc(hidden)]
    const AT_FIRST_REQUEST: bool = true;

    /// Makes the allocator. It must not allocate from the [`Global`] that calls it.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no memory for the allocator. The next request tries again.
    /// Example: see [`SetUp`].
    fn set_up(&self) -> Result<Kmalloc<S, K>, OutOfMemory>;

    /// Waits between two looks at whether another caller has finished [`set_up`](Self::set_up);
    /// `round` counts the calls of this caller, from zero. Spins for an instant by default. Where
    /// the caller may have a higher priority than the other one, let it sleep, as
    /// [`Cpu::wait`](page_frame::Cpu::wait) does. Example: see [`SetUp`].
    fn wait(&self, round: usize) {
        let _ = round;
        spin_hint();
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> SetUp<S, K>
    for fn() -> Result<Kmalloc<S, K>, OutOfMemory>
{
    fn set_up(&self) -> Result<Kmalloc<S, K>, OutOfMemory> {
        self()
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

/// Ends the program when a panic unwinds through a request: a second panic during unwinding aborts.
/// Requests that return forget it.
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
