//! A list of shrinkers that come and go while others call them.
//!
//! # Concepts
//! Each place of the list has a member and a count of the calls that are inside it. A call counts itself under the list's lock
//! and then calls with no lock held, as shrinkers call into page sources. So a member that is to go is first marked as
//! **leaving**, after which no call begins, and goes when the count is zero.
//!
//! # Invariants
//! - I1: a member is called only by calls that are counted in its place.
//! - I2: `inside` of a place grows only under the lock, while the place has a member that is not leaving; and a place gets
//!   another member only while its `inside` is zero.

use core::ptr::NonNull;

use crate::source::shrink::Shrink;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::lock::Lock;
use crate::sync::model::const_unless_loom;

/// Up to `N` shrinkers that are asked in turn. They register after the page source that asks them has been built.
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
/// // SAFETY: it is taken out below, before it goes.
/// unsafe { list.register(NonNull::from(three)) }?;
/// assert_eq!((list.reclaimable(), list.shrink(2), list.shrink(9)), (3, 2, 3));
/// assert_eq!(list.unregister(NonNull::from(three)), Ok(true));
/// assert_eq!(list.shrink(9), 0);
/// # Ok::<(), page_frame::ListFull>(())
/// ```
#[derive(Debug)]
pub struct ShrinkList<const N: usize> {
    members: Lock<[Option<Member>; N]>,
    /// How many calls are inside the member of each place.
    inside: [AtomicUsize; N],
}

#[derive(Clone, Copy, Debug)]
struct Member {
    shrinker: NonNull<dyn Shrink>,
    /// No call begins any more.
    is_leaving: bool,
}

// SAFETY: `Shrink` is `Sync`, so a shared reference may be used anywhere; `register` was promised its validity.
unsafe impl Send for Member {}

/// All `N` places of a [`ShrinkList`] are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFull {
    /// How many shrinkers the list has room for.
    pub capacity: usize,
}

impl core::fmt::Display for ListFull {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "all {} places of the shrink list are taken", self.capacity)
    }
}

impl core::error::Error for ListFull {}

/// A shrinker could not be taken out yet, as somebody is inside it.
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
        /// Makes an empty list.
        pub fn new() -> Self {
            #[cfg(not(loom))]
            let inside = [const { AtomicUsize::new(0) }; N];
            #[cfg(loom)]
            let inside = core::array::from_fn(|_| AtomicUsize::new(0));
            Self { members: Lock::new([None; N]), inside }
        }
    }

    /// Adds `shrinker`.
    ///
    /// # Errors
    /// [`ListFull`] when all `N` places are taken.
    ///
    /// # Safety
    /// 1. `shrinker` is valid for shared use until the list is dropped, or until [`unregister`](Self::unregister) has returned
    ///    `Ok(true)` for it.
    /// 2. No other shrinker on the list begins at the same address.
    pub unsafe fn register(&self, shrinker: NonNull<dyn Shrink + '_>) -> Result<(), ListFull> {
        // SAFETY: only the lifetime changes, which clause 1 stands for.
        let shrinker = unsafe {
            core::mem::transmute::<NonNull<dyn Shrink + '_>, NonNull<dyn Shrink>>(shrinker)
        };
        let mut members = self.members.lock();
        let place = members.iter_mut().find(|place| place.is_none());
        *place.ok_or(ListFull { capacity: N })? = Some(Member { shrinker, is_leaving: false });
        Ok(())
    }

    /// Takes `shrinker` out again; whether it was there. After `Ok` the list does not use it any more.
    ///
    /// It waits for no call, so that a shrinker may take itself out while it is called: that is refused, as the call still
    /// uses the shrinker. After the refusal no further call of it begins, and a later `unregister` succeeds.
    ///
    /// # Errors
    /// [`StillInUse`] while somebody is inside the shrinker, which stays on the list: ask again.
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
        // Acquire: pairs with the Release of `Call`: what the calls did happened before the shrinker goes. By I2 no call begins.
        if self.inside[index].load(Ordering::Acquire) > 0 {
            return Err(StillInUse);
        }
        members[index] = None;
        Ok(true)
    }

    /// Begins a call of the member at `index`, unless it is leaving, or the lock is not free.
    fn begin(&self, index: usize) -> Option<Call<'_>> {
        let members = self.members.try_lock()?;
        let member = members[index].filter(|member| !member.is_leaving)?;
        let inside = &self.inside[index];
        // Relaxed: I2: under the lock, through which `unregister` sees it.
        inside.fetch_add(1, Ordering::Relaxed);
        Some(Call { shrinker: member.shrinker, inside })
    }
}

/// A call that is inside a member. Dropping it ends the call, also when the member panics.
struct Call<'a> {
    shrinker: NonNull<dyn Shrink>,
    inside: &'a AtomicUsize,
}

impl Call<'_> {
    fn shrinker(&self) -> &dyn Shrink {
        // SAFETY: clause 1 of `register`: valid until `unregister` has returned `Ok`, which by I1 and I2 it does not while
        // this call is counted.
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
