//! Sections that are added and removed, and areas that go offline and online.

use alloc::vec;
use core::mem::MaybeUninit;

use buddy::{FrameAllocator, Mode, ZeroedMemory};
use page_frame::{FrameNumber, FrameRange};

use crate::cpus::KernelCpu;
use crate::longest::row::{Report, Row};

const ROUNDS: usize = 10;
/// Frames of a section: 1 GiB. Those of these sections have no memory, which nobody accesses.
const SECTION: usize = 1 << 18;

pub(super) fn run(report: &mut Report) {
    let [mut added, mut offline, mut online, mut removed] =
        ["section-add", "section-offline", "section-online", "section-remove"]
            .map(|name| Row::new(name, 2 * ROUNDS));
    let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    let (first, room) = ([range(0, SECTION)], range(0, 2 * SECTION));
    let layout = FrameAllocator::<KernelCpu>::metadata_layout_with_room(&first, room, 8);
    let bytes = |layout: core::alloc::Layout| layout.size() + layout.align();
    let mut own = vec![MaybeUninit::uninit(); bytes(layout.expect("the ranges ascend"))];
    let section_bytes = bytes(FrameAllocator::<KernelCpu>::section_layout());
    let mut more = vec![vec![MaybeUninit::uninit(); section_bytes]; ROUNDS];
    let own = ZeroedMemory::zero(&mut own);
    let made = FrameAllocator::new_with_room(own, &first, room, KernelCpu, Mode::Cached);
    let mut frames = made.expect("the memory is of its layout");
    for (round, metadata) in more.iter_mut().enumerate() {
        // A whole one, or a half that ends in the middle of an area.
        let end = if round % 2 == 0 { 2 * SECTION } else { SECTION + SECTION / 2 - 77 };
        let section = range(SECTION, end);
        let metadata = ZeroedMemory::zero(metadata);
        added.count(|| frames.add_section(metadata, section)).expect("there is room");
        offline.count(|| frames.offline(section)).expect("no frame is in use");
        online.count(|| frames.online(section)).expect("all are offline");
        offline.count(|| frames.offline(section)).expect("no frame is in use");
        removed.count(|| frames.remove_section(section.start)).expect("all are offline");
    }
    report.add([added, offline, online, removed]);
}
