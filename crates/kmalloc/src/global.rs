//! The allocator as a program's `#[global_allocator]`: a constant that sets itself up at the first
//! request.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;

use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, Off, System};

use crate::kmalloc::Kmalloc;
use crate::static_kmalloc::{KmallocCell, StaticKmalloc, global_alloc};

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
    cell: KmallocCell<S, K>,
}

impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> Global<S, K, F> {
    page_frame::const_unless_loom! {
        /// Makes an allocator that `setup` will set up. Example: see [`Global`].
        pub fn new(setup: F) -> Self {
            Self { setup, cell: KmallocCell::new() }
        }
    }

    /// Returns the value that sets the allocator up. Example: see [`SetUp`].
    pub const fn setup(&self) -> &F {
        &self.setup
    }

    /// Returns the allocator, and sets it up if that has not happened yet. Spins while another
    /// caller does. Example: see [`Global`].
    ///
    /// # Errors
    /// What `setup` fails with.
    #[inline]
    pub fn kmalloc(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        self.get().map_or_else(|| self.set_up(), Ok)
    }

    #[cold]
    fn set_up(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        self.cell.make_by(|| self.setup.set_up()).map(|(kmalloc, _)| kmalloc)
    }

    /// Returns the allocator if it has been set up. One load. Example: see [`Global`].
    #[inline(always)]
    pub fn get(&self) -> Option<&Kmalloc<S, K>> {
        self.cell.get()
    }
}

impl<S, K: Hardening, F: SetUp<S, K>> StaticKmalloc for Global<S, K, F>
where
    S: System<Pages: PageResize>,
{
    type System = S;
    type Checks = K;

    #[inline(always)]
    fn cell(&self) -> &KmallocCell<S, K> {
        &self.cell
    }

    #[inline(always)]
    fn ready(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        self.kmalloc()
    }
}

// SAFETY: memory is valid, aligned and not shared until freed (slab cache and page source). Nothing
// unwinds, see `StaticKmalloc`. An address that comes back with a layout without a size, which the
// trait does not allow, enters no cache.
unsafe impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> GlobalAlloc
    for Global<S, K, F>
where
    S: System<Pages: Send + Sync, Cpus: Send + Sync>,
{
    global_alloc!();
}

impl<S: System<Pages: PageResize>, K: Hardening, F: SetUp<S, K>> fmt::Debug for Global<S, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Global").field("kmalloc", &self.get()).finish_non_exhaustive()
    }
}
