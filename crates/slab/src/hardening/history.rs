//! Histories: the callers that allocated and freed an object last, when, and how often.
//!
//! A history lies beside its object, where a stray write may change it. It refers to source
//! locations. Therefore a reader compares its checksum first.

use core::panic::Location;
use core::ptr::{NonNull, from_ref, null};

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

/// A history as it is kept: words, with a checksum that depends on a secret.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct HistoryRecord {
    allocated_by: *const Location<'static>,
    freed_by: *const Location<'static>,
    allocated_at: u64,
    freed_at: u64,
    allocations: u64,
    checksum: u64,
}

impl HistoryRecord {
    fn new(history: &History, secret: usize) -> Self {
        let pointer = |by: Option<&'static Location<'static>>| by.map_or(null(), from_ref);
        let mut record = Self {
            allocated_by: pointer(history.allocated_by),
            freed_by: pointer(history.freed_by),
            allocated_at: history.allocated_at,
            freed_at: history.freed_at,
            allocations: history.allocations,
            checksum: 0,
        };
        record.checksum = record.sum(secret);
        record
    }

    /// Returns the checksum of the words (multiplicative hashing, Knuth TAOCP 3, section 6.4).
    fn sum(&self, secret: usize) -> u64 {
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let callers = [self.allocated_by.addr() as u64, self.freed_by.addr() as u64];
        let rest = [self.allocated_at, self.freed_at, self.allocations];
        callers
            .into_iter()
            .chain(rest)
            .fold(!(secret as u64), |sum, word| (sum ^ word).wrapping_mul(SPREAD).rotate_left(29))
    }
}

/// Writes an empty history of an object.
///
/// # Safety
/// 1. The caller owns the object of `record`.
pub(crate) unsafe fn write_empty(record: NonNull<HistoryRecord>, secret: usize) {
    // SAFETY: clause 1: only the owner of an object accesses it.
    unsafe { record.write(HistoryRecord::new(&History::default(), secret)) };
}

/// Returns the history of an object; `None` if a stray write has changed it.
///
/// # Safety
/// 1. `record` was written by this module with this secret, and no code writes it meanwhile.
pub(crate) unsafe fn read(record: NonNull<HistoryRecord>, secret: usize) -> Option<History> {
    // SAFETY: clause 1: written.
    let record = unsafe { record.read() };
    if record.checksum != record.sum(secret) {
        return None;
    }
    // SAFETY: null or a `&'static Location`: the checksum fits, so the words are those of `new`.
    let allocated_by = unsafe { record.allocated_by.as_ref() };
    // SAFETY: as above.
    let freed_by = unsafe { record.freed_by.as_ref() };
    let HistoryRecord { allocated_at, freed_at, allocations, .. } = record;
    Some(History { allocated_by, allocated_at, freed_by, freed_at, allocations })
}

/// Notes the caller that allocates an object. A changed history is replaced by an empty one.
///
/// # Safety
/// 1. As for [`read`]; the caller owns the object.
#[track_caller]
pub(crate) unsafe fn note_allocation(record: NonNull<HistoryRecord>, secret: usize, now: u64) {
    // SAFETY: clause 1.
    let mut history = unsafe { read(record, secret) }.unwrap_or_default();
    history.allocated_by = Some(Location::caller());
    history.allocated_at = now;
    history.allocations += 1;
    // SAFETY: clause 1: only the owner of an object accesses it.
    unsafe { record.write(HistoryRecord::new(&history, secret)) };
}

/// Notes the caller that frees an object. A changed history is replaced by an empty one.
///
/// # Safety
/// 1. As for [`note_allocation`].
#[track_caller]
pub(crate) unsafe fn note_free(record: NonNull<HistoryRecord>, secret: usize, now: u64) {
    // SAFETY: clause 1.
    let mut history = unsafe { read(record, secret) }.unwrap_or_default();
    history.freed_by = Some(Location::caller());
    history.freed_at = now;
    // SAFETY: clause 1: the caller owns an object that it frees.
    unsafe { record.write(HistoryRecord::new(&history, secret)) };
}
