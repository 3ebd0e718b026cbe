//! The presets: which checks a cache is compiled with.

/// Which checks and defences a cache is compiled with.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::{Debugging, Hardened, Hardening, Off};
/// struct Own;
/// impl Hardening for Own {
///     const MARKS: bool = true;
///     const CANARY: bool = true;
///     const RED_ZONE: usize = 32; // bytes
///     const REQUESTED_SIZE: bool = false;
///     const POISON: bool = false;
///     const SHUFFLE: bool = true;
///     const HISTORY: bool = false;
/// }
/// fn stride<K: Hardening>(builder: slab::CacheBuilder<'_, impl slab::System>) -> usize {
///     builder.hardening::<K>().geometry().expect("a small object").stride()
/// }
/// let key = || registry.cache("key", Layout::new::<[u64; 3]>());
/// assert_eq!((stride::<Off>(key()), stride::<Hardened>(key())), (24, 32)); // a word of canary
/// assert_eq!(stride::<Own>(key()), 32 + 24 + 8 + 32);
/// assert!(stride::<Debugging>(key()) > 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Hardening: 'static {
    /// Whether the slab records for each object if it is in use, in the object's link: an entry of
    /// one or two bytes that the slab keeps outside of the object. Costs a look-up of the slab and
    /// an atomic exchange at each allocation and at each free. Example: see [`Hardening`].
    const MARKS: bool = false;
    /// Whether a word behind the object shows writes there. Its value is computed from the object's
    /// address and the cache's secret.
    /// Example: see [`Hardening`].
    const CANARY: bool = false;
    /// Bytes of a pattern in front of the object (rounded up to its alignment) and behind it.
    /// Example: see [`Hardening`].
    const RED_ZONE: usize = 0;
    /// Whether the cache records how many bytes of each object its user requested, and checks that
    /// nobody writes to the rest: for allocators with size classes
    /// ([`Cache::set_requested_size`](crate::Cache::set_requested_size)). Does nothing in caches
    /// with a constructor. Example: see [`Hardening`].
    const REQUESTED_SIZE: bool = false;
    /// Whether free objects are filled with a pattern. Does nothing in caches with a constructor,
    /// whose free objects keep their state. Example: see [`Hardening`].
    const POISON: bool = false;
    /// Whether the objects of a fresh slab are allocated in an order that the secret decides.
    /// Example: see [`Hardening`].
    const SHUFFLE: bool = false;
    /// Whether the cache records the callers that allocated and freed each object last, and when
    /// if it has a [`clock`](crate::CacheBuilder::clock).
    /// Example: see [`Hardening`].
    const HISTORY: bool = false;
}

/// One check that costs a comparison: whether the object is the one that was freed last. Example:
/// see [`Hardening`].
#[derive(Clone, Copy, Debug)]
pub struct Off;

impl Hardening for Off {}

/// Checks against attackers: marks, canaries, shuffled slabs, and poison, which shows writes to a
/// free object.
///
/// Longest path counted: 23,403 instructions to allocate an object of 192 bytes
/// (`hardened-allocate`), 29,502 to free it (`hardened-free`).
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// use slab::{Hardened, Registry};
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// static FAULTS: AtomicUsize = AtomicUsize::new(0);
/// let count = |fault: &page_frame::Fault| {
///     eprintln!("{fault}");
///     FAULTS.fetch_add(1, Relaxed);
/// };
/// let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), count)?;
/// let keys = registry.cache("key", Layout::new::<[u8; 24]>()).hardening::<Hardened>().build()?;
/// let (first, second) = (keys.allocate()?, keys.allocate()?);
/// for key in [first, second, first] {
///     // SAFETY: the third free is the bug shown; no code uses the objects.
///     unsafe { keys.free(key) };
/// }
/// assert_eq!(FAULTS.load(Relaxed), 1); // DoubleFree
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Hardened;

impl Hardening for Hardened {
    const MARKS: bool = true;
    const CANARY: bool = true;
    const POISON: bool = true;
    const SHUFFLE: bool = true;
}

/// All checks, for debugging.
///
/// Longest path counted: 24,721 instructions to allocate an object of 192 bytes
/// (`debugging-allocate`), 40,145 to free it (`debugging-free`).
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// use slab::{Debugging, Registry};
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// static FAULTS: AtomicUsize = AtomicUsize::new(0);
/// let count = |fault: &page_frame::Fault| {
///     eprintln!("{fault}");
///     FAULTS.fetch_add(1, Relaxed);
/// };
/// let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), count)?;
/// let keys = registry.cache("key", Layout::new::<[u8; 24]>()).hardening::<Debugging>().build()?;
/// let key = keys.allocate()?;
/// // SAFETY: clauses 1 and 2: allocated above, and not used by right any more.
/// unsafe { keys.free(key) };
/// // SAFETY: the bug shown. The byte lies in the arena, which is ours.
/// unsafe { key.write(1) };
/// assert_ne!(keys.allocate()?, key); // the object stays isolated
/// assert_eq!(FAULTS.load(Relaxed), 1); // WriteAfterFree
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Debugging;

impl Hardening for Debugging {
    const MARKS: bool = true;
    const CANARY: bool = true;
    const RED_ZONE: usize = 16;
    const REQUESTED_SIZE: bool = true;
    const POISON: bool = true;
    const SHUFFLE: bool = true;
    const HISTORY: bool = true;
}

/// Returns whether a check runs when an object is allocated or freed. `SHUFFLE` acts only when a
/// slab is made.
pub(crate) const fn is_any_on<K: Hardening>() -> bool {
    K::MARKS || K::CANARY || K::RED_ZONE > 0 || K::REQUESTED_SIZE || K::POISON || K::HISTORY
}
