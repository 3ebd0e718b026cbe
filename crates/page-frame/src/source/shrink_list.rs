//! A list of shrinkers, which register and unregister while other CPUs call them.
//!
//! # Concepts
//! Each place of the list has a member and a count of the calls inside it. A call increments the
//! count under the list's lock, and calls the member without the lock, because shrinkers call page
//! sources, which may call the list again. `unregister` first marks the member as **leaving**,
//! after which no new call begins, and removes it once the count is zero.
//!
//! # Invariants
//! - I1: a [`Call`] exists only while the `inside` of its place counts it, and only a `Call` uses
//!   the pointer to the member.
//! - I2: `inside` of a place grows only under the lock, while the place has a member that is not
//!   leaving. A place gets another member only while its `inside` is zero.

use core::ptr::NonNull;

use crate::arch::hint::spin_hint;
use crate::atomic::{AtomicUsize, Ordering};
use crate::source::shrink::Shrink;
use crate::sync::lock::Lock;
use crate::sync::model::{MODELLED, const_unless_loom};

/// Calls of one shrinker that may be inside it at the same time: from several CPUs, or nested, when
/// a shrinker allocates from the page source that calls it. More are left out, so that such a
/// recursion ends.
pub(crate) const MAX_CALLS: usize = 8;
/// Times that a call tries the list's lock.
const TRIES: usize = if MODELLED { 1 } else { 100 };

/// At most `N` shrinkers, called in the order of their places until enough is freed. They may
/// register after the page source that calls them was built.
///
/// A call leaves out a shrinker that eight calls are inside of already, nested ones and those of
/// [`reclaimable`](Shrink::reclaimable) included; and all of them in an interrupt handler that
/// interrupted the holder of the list's lock, which is held for a few instructions.
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
/// static LEAVING: Leaving = Leaving;
/// struct Leaving;
/// impl Shrink for Leaving {
///     fn reclaimable(&self) -> usize { 0 }
///     fn shrink(&self, _: usize) -> usize {
///         // A call is inside the shrinker, so it stays on the list. No new call begins:
///         assert_eq!(LIST.unregister(NonNull::from(&LEAVING)), Err(StillInUse));
///         1
///     }
/// }
/// // SAFETY: clause 1: it is valid for ever. Clause 2: it is the only one.
/// unsafe { LIST.register(NonNull::from(&LEAVING)) }?;
/// assert_eq!((LIST.shrink(1), LIST.shrink(1)), (1, 0));
/// assert_eq!(LIST.unregister(NonNull::from(&LEAVING)), Ok(true));
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

    /// Adds `shrinker`. O(`N`); spins for the list's lock with interrupts as they are, so no
    /// interrupt handler may call it. Example: see [`ShrinkList`].
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
    /// O(`N`); spins for the list's lock, as [`register`](Self::register) does.
    ///
    /// This never waits for a call. A shrinker that tries to unregister itself in its own call gets
    /// [`StillInUse`], because the call still uses it. After a failure no new call of the shrinker
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
    /// [`MAX_CALLS`] calls are inside it, or the lock stays taken.
    fn begin(&self, index: usize) -> Option<Call<'_>> {
        // Another CPU holds the lock for a few instructions. A handler that interrupted the holder
        // would wait for ever, so it gives up.
        let members = (0..TRIES).find_map(|_| {
            let members = self.members.try_lock();
            if members.is_none() {
                spin_hint();
            }
            members
        })?;
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
