//! Traces: a hook that sees slabs come and go, and magazines and objects move.
//!
//! # Concepts
//! A hit in a CPU slot fires no event. There are events for objects that leave their slab or return
//! to it, for full magazines that are stored in the depot or leave it, and for slabs that are made
//! or released. Empty magazines fire no events.
//!
//! # Concurrency
//! The hook runs with no lock held and outside all slots: after the move, or, where a slab is
//! released, before it. The events of one CPU arrive in order.
//!
//! # Costs
//! Nothing in a hit. A miss without a hook pays a load and a branch per magazine.

use core::ptr::NonNull;

use page_frame::CacheName;

/// An event in a cache.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::{CacheName, Event};
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// static PAGES: AtomicUsize = AtomicUsize::new(0);
/// fn follow(_: &CacheName, event: Event) {
///     match event {
///         Event::SlabMade { pages, .. } => _ = PAGES.fetch_add(pages, Relaxed),
///         Event::SlabReleased { pages, .. } => _ = PAGES.fetch_sub(pages, Relaxed),
///         _ => {}
///     }
/// }
/// let messages = registry.cache("message", Layout::new::<[u64; 6]>()).trace(&follow).build()?;
/// let message = messages.allocate()?;
/// assert_eq!(PAGES.load(Relaxed), messages.stats().pages());
/// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
/// unsafe { messages.free(message) };
/// messages.shrink_all();
/// assert_eq!(PAGES.load(Relaxed), 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A block of the page source became a slab.
    SlabMade {
        /// Its first byte.
        start: NonNull<u8>,
        /// Its size in pages.
        pages: usize,
        /// The offset of the first object in bytes.
        colour_offset: usize,
    },
    /// A slab is about to return to the page source.
    SlabReleased {
        /// Its first byte.
        start: NonNull<u8>,
        /// Its size in pages.
        pages: usize,
    },
    /// A CPU took a full magazine from the depot.
    MagazineLoaded {
        /// The objects in it.
        objects: usize,
    },
    /// A CPU stored a full magazine in the depot.
    MagazineStored {
        /// The objects in it.
        objects: usize,
    },
    /// A magazine left the depot, to be emptied into the slabs.
    MagazineEmptied {
        /// The objects in it.
        objects: usize,
    },
    /// An object left its slab, for a magazine or a user.
    ObjectTaken {
        /// The object.
        object: NonNull<u8>,
    },
    /// An object is about to return to its slab.
    ObjectReturned {
        /// The object.
        object: NonNull<u8>,
    },
}

/// A hook for the events of caches, see [`CacheBuilder::trace`](crate::CacheBuilder::trace).
///
/// It may use other caches, but not the one whose event it handles. Closures implement it.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::{CacheName, Event, Trace};
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// struct Pages(AtomicUsize);
/// impl Trace for Pages {
///     fn event(&self, cache: &CacheName, event: Event) {
///         if let Event::SlabMade { pages, .. } = event {
///             println!("{cache} grows by {pages} pages");
///             self.0.fetch_add(pages, Relaxed);
///         }
///     }
/// }
/// static PAGES: Pages = Pages(AtomicUsize::new(0));
/// let messages = registry.cache("message", Layout::new::<[u64; 6]>()).trace(&PAGES).build()?;
/// let message = messages.allocate()?;
/// assert_eq!(PAGES.0.load(Relaxed), messages.stats().pages());
/// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
/// unsafe { messages.free(message) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Trace: Sync {
    /// Handles an event of the cache called `cache`. Example: see [`Trace`].
    fn event(&self, cache: &CacheName, event: Event);
}

impl<F: Fn(&CacheName, Event) + Sync> Trace for F {
    fn event(&self, cache: &CacheName, event: Event) {
        self(cache, event);
    }
}
