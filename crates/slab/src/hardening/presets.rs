//! The presets: which checks a cache is compiled with.

/// Which mistakes of its users a cache looks for.
pub trait Hardening: 'static {
    /// Whether each object's state is kept in its link, outside it. Costs a look-up at both calls
    /// and an atomic exchange at the free.
    const MARKS: bool = false;
    /// Whether a word behind the object is bound to its address and the cache's secret.
    const CANARY: bool = false;
    /// Bytes of a pattern in front of the object (rounded up to its alignment) and behind it.
    const RED_ZONE: usize = 0;
    /// Whether free objects are filled with a pattern. Caches with a constructor go without: their
    /// objects keep their state.
    const POISON: bool = false;
    /// Whether the objects of a fresh slab go out in an order that the secret decides.
    const SHUFFLE: bool = false;
    /// Whether is kept who allocated and freed each object last, and when.
    const HISTORY: bool = false;
}

/// No checks beyond those that cost one comparison.
#[derive(Clone, Copy, Debug)]
pub struct Off;

impl Hardening for Off {}

/// Obstacles for an attacker: marks, canaries, shuffled slabs.
#[derive(Clone, Copy, Debug)]
pub struct Hardened;

impl Hardening for Hardened {
    const MARKS: bool = true;
    const CANARY: bool = true;
    const SHUFFLE: bool = true;
}

/// Everything, for the search for a mistake.
#[derive(Clone, Copy, Debug)]
pub struct Debugging;

impl Hardening for Debugging {
    const MARKS: bool = true;
    const CANARY: bool = true;
    const RED_ZONE: usize = 16;
    const POISON: bool = true;
    const SHUFFLE: bool = true;
    const HISTORY: bool = true;
}

/// Whether objects pass a check on their way out or back.
pub(crate) const fn is_any_on<K: Hardening>() -> bool {
    K::MARKS || K::CANARY || K::RED_ZONE > 0 || K::POISON || K::HISTORY
}
