//! Histories: who allocated and freed an object last, when, and how often.

use core::panic::Location;
use core::ptr::NonNull;

/// The past of an object. Example: see [`LiveObject`](crate::LiveObject).
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// The last caller that allocated it.
    pub allocated_by: Option<&'static Location<'static>>,
    /// When, by the clock of the cache; zero without one.
    pub allocated_at: u64,
    /// The last caller that freed it.
    pub freed_by: Option<&'static Location<'static>>,
    /// When, by the clock of the cache; zero without one.
    pub freed_at: u64,
    /// How often it was allocated.
    pub allocations: u64,
}

/// # Safety
/// 1. `history` is that of an object that the caller owns, and written.
#[track_caller]
pub(crate) unsafe fn note_allocation(mut history: NonNull<History>, now: u64) {
    // SAFETY: clause 1: only the owner of an object accesses it.
    let history = unsafe { history.as_mut() };
    history.allocated_by = Some(Location::caller());
    history.allocated_at = now;
    history.allocations += 1;
}

/// # Safety
/// 1. As for `note_allocation`.
#[track_caller]
pub(crate) unsafe fn note_free(mut history: NonNull<History>, now: u64) {
    // SAFETY: clause 1: the caller owns an object that it frees.
    let history = unsafe { history.as_mut() };
    history.freed_by = Some(Location::caller());
    history.freed_at = now;
}
