//! Zones: an address identifies its zone, or the list is refused.

use std::ptr::{NonNull, without_provenance_mut};

use buddy::{Buddy, Mode, NodeZone, ZoneKind, ZoneList, ZoneListError};
use page_frame::{DirectMap, FrameNumber, SingleCpu};

use crate::common::{Metadata, ROOT, range};

type Frames = Buddy<'static, DirectMap, SingleCpu>;

/// A buddy of 64 frames from `start`, frame 0 of which is at address `root`.
fn buddy(start: usize, root: usize) -> (Frames, Metadata) {
    let frames = [range(start, start + 64)];
    let metadata = Metadata::new(Frames::metadata_layout(&frames, 1).expect("good"));
    let root = NonNull::new(without_provenance_mut(root)).expect("not zero");
    // SAFETY: no pointer of the map is used.
    let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
    // SAFETY: the frames are numbers, and no pointer to them is used.
    let buddy =
        unsafe { Buddy::new_in(metadata.memory(), &frames, map, SingleCpu::new(), Mode::Plain) };
    (buddy.expect("enough"), metadata)
}

/// Two buddies of the same frame numbers at different addresses: a block of the second could be
/// freed to the first. Mutation seen to fail: `ZoneList::new` without `maps_like`.
#[test]
fn zones_with_different_maps_are_no_list() {
    let [(one, _a), (other, _b), (next, _c)] =
        [buddy(0, ROOT), buddy(0, 2 * ROOT), buddy(64, ROOT)];
    let zone = |node, buddy| NodeZone { node, kind: ZoneKind::Normal, buddy };
    let zones = [zone(0, &one), zone(1, &other)];
    assert_eq!(ZoneList::new(&zones).err(), Some(ZoneListError::OtherMap { index: 1 }));
    let zones = [zone(0, &one), zone(1, &next)];
    assert!(ZoneList::new(&zones).is_ok());
}
