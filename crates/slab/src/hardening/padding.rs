//! The padding that a preset puts around each object.

use core::alloc::Layout;
use core::ptr::NonNull;

use crate::hardening::canary;
use crate::hardening::history::HistoryRecord;
use crate::hardening::presets::Hardening;
use crate::hardening::requested_size::RequestedSize;

/// The places around an object, in bytes from its first one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Padding {
    // Narrow, as every cache has one: objects are smaller than 4 GiB.
    front: u32,
    behind: u32,
    end: u32,
    history: u32,
}

impl Padding {
    /// Returns the padding that `K` puts around objects of `layout`, and the layout of both; `None`
    /// when that is too large.
    pub(crate) fn of<K: Hardening>(layout: Layout) -> Option<(Self, Layout)> {
        let front = K::RED_ZONE.checked_next_multiple_of(layout.align())?;
        let canary = if K::CANARY { canary::BYTES } else { 0 };
        let behind = layout.size().checked_add(canary)?;
        let end = behind.checked_add(K::RED_ZONE)?;
        let (mut align, mut all) = (layout.align(), front.checked_add(end)?);
        // Offsets of records count from the place, as that is what is aligned.
        if K::REQUESTED_SIZE {
            align = align.max(align_of::<RequestedSize>());
            all = all.checked_next_multiple_of(align_of::<RequestedSize>())?;
            all = all.checked_add(size_of::<RequestedSize>())?;
        }
        let mut history = end;
        if K::HISTORY {
            align = align.max(align_of::<HistoryRecord>());
            all = all.checked_next_multiple_of(align_of::<HistoryRecord>())?;
            history = all - front;
            all = all.checked_add(size_of::<HistoryRecord>())?;
        }
        let whole = Layout::from_size_align(all, align).ok()?;
        let narrow = |bytes: usize| u32::try_from(bytes).ok();
        let (front, behind) = (narrow(front)?, narrow(behind)?);
        Some((Self { front, behind, end: narrow(end)?, history: narrow(history)? }, whole))
    }

    /// Returns the bytes of the red zone in front.
    #[inline]
    pub(crate) fn front(&self) -> usize {
        self.front as usize
    }

    /// Returns where the red zone behind begins, behind the canary.
    pub(crate) fn behind(&self) -> usize {
        self.behind as usize
    }

    /// Returns where it ends, and the history may begin.
    pub(crate) fn end(&self) -> usize {
        self.end as usize
    }

    /// Returns where the requested size of `object` is kept.
    pub(crate) fn requested_size(&self, object: NonNull<u8>) -> NonNull<RequestedSize> {
        let from_place = (self.front() + self.end()).next_multiple_of(align_of::<RequestedSize>());
        // SAFETY: a preset with requested sizes has room for one there, inside the place.
        unsafe { object.add(from_place - self.front()) }.cast()
    }

    /// Returns where the history of `object` is kept.
    pub(crate) fn history(&self, object: NonNull<u8>) -> NonNull<HistoryRecord> {
        // SAFETY: a preset with histories has room for one there, inside the place.
        unsafe { object.add(self.history as usize) }.cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardening::presets::{Debugging, Hardened, Off};

    #[test]
    fn off_adds_nothing_and_the_parts_of_debug_do_not_overlap() {
        let layout = Layout::new::<[u32; 5]>();
        let (padding, whole) = Padding::of::<Off>(layout).expect("small");
        assert_eq!((padding.front(), whole), (0, layout));
        let (padding, whole) = Padding::of::<Hardened>(layout).expect("small");
        assert_eq!((padding.front(), whole.size(), whole.align()), (0, 20 + canary::BYTES, 4));
        for align in [1, 4, 64, 4096] {
            let layout = Layout::from_size_align(24, align).expect("a layout");
            let (padding, whole) = Padding::of::<Debugging>(layout).expect("small");
            assert_eq!(padding.front() % align, 0);
            assert!(
                padding.front() >= Debugging::RED_ZONE && padding.behind() == 24 + canary::BYTES
            );
            assert!(padding.end() == padding.behind() + Debugging::RED_ZONE);
            let requested = padding.requested_size(NonNull::dangling()).addr().get() - 1;
            assert!(requested >= padding.end());
            assert_eq!((padding.front() + requested) % align_of::<RequestedSize>(), 0);
            assert!(padding.history as usize >= requested + size_of::<RequestedSize>());
            assert_eq!(
                (padding.front() + padding.history as usize) % align_of::<HistoryRecord>(),
                0
            );
            assert!(
                padding.front() + padding.history as usize + size_of::<HistoryRecord>()
                    <= whole.size()
            );
            assert_eq!(whole.align(), align.max(align_of::<HistoryRecord>()));
        }
    }
}
