//! Histories: who allocated and freed an object last, when, and how often.

use core::panic::Location;
use core::ptr::NonNull;

/// What is known of an object's past.
#[derive(Clone, Copy, Debug, Default)]
pub struct History {
    /// Who allocated it last.
    pub allocated_by: Option<&'static Location<'static>>,
    /// When, by the clock of the cache; zero without one.
    pub allocated_at: u64,
    /// Who freed it last.
    pub freed_by: Option<&'static Location<'static>>,
    /// When, by the clock of the cache; zero without one.
    pub freed_at: u64,
    /// How often it was allocated.
    pub allocations: u64,
}

/// # Safety
/// 1. `history` is that of an object in the caller's hand, and written.
#[track_caller]
pub(crate) unsafe fn note_allocation(mut history: NonNull<History>, now: u64) {
    // SAFETY: clause 1: nobody else looks at an object in hand.
    let history = unsafe { history.as_mut() };
    history.allocated_by = Some(Location::caller());
    history.allocated_at = now;
    history.allocations += 1;
}

/// # Safety
/// 1. As for `note_allocation`.
#[track_caller]
pub(crate) unsafe fn note_free(mut history: NonNull<History>, now: u64) {
    // SAFETY: clause 1: an object that is being freed is in hand too.
    let history = unsafe { history.as_mut() };
    history.freed_by = Some(Location::caller());
    history.freed_at = now;
}
