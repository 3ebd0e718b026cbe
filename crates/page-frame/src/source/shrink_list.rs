//! A list of shrinkers, which register and unregister while other CPUs call them.
//!
//! # Concepts
//! Each place of the list has a member and a count of the calls inside it. A call increments the
//! count under the list's lock, and calls the member without the lock, as shrinkers call page
//! sources. `unregister` first marks the member as **leaving**, after which no new call begins, and
//! removes it once the count is zero.
//!
//! # Invariants
//! - I1: only calls that are counted in a place call its member.
//! - I2: `inside` of a place grows only under the lock, while the place has a member that is not
//!   leaving. A place gets another member only while its `inside` is zero.

use core::ptr::NonNull;

use crate::atomic::{AtomicUsize, Ordering};
use crate::source::shrink::Shrink;
use crate::sync::lock::Lock;
use crate::sync::model::const_unless_loom;

/// Calls of one shrinker that may be inside it at the same time: from several CPUs, or nested, when
/// a shrinker allocates from the page source that calls it. More are left out, so that such a
/// recursion ends.
pub(crate) const MAX_CALLS: usize = 8;

/// At most `N` shrinkers, called in turn. They may register after the page source that calls them
/// was built. At most eight calls of one shrinker run at the same time, nested ones included.
///
/// ```
/// use page_frame::{Shrink, ShrinkList};
/// use std::ptr::NonNull;
/// struct Kept<'a>(&'a [usize]);
/// impl Shrink for Kept<'_> {
///     fn reclaimable(&self) -> usize { self.0.len() }
///     fn shrink(&self, target_pages: usize) -> usize { target_pages.min(self.0.len()) }
/// }
/// let list = ShrinkList::<2>::new();
/// let pages = [1, 2, 3];
/// let kept = Kept(&pages);
/// let three: &dyn Shrink = &kept;
/// // SAFETY: clause 1: unregistered below, before it is dropped. Clause 2: it is the only one.
/// unsafe { list.register(NonNull::from(three)) }?;
/// assert_eq!((list.reclaimable(), list.shrink(2), list.shrink(9)), (3, 2, 3));
/// assert_eq!(list.unregister(NonNull::from(three)), Ok(true));
/// assert_eq!(list.shrink(9), 0);
/// # Ok::<(), page_frame::ListFull>(())
/// ```
#[derive(Debug)]
pub struct ShrinkList<const N: usize> {
    members: Lock<[Option<Member>; N]>,
    /// The number of calls inside the member of each place.
    inside: [AtomicUsize; N],
}

#[derive(Clone, Copy, Debug)]
struct Member {
    shrinker: NonNull<dyn Shrink>,
    /// Whether no new call may begin.
    is_leaving: bool,
}

// SAFETY: `Shrink` is `Sync`, so any thread may use a shared reference. Clause 1 of `register`
// keeps the pointer valid.
unsafe impl Send for Member {}

/// All `N` places of a [`ShrinkList`] are in use.
///
/// ```
/// use page_frame::{ListFull, ShrinkList};
/// use std::ptr::NonNull;
/// let (list, inner) = (ShrinkList::<0>::new(), ShrinkList::<1>::new()); // both are shrinkers
/// // SAFETY: a list without places uses no shrinker.
/// let outcome = unsafe { list.register(NonNull::from(&inner)) };
/// assert_eq!(outcome, Err(ListFull { capacity: 0 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFull {
    /// The number of places.
    pub capacity: usize,
}

impl core::fmt::Display for ListFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "all {} places of the shrink list are in use", self.capacity)
    }
}

impl core::error::Error for ListFull {}

/// A shrinker could not be unregistered yet, as a call is inside it.
///
/// ```
/// use page_frame::{Shrink, ShrinkList, StillInUse};
/// use std::ptr::NonNull;
/// static LIST: ShrinkList<1> = ShrinkList::new();
/// static ONCE: Once = Once;
/// struct Once;
/// impl Shrink for Once {
///     fn reclaimable(&self) -> usize { 0 }
///     fn shrink(&self, _: usize) -> usize {
///         // A call is inside the shrinker, so it stays on the list. No new call begins:
///         assert_eq!(LIST.unregister(NonNull::from(&ONCE)), Err(StillInUse));
///         1
///     }
/// }
/// // SAFETY: clause 1: it is valid for ever. Clause 2: it is the only one.
/// unsafe { LIST.register(NonNull::from(&ONCE)) }?;
/// assert_eq!((LIST.shrink(1), LIST.shrink(1)), (1, 0));
/// assert_eq!(LIST.unregister(NonNull::from(&ONCE)), Ok(true));
/// # Ok::<(), page_frame::ListFull>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillInUse;

impl core::fmt::Display for StillInUse {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a call of the shrinker has not returned yet")
    }
}

impl core::error::Error for StillInUse {}

impl<const N: usize> ShrinkList<N> {
    const_unless_loom! {
        /// Makes an empty list. Example: see [`ShrinkList`].
        pub fn new() -> Self {
            #[cfg(not(loom))]
            let inside = [const { AtomicUsize::new(0) }; N];
            #[cfg(loom)]
            let inside = core::array::from_fn(|_| AtomicUsize::new(0));
            Self { members: Lock::new([None; N]), inside }
        }
    }

    /// Adds `shrinker`. O(`N`); spins for the list's lock. Example: see [`ShrinkList`].
    ///
    /// # Errors
    /// [`ListFull`] when all `N` places are taken.
    ///
    /// # Safety
    /// 1. `shrinker` is valid for shared use until the list is dropped, or until
    ///    [`unregister`](Self::unregister) has returned `Ok(true)` for it.
    /// 2. No other shrinker on the list begins at the same address.
    pub unsafe fn register(&self, shrinker: NonNull<dyn Shrink + '_>) -> Result<(), ListFull> {
        // SAFETY: only the lifetime changes; clause 1 promises the validity that it expressed.
        let shrinker = unsafe {
            core::mem::transmute::<NonNull<dyn Shrink + '_>, NonNull<dyn Shrink>>(shrinker)
        };
        let mut members = self.members.lock();
        let place = members.iter_mut().find(|place| place.is_none());
        *place.ok_or(ListFull { capacity: N })? = Some(Member { shrinker, is_leaving: false });
        Ok(())
    }

    /// Removes `shrinker`. Returns whether it was registered. After `Ok` the list does not use it.
    /// O(`N`); spins for the list's lock.
    ///
    /// This never waits for a call, so a shrinker may unregister itself in its own call: that
    /// fails, as the call still uses the shrinker. After a failure no new call of the shrinker
    /// begins, and `unregister` succeeds once the last call has returned.
    /// Example: see [`ShrinkList`].
    ///
    /// # Errors
    /// [`StillInUse`] while a call is inside the shrinker, which stays on the list: try again.
    pub fn unregister(&self, shrinker: NonNull<dyn Shrink + '_>) -> Result<bool, StillInUse> {
        let mut members = self.members.lock();
        let is_it =
            |member: &Member| core::ptr::addr_eq(member.shrinker.as_ptr(), shrinker.as_ptr());
        let index = members.iter().position(|place| place.as_ref().is_some_and(is_it));
        let Some((index, member)) = index.and_then(|index| Some((index, members[index].as_mut()?)))
        else {
            return Ok(false);
        };
        member.is_leaving = true;
        // Acquire: pairs with the Release in `Call::drop`: the calls happened before the removal.
        // By I2 no new call begins.
        if self.inside[index].load(Ordering::Acquire) > 0 {
            return Err(StillInUse);
        }
        members[index] = None;
        Ok(true)
    }

    /// Begins a call of the member at `index`, unless the place is empty, the member is leaving,
    /// [`MAX_CALLS`] calls are inside it, or the lock is taken.
    fn begin(&self, index: usize) -> Option<Call<'_>> {
        let members = self.members.try_lock()?;
        let member = members[index].filter(|member| !member.is_leaving)?;
        let inside = &self.inside[index];
        // Relaxed: it grows only under the lock (I2).
        if inside.load(Ordering::Relaxed) >= MAX_CALLS {
            return None;
        }
        // Relaxed: I2: `unregister` sees it through the lock.
        inside.fetch_add(1, Ordering::Relaxed);
        Some(Call { shrinker: member.shrinker, inside })
    }
}

/// A call inside a member. Dropping it ends the call, also when the member panics.
struct Call<'a> {
    shrinker: NonNull<dyn Shrink>,
    inside: &'a AtomicUsize,
}

impl Call<'_> {
    fn shrinker(&self) -> &dyn Shrink {
        // SAFETY: clause 1 of `register`: valid until `unregister` returns `Ok`. By I1 and I2
        // `unregister` fails while this call is counted.
        unsafe { self.shrinker.as_ref() }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `unregister`.
        self.inside.fetch_sub(1, Ordering::Release);
    }
}

impl<const N: usize> Default for ShrinkList<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Shrink for ShrinkList<N> {
    fn reclaimable(&self) -> usize {
        let calls = (0..N).filter_map(|index| self.begin(index));
        calls.map(|call| call.shrinker().reclaimable()).fold(0, usize::saturating_add)
    }

    fn shrink(&self, target_pages: usize) -> usize {
        let mut given = 0_usize;
        for index in 0..N {
            if given >= target_pages {
                break;
            }
            if let Some(call) = self.begin(index) {
                // The list's lock is not held: shrinkers call into page sources.
                given = given.saturating_add(call.shrinker().shrink(target_pages - given));
            }
        }
        given
    }
}
