//! The allocator as a program's `#[global_allocator]`: a constant that sets itself up at the first
//! request.

use core::alloc::{GlobalAlloc, Layout};
use core::fmt;

use page_frame::{OutOfMemory, PageResize};
use slab::{Hardening, Off, System};

use crate::kmalloc::Kmalloc;
use crate::static_kmalloc::{KmallocCell, StaticKmalloc, global_alloc};

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
pub struct Global<S: System<Pages: PageResize>, K: Hardening = Off> {
    setup: fn() -> Result<Kmalloc<S, K>, OutOfMemory>,
    cell: KmallocCell<S, K>,
}

impl<S: System<Pages: PageResize>, K: Hardening> Global<S, K> {
    page_frame::const_unless_loom! {
        /// Makes an allocator that `setup` will set up. Example: see [`Global`].
        pub fn new(setup: fn() -> Result<Kmalloc<S, K>, OutOfMemory>) -> Self {
            Self { setup, cell: KmallocCell::new() }
        }
    }

    /// Returns the allocator, and sets it up if that has not happened yet. Spins while another
    /// caller does. Example: see [`Global`].
    ///
    /// # Errors
    /// What `setup` fails with.
    #[inline]
    pub fn kmalloc(&self) -> Result<&Kmalloc<S, K>, OutOfMemory> {
        self.get().map_or_else(|| self.cell.make_by(self.setup).map(|(kmalloc, _)| kmalloc), Ok)
    }

    /// Returns the allocator if it has been set up. One load. Example: see [`Global`].
    #[inline(always)]
    pub fn get(&self) -> Option<&Kmalloc<S, K>> {
        self.cell.get()
    }
}

impl<S: System<Pages: PageResize>, K: Hardening> StaticKmalloc for Global<S, K> {
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
unsafe impl<S: System<Pages: PageResize>, K: Hardening> GlobalAlloc for Global<S, K>
where
    S: System<Pages: Send + Sync, Cpus: Send + Sync>,
{
    global_alloc!();
}

impl<S: System<Pages: PageResize>, K: Hardening> fmt::Debug for Global<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Global").field("kmalloc", &self.get()).finish_non_exhaustive()
    }
}
