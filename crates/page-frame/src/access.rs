//! Reports of memory accesses to one hook, for benches that count them or simulate many CPUs.
//!
//! # Concepts
//! What limits an allocator on many CPUs is how often a CPU needs a cache line that another CPU has
//! changed, or exclusively one that another CPU has. Few machines have enough CPUs to time that,
//! but it can be counted on any, and simulated. With the feature `counted`, code of the stack
//! reports an access before it happens. Without the feature the reports compile to nothing.
//!
//! Reported are all atomics, the data of locks and cells each time they are reached, and waits.
//! Plain memory is reported where it passes from CPU to CPU: a magazine when a slot loads it. Not
//! reported is the rest of the bodies of per-CPU slots, which other CPUs reach only by a take-over.

#[cfg(feature = "counted")]
use core::sync::atomic::{AtomicPtr, Ordering};

/// The kind of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "counted"), allow(dead_code, reason = "the hook reads it"))]
pub enum AccessKind {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An atomic read-modify-write. A failed exchange is one: it needed the line.
    Change,
    /// The caller waits for another CPU, and looks at its last address again afterwards.
    Wait,
}

/// An access: `bytes` bytes from `address` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "counted"), allow(dead_code, reason = "the hook reads it"))]
pub struct Access {
    /// The kind.
    pub kind: AccessKind,
    /// The address of the first byte; zero for a wait.
    pub address: usize,
    /// The number of bytes; zero for a wait.
    pub bytes: usize,
}

/// Calls the hook for an access to `bytes` bytes at `place`, before it happens.
#[inline(always)]
pub fn report<T: ?Sized>(kind: AccessKind, place: *const T, bytes: usize) {
    #[cfg(feature = "counted")]
    call(Access { kind, address: place.cast::<()>().addr(), bytes });
    #[cfg(not(feature = "counted"))]
    let _ = (kind, place, bytes);
}

/// The hook, a `fn(Access)`, or null.
#[cfg(feature = "counted")]
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets the hook: `hear` is called for each access from now on, before it happens. Later
/// calls change nothing. `hear` must not use the stack of allocators.
#[cfg(feature = "counted")]
pub fn hear_accesses(hear: fn(Access)) {
    let (null, hear) = (core::ptr::null_mut(), hear as *mut ());
    // Relaxed: code is there before any thread.
    _ = HOOK.compare_exchange(null, hear, Ordering::Relaxed, Ordering::Relaxed);
}

#[cfg(feature = "counted")]
#[inline]
fn call(access: Access) {
    // Relaxed: as above.
    let hear = HOOK.load(Ordering::Relaxed);
    if !hear.is_null() {
        // SAFETY: only `hear_accesses` stores a pointer that is not null: a `fn(Access)`.
        let hear = unsafe { core::mem::transmute::<*mut (), fn(Access)>(hear) };
        hear(access);
    }
}
