//! Memory that is added, removed, and taken offline at run time.
#![cfg(not(loom))]

mod common;

use std::cell::Cell;

use buddy::{HotplugError, Mode, Watermarks};
use common::{Metadata, Simulated, range};
use page_frame::{Cpu, CpuId, FaultKind, FrameNumber, FrameRange, Order, SingleCpu};
use testkit::{Random, steps};

/// Frames of a section.
const SECTION: usize = 1 << 18;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

type Buddy = buddy::Buddy<'static, page_frame::DirectMap, SingleCpu>;

#[test]
fn an_added_section_is_memory_like_any_other() {
    let [metadata, ragged] = [(); 2].map(|()| Metadata::new(Buddy::section_layout()));
    let base = 7 * SECTION;
    let start = range(base + 100, base + 2000);
    let room = range(base, base + 4 * SECTION);
    let buddy = Simulated::with_room(&[start], room, SingleCpu::new(), Mode::Cached);
    let watermarks: Watermarks = Watermarks::new(1900, buddy::Marks::default(), |_| ());
    let buddy = buddy.traced(&watermarks);
    assert!(buddy.allocate_frames(order(18)).is_err());
    let added = range(base + 2 * SECTION, base + 3 * SECTION);
    buddy.add_section(metadata.memory(), added).expect("room, and nothing there");
    assert_eq!((buddy.frames(), buddy.free_frames_count()), (1900 + SECTION, 1900 + SECTION));
    assert_eq!(watermarks.free_frames(), 1900 + SECTION);
    buddy.validate().expect("consistent");
    let whole = buddy.allocate_frames(order(18)).expect("the added section is free");
    assert_eq!(whole, added.start);
    buddy.free_frames(whole, order(18)).expect("ours");

    let below = range(base + SECTION + 5, base + SECTION + 1700);
    buddy.add_section(ragged.memory(), below).expect("room, and nothing there");
    buddy.validate().expect("consistent");
    let starts: Vec<_> = buddy.free_blocks().map(|(start, _)| start).collect();
    assert!(starts.is_sorted(), "ranges are merged in order");
    let hole = buddy.free_frames(FrameNumber::new(base + SECTION), Order::ZERO);
    assert_eq!(hole.expect_err("absent").kind, FaultKind::ReservedFrame);

    let mut random = Random::new(4);
    let mut live = Vec::new();
    for _ in 0..steps(30_000) {
        if random.below(100) < 60 {
            let size = order((random.number().trailing_zeros() as u8).min(9));
            live.extend(buddy.allocate_frames(size).ok().map(|block| (block, size)));
        } else if !live.is_empty() {
            let (block, size) = live.swap_remove(random.below(live.len()));
            buddy.free_frames(block, size).expect("live");
        }
    }
    assert!(live.iter().any(|(block, _)| below.contains(*block)), "all sections are used");
    live.into_iter().for_each(|(block, size)| buddy.free_frames(block, size).expect("live"));
    buddy.drain();
    buddy.validate().expect("consistent");
    assert_eq!(buddy.free_frames_count(), 1900 + SECTION + 1695);
}

#[test]
fn sections_are_refused_where_they_do_not_fit() {
    let metadata = Metadata::new(Buddy::section_layout());
    let buddy = Simulated::with_room(
        &[range(0, 1000)],
        range(0, 2 * SECTION),
        SingleCpu::new(),
        Mode::Cached,
    );
    let cases = [
        (range(SECTION, SECTION), HotplugError::NotOneSection),
        (range(SECTION - 1, SECTION + 1), HotplugError::NotOneSection),
        (range(2 * SECTION, 2 * SECTION + 1), HotplugError::NoRoom),
        (range(1000, 2000), HotplugError::Occupied),
    ];
    for (frames, expected) in cases {
        let refused = buddy.add_section(metadata.memory(), frames);
        assert_eq!(refused, Err(expected), "{frames:?}");
    }
    let first = range(SECTION, SECTION + 10);
    buddy.add_section(metadata.memory(), first).expect("room, and nothing there");
    let twice = buddy.add_section(metadata.memory(), first);
    assert_eq!(twice, Err(HotplugError::Occupied));
}

#[test]
fn unused_areas_go_offline_and_come_back() {
    let buddy = Simulated::new(&[range(3, 4000)], SingleCpu::new(), Mode::Cached);
    let initial = buddy.free_counts();
    let in_the_way = FrameNumber::new(1111);
    buddy.allocate_at(in_the_way, Order::ZERO).expect("free");
    let areas = range(512, 2048);
    assert_eq!(buddy.offline(areas), Err(HotplugError::InUse { frame: in_the_way }));
    assert_eq!(buddy.free_frames_count(), 3996, "nothing has changed");
    buddy.free_frames(in_the_way, Order::ZERO).expect("ours");
    buddy.offline(areas).expect("all of it is free");
    assert_eq!(buddy.free_frames_count(), 3997 - 1536);
    buddy.validate().expect("consistent");

    let mut had = Vec::new();
    while let Ok(frame) = buddy.allocate_frames(Order::ZERO) {
        assert!(!areas.contains(frame), "{frame} is offline");
        had.push(frame);
    }
    assert_eq!(had.len(), 3997 - 1536);
    assert!(buddy.free_frames(areas.start, order(9)).is_err(), "no block is allocated there");
    let used = buddy.online(range(0, 0));
    assert_eq!(used, Err(HotplugError::Absent));
    let used = buddy.online(range(3, 512));
    assert_eq!(used, Err(HotplugError::InUse { frame: FrameNumber::new(3) }));
    buddy.online(range(512, 1024)).expect("offline");
    assert_eq!(buddy.allocate_frames(order(9)).expect("an area is back").get(), 512);
    buddy.free_frames(FrameNumber::new(512), order(9)).expect("ours");
    buddy.online(range(1024, 2048)).expect("offline");
    had.into_iter().for_each(|frame| buddy.free_frames(frame, Order::ZERO).expect("ours"));
    buddy.drain();
    assert_eq!(buddy.free_counts(), initial);
    buddy.validate().expect("consistent");
}

#[test]
fn parts_of_areas_do_not_go_offline_but_ragged_edges_do() {
    let buddy = Simulated::new(&[range(3, 700), range(900, 4000)], SingleCpu::new(), Mode::Cached);
    let part = |frames: FrameRange| buddy.offline(frames);
    assert_eq!(part(range(512, 600)), Err(HotplugError::PartOfArea));
    assert_eq!(part(range(600, 700)), Err(HotplugError::PartOfArea));
    assert_eq!(part(range(600, 950)), Err(HotplugError::Absent), "a hole is not memory");
    for edge in [range(3, 700), range(900, 1024), range(3584, 4000)] {
        part(edge).expect("as much of its areas as there is");
        assert_eq!(part(edge).err(), Some(HotplugError::InUse { frame: edge.start }));
        buddy.validate().expect("consistent");
        buddy.online(edge).expect("offline");
    }
    assert_eq!(buddy.free_frames_count(), 697 + 3100);
}

#[test]
fn a_section_that_is_offline_is_removed_and_another_takes_its_place() {
    let [first, second] = [(); 2].map(|()| Metadata::new(Buddy::section_layout()));
    let room = range(0, 4 * SECTION);
    let mut buddy = Simulated::with_room(&[range(3, 1000)], room, SingleCpu::new(), Mode::Cached);
    let initial = buddy.free_counts();
    let added = range(2 * SECTION + 100, 2 * SECTION + 3000);
    buddy.add_section(first.memory(), added).expect("room, and nothing there");

    // All of it was used, so that the slot has blocks of the section and owns areas of it.
    let blocks: Vec<_> = (0..).map_while(|_| buddy.allocate_frames(order(1)).ok()).collect();
    assert!(blocks.iter().any(|block| added.contains(*block)));
    blocks.into_iter().for_each(|block| buddy.free_frames(block, order(1)).expect("ours"));
    let held = buddy.allocate_frames(Order::ZERO).expect("free");
    buddy.free_frames(held, Order::ZERO).expect("ours");

    let online = Err(HotplugError::InUse { frame: added.start });
    assert_eq!(buddy.remove_section(added.start), online, "all of it");
    let middle = range(2 * SECTION + 512, 2 * SECTION + 1024);
    buddy.offline(range(added.start.get(), middle.start.get())).expect("free");
    buddy.offline(range(middle.end.get(), added.end.get())).expect("free");
    let online = Err(HotplugError::InUse { frame: middle.start });
    assert_eq!(buddy.remove_section(added.start), online, "one area");
    buddy.offline(middle).expect("free");
    assert_eq!(buddy.remove_section(added.start), Ok(added));
    // A use after the removal would find all frames taken and all hints wrong.
    // SAFETY: the section was removed, so the allocator does not use the metadata any more.
    unsafe { first.start().write_bytes(0xff, Buddy::section_layout().size()) };

    assert_eq!((buddy.frames(), buddy.free_counts()), (997, initial));
    buddy.validate().expect("consistent");
    for frame in [added.start, middle.start] {
        let fault = buddy.free_frames(frame, Order::ZERO).expect_err("absent");
        assert_eq!(fault.kind, FaultKind::ReservedFrame);
    }
    assert_eq!(buddy.online(middle), Err(HotplugError::Absent));
    assert_eq!(buddy.remove_section(added.start), Err(HotplugError::Absent), "twice");
    assert_eq!(buddy.remove_section(FrameNumber::new(5)), Err(HotplugError::FromStart));
    let beyond = FrameNumber::new(9 * SECTION);
    assert_eq!(buddy.remove_section(beyond), Err(HotplugError::Absent));
    let all: Vec<_> = (0..).map_while(|_| buddy.allocate_frames(Order::ZERO).ok()).collect();
    assert_eq!(all.len(), 997, "no frame of it is to be had");
    all.into_iter().for_each(|frame| buddy.free_frames(frame, Order::ZERO).expect("ours"));

    let larger = range(2 * SECTION, 3 * SECTION);
    buddy.add_section(second.memory(), larger).expect("its place is free again");
    buddy.drain();
    buddy.validate().expect("no frame is still tagged as offline");
    assert_eq!(buddy.free_frames_count(), 997 + SECTION);
    assert_eq!(buddy.allocate_frames(order(18)), Ok(larger.start));
}

/// A CPU that can be switched to enter without its slot, and to not fence, so that its slot cannot
/// be taken over.
struct Stubborn {
    is_here: Cell<bool>,
    may_fence: Cell<bool>,
}

// SAFETY: clause 1: the type is not `Sync`, and nothing runs on top. Clauses 2 to 5: there is no
// other context, and one id.
unsafe impl Cpu for Stubborn {
    fn slots(&self) -> usize {
        1
    }

    fn pin(&self) -> Option<CpuId> {
        self.is_here.get().then(|| CpuId::new(0))
    }

    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        self.may_fence.get()
    }
}

#[test]
fn a_section_is_not_removed_while_a_slot_owns_an_area_of_it() {
    let metadata = Metadata::new(Buddy::section_layout());
    let cpu = Stubborn { is_here: Cell::new(true), may_fence: Cell::new(true) };
    let start = range(0, 128 * 512);
    let mut buddy = Simulated::with_room(&[start], range(0, 2 * SECTION), &cpu, Mode::Cached);
    let added = range(SECTION + 100, SECTION + 300);
    buddy.add_section(metadata.memory(), added).expect("room, and nothing there");

    // To the last block, so that the slot caches none, but owns the area that they came from.
    let (mut blocks, mut missing) = (Vec::new(), added.frames() / 2);
    while missing > 0 {
        let block = buddy.allocate_frames(order(1)).expect("all of it is free");
        missing -= usize::from(added.contains(block));
        blocks.push(block);
    }
    cpu.is_here.set(false);
    blocks.into_iter().for_each(|block| buddy.free_frames(block, order(1)).expect("ours"));
    cpu.may_fence.set(false);
    buddy.offline(added).expect("no slot has a block of it");
    let owned = Err(HotplugError::InUse { frame: added.start });
    assert_eq!(buddy.remove_section(added.start), owned, "the slot would go on to take from it");
    cpu.may_fence.set(true);
    assert_eq!(buddy.remove_section(added.start), Ok(added));
    buddy.validate().expect("consistent");
}
