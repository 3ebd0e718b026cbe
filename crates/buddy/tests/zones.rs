//! Zones that stand in for each other, and watermarks that keep a reserve.
#![cfg(not(loom))]

mod common;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use buddy::{
    Buddy, EventCounts, Marks, Mobility, Mode, NodeZone, Pressure, Request, Trace, Watermarks,
    ZoneKind, ZoneList, ZoneListError,
};
use common::{Simulated, range};
use page_frame::{
    CpuId, DirectMap, FrameNumber, Order, PageBlock, PageMap, PageResize, PageSource, SingleCpu,
    SwitchedCpu, Tag,
};
use testkit::{Random, steps};

const PAGE: usize = 4096;
/// Where frame 0 of a simulated buddy lies.
const ROOT: usize = 1 << 40;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

fn frame_of(block: &PageBlock) -> usize {
    (block.start().addr().get() - ROOT) / PAGE
}

/// Two nodes with 64 frames in each of their zones: node 0 has DMA, DMA32 and Normal, node 1 Normal
/// and Movable.
fn two_nodes<T: Copy + Trace>(trace: T) -> [Simulated<SingleCpu, T>; 5] {
    [0, 64, 128, 256, 320].map(|start| {
        let frames = [range(start, start + 64)];
        Simulated::new(&frames, SingleCpu::new(), Mode::Cached).traced(trace)
    })
}

fn normal_zone<'z, O>(
    node: u16,
    buddy: &'z buddy::Buddy<'static, DirectMap, SingleCpu, O>,
) -> NodeZone<'z, Buddy<'static, DirectMap, SingleCpu, O>> {
    NodeZone { node, kind: ZoneKind::Normal, buddy }
}

type Zones<'z, O> = [NodeZone<'z, Buddy<'static, DirectMap, SingleCpu, O>>; 5];

fn named<O>(buddies: &[Simulated<SingleCpu, O>; 5]) -> Zones<'_, O> {
    let names = [
        (0, ZoneKind::Dma),
        (0, ZoneKind::Dma32),
        (0, ZoneKind::Normal),
        (1, ZoneKind::Normal),
        (1, ZoneKind::Movable),
    ];
    let mut buddies = buddies.iter();
    names.map(|(node, kind)| NodeZone {
        node,
        kind,
        buddy: &**buddies.next().expect("five of each"),
    })
}

/// Allocates all blocks of 64 frames, frees them, and returns their first frames.
fn places(source: impl PageSource) -> Vec<usize> {
    let mut blocks = Vec::new();
    while let Ok(block) = source.allocate(order(6)) {
        blocks.push(block);
    }
    let places = blocks.iter().map(frame_of).collect();
    // SAFETY: the blocks came from this source and are numbers only.
    blocks.into_iter().for_each(|block| unsafe { source.free(block) });
    places
}

#[test]
fn requests_fall_back_downward_and_to_the_next_node_and_never_upward() {
    let buddies = two_nodes(());
    let zones = named(&buddies);
    let list = ZoneList::new(&zones).expect("in order");
    let movable = Mobility::Movable;
    let ask = |zone, node, mobility| Request { zone, node, mobility, ..Request::default() };
    let plain = Mobility::default();
    let cases = [
        (ask(ZoneKind::Normal, 0, plain), vec![128, 64, 0, 256]),
        (ask(ZoneKind::Normal, 1, plain), vec![256, 128, 64, 0]),
        (ask(ZoneKind::Dma32, 1, plain), vec![64, 0]),
        (ask(ZoneKind::Dma, 0, plain), vec![0]),
        (ask(ZoneKind::Movable, 1, movable), vec![320, 256, 128, 64, 0]),
        (ask(ZoneKind::Movable, 1, plain), vec![256, 128, 64, 0]),
        (ask(ZoneKind::Movable, 0, movable), vec![128, 64, 0, 320, 256]),
    ];
    for (request, expected) in cases {
        assert_eq!(places(list.source(request)), expected, "{request:?}");
    }
    for buddy in &buddies {
        buddy.drain();
        assert_eq!(buddy.free_frames_count(), 64, "all are free");
    }
}

#[test]
fn nodes_are_tried_by_number() {
    let buddies = two_nodes(());
    let [first, second, ..] = named(&buddies);
    let zones = [normal_zone(7, first.buddy), normal_zone(u16::MAX, second.buddy)];
    let list = ZoneList::new(&zones).expect("in order");
    let from = |node| places(list.source(Request { node, ..Request::default() }));
    assert_eq!(from(7), [0, 64]);
    assert_eq!(from(0), [0, 64], "node 0 has no memory: the next one that has");
    assert_eq!(from(8), [64, 0]);
    assert_eq!(from(u16::MAX), [64, 0]);
}

#[test]
fn nodes_are_tried_by_their_distance() {
    let buddies = two_nodes(());
    let [first, second, third, ..] = named(&buddies);
    let zones = [(0, first.buddy), (1, second.buddy), (3, third.buddy)]
        .map(|(node, b)| normal_zone(node, b));
    // Node 2 has no memory, and is a neighbour of node 1.
    let distances = [10, 40, 40, 20, 40, 10, 20, 40, 40, 20, 10, 40, 20, 40, 40, 10];
    let list = ZoneList::new(&zones).expect("in order").with_distances(&distances);
    let list = list.expect("a row for each of four nodes");
    let from = |node| places(list.source(Request { node, ..Request::default() }));
    assert_eq!(from(0), [0, 128, 64]);
    assert_eq!(from(1), [64, 128, 0], "both are as far: the next number first");
    assert_eq!(from(2), [64, 128, 0]);
    assert_eq!(from(3), [128, 0, 64]);
    assert_eq!(from(9), [0, 64, 128], "a node that firmware says nothing of");
    for wrong in [&distances[..15], &distances[..9]] {
        let refused = ZoneList::new(&zones).expect("in order").with_distances(wrong);
        let error = refused.expect_err("no row for node 3");
        assert_eq!(error, ZoneListError::NotSquare { distances: wrong.len() });
    }
}

/// A zone that is short of memory at the first look, and has plenty from then on.
#[derive(Clone, Copy)]
struct Refilled(&'static AtomicBool);

impl Trace for Refilled {
    fn pressure(&self) -> Pressure {
        if self.0.swap(true, Ordering::Relaxed) { Pressure::None } else { Pressure::Low }
    }
}

#[test]
fn a_zone_that_is_refilled_during_a_request_is_tried() {
    static WAS_LOOKED_AT: AtomicBool = AtomicBool::new(false);
    let frames = [range(0, 64)];
    let buddy = Simulated::new(&frames, SingleCpu::new(), Mode::Cached);
    let buddy = buddy.traced(Refilled(&WAS_LOOKED_AT));
    let zones = [normal_zone(0, &buddy)];
    let source = ZoneList::new(&zones).expect("one zone");
    let source = source.source(Request::default());
    let block = source.allocate(order(0)).expect("all of it is free");
    // SAFETY: the block came from this source and is a number only.
    unsafe { source.free(block) };
}

#[test]
fn zones_out_of_order_are_no_list() {
    let buddies = two_nodes(());
    let mut zones = named(&buddies);
    zones.swap(1, 2);
    assert_eq!(ZoneList::new(&zones).err(), Some(ZoneListError::Unordered { index: 2 }));
    assert_eq!(ZoneList::new(&zones[..0]).err(), Some(ZoneListError::Empty));
}

#[test]
fn the_page_map_and_runs_belong_to_the_zone_of_the_address() {
    let buddies = two_nodes(());
    let zones = named(&buddies);
    let list = ZoneList::new(&zones).expect("in order");
    let source = list.source(Request { zone: ZoneKind::Dma32, ..Request::default() });
    let block = source.allocate(order(2)).expect("free");
    let address = block.start().addr().get();
    assert_eq!(frame_of(&block) / 64, 1);
    assert_eq!(source.tag(address), Tag::block(order(2)));
    assert_eq!(buddies[1].tag(address), Tag::block(order(2)));
    assert_eq!(source.tag(ROOT + 200 * PAGE), Tag::NONE, "between the nodes is nothing");
    let run = source.allocate_run(33, Order::ZERO).expect("DMA has room");
    assert_eq!((run.start().addr().get() - ROOT) / PAGE / 64, 0);
    // SAFETY: the run is ours; frames are only numbers.
    assert!(unsafe { source.resize_run(run.start(), 33, 40) });
    assert_eq!(source.run_pages(run.start().addr().get()), Some(40));
    // SAFETY: our run of 40 pages. A refused resize does not change it.
    assert!(!unsafe { source.resize_run(run.start(), 40, 65) }, "a run stays in its zone");
    // SAFETY: the run with the pages that it still has.
    unsafe { source.free_run(run.start(), 40) };
    // SAFETY: the block came from this source.
    unsafe { source.free(block) };
    for buddy in &buddies {
        buddy.drain();
        buddy.validate().expect("consistent");
        assert_eq!(buddy.free_frames_count(), 64);
    }
}

#[test]
fn ordinary_requests_stop_at_min_and_reserve_requests_go_on() {
    let pressures = Mutex::new(Vec::new());
    let marks = Marks { min: 256, low: 512, high: 1024 };
    let hook = |pressure| pressures.lock().expect("no panic").push(pressure);
    let watermarks = Watermarks::new(4096, marks, hook);
    let buddy =
        Simulated::new(&[range(0, 4096)], SingleCpu::new(), Mode::Cached).traced(&watermarks);
    let zones = [NodeZone { node: 0, kind: ZoneKind::Normal, buddy: &*buddy }];
    let list = ZoneList::new(&zones).expect("one zone");
    let ordinary = list.source(Request::default());
    let reserve = list.source(Request { may_use_reserve: true, ..Request::default() });

    let mut held = Vec::new();
    while let Ok(block) = ordinary.allocate(order(4)) {
        held.push(block);
    }
    // The count may be off by half of `min`, and a refill may take a stack of blocks more than
    // requested.
    let had: usize = held.iter().map(PageBlock::pages).sum();
    assert!((4096 - 256 - 256 - 128..=4096 - 256 + 128).contains(&had), "{had} frames");
    assert!(list.pressure() >= Pressure::Low);
    assert_eq!(pressures.lock().expect("no panic")[0], Pressure::Low);

    let urgent = reserve.allocate(Order::ZERO).expect("the reserve serves an interrupt");
    // SAFETY: ours; frames are only numbers.
    unsafe { reserve.free(urgent) };
    while let Ok(block) = reserve.allocate(Order::ZERO) {
        held.push(block);
    }
    assert_eq!(held.iter().map(PageBlock::pages).sum::<usize>(), 4096, "to the last frame");
    assert_eq!(watermarks.pressure(), Pressure::Min);

    // SAFETY: each block was allocated from this list, and its frames identify its zone.
    held.into_iter().for_each(|block| unsafe { ordinary.free(block) });
    buddy.drain();
    assert_eq!(watermarks.pressure(), Pressure::None);
    let pressures = pressures.lock().expect("no panic").clone();
    assert_eq!(pressures, [Pressure::Low, Pressure::Min, Pressure::Low, Pressure::None]);
    assert!(ordinary.allocate(order(4)).is_ok_and(|block| {
        // SAFETY: taken above, when there was room again.
        unsafe { ordinary.free(block) };
        true
    }));
}

#[test]
fn a_zone_below_low_is_spared_while_another_has_plenty() {
    let marks = Marks { min: 4, low: 40, high: 50 };
    let watermarks: [Watermarks; 2] =
        core::array::from_fn(|_| Watermarks::new(64, marks, (|_| ()) as fn(Pressure)));
    let buddies = [0, 64].map(|start| {
        let watermarks = &watermarks[start / 64];
        Simulated::new(&[range(start, start + 64)], SingleCpu::new(), Mode::Cached)
            .traced(watermarks)
    });
    let zones = [(ZoneKind::Dma32, 0), (ZoneKind::Normal, 1)].map(|(kind, index)| NodeZone {
        node: 0,
        kind,
        buddy: &*buddies[index],
    });
    let list = ZoneList::new(&zones).expect("in order");
    let source = list.source(Request::default());
    let mut zones_used = Vec::new();
    while let Ok(block) = source.allocate(order(4)) {
        zones_used.push(frame_of(&block) / 64);
        std::mem::forget(block);
    }
    // Blocks of 16: each zone of 64 gives two before it has less than 40 free, then one more before
    // `min` refuses.
    assert_eq!(zones_used, [1, 1, 0, 0, 1, 0]);
}

#[test]
fn watermarks_count_the_free_frames() {
    let marks = Marks { min: 8, low: 16, high: 24 };
    let counts = EventCounts::new();
    let watermarks: Watermarks = Watermarks::new(8192, marks, |_| ());
    let cpus = SwitchedCpu::new(3);
    let buddy =
        Simulated::new(&[range(0, 8192)], &cpus, Mode::Cached).traced((&watermarks, &counts));
    let mut random = Random::new(12);
    let mut live: Vec<(FrameNumber, Order)> = Vec::new();
    for step in 0..steps(20_000) {
        cpus.switch_to((!random.one_in(9)).then(|| CpuId::new(random.below(3) as u32)));
        if random.below(100) < 52 {
            let size = order((random.number().trailing_zeros() as u8).min(10));
            live.extend(buddy.allocate_frames(size).ok().map(|block| (block, size)));
        } else if !live.is_empty() {
            let (block, size) = live.swap_remove(random.below(live.len()));
            buddy.free_frames(block, size).expect("live");
        }
        if step % 97 == 0 {
            assert_eq!(watermarks.free_frames(), buddy.free_frames_count(), "step {step}");
        }
    }
    assert!(counts.splits() > 0, "both listen");
    live.into_iter().for_each(|(block, size)| buddy.free_frames(block, size).expect("live"));
    buddy.drain();
    assert_eq!((watermarks.free_frames(), watermarks.pressure()), (8192, Pressure::None));
    assert!(watermarks.allows(8192 - 8) && !watermarks.allows(8192 - 7));
}

/// A slab or a run of each zone is recorded in the map of its zone.
///
/// Mutation that it catches: a method of `ZoneSource` that takes the first zone for each address.
#[test]
fn owners_and_runs_are_recorded_in_the_zone_of_the_address() {
    let buddies = two_nodes(());
    let zones = named(&buddies);
    let list = ZoneList::new(&zones).expect("in order");
    assert_eq!(list.zones().len(), 5);
    let source = list.source(Request { may_use_reserve: true, ..Request::default() });
    #[allow(clippy::clone_on_copy, reason = "`Clone` is what is tested")]
    let source = source.clone();
    assert!(source.request().may_use_reserve);
    assert_eq!(source.tag_range().pages(), 64);
    let mut record = 7_u64;
    let record = std::ptr::NonNull::from(&mut record).cast::<()>();
    for buddy in &buddies {
        let block = buddy.allocate(order(2)).expect("free");
        let (start, address) = (block.start(), block.start().addr().get());
        assert_eq!(source.pointer(address), start);
        // SAFETY: the block is ours.
        unsafe { source.set_owner(start, 4, Tag::SLAB, record) };
        for page in 0..4 {
            let address = address + page * PAGE;
            assert_eq!((buddy.tag(address), buddy.owner(address)), (Tag::SLAB, record.as_ptr()));
            assert_eq!(source.owner(address), record.as_ptr());
        }
        // SAFETY: as above.
        unsafe { source.clear_owner(start, order(2)) };
        assert_eq!(buddy.tag(address), Tag::block(order(2)));
        // SAFETY: as above.
        unsafe { source.set_run(start, 4) };
        assert_eq!((buddy.tag(address), buddy.run_pages(address)), (Tag::RUN, Some(4)));
        // SAFETY: as above.
        unsafe { source.clear_run(start, order(2)) };
        assert_eq!(buddy.tag(address), Tag::block(order(2)));
        // SAFETY: from this zone.
        unsafe { source.free(block) };
        buddy.drain();
        buddy.validate().expect("consistent");
    }
}

/// A run grows only while its zone stays above its reserve, unless the request may use that.
///
/// Mutation that it catches: `resize_run` that does not ask the zone, or asks also for a request
/// that may use the reserve.
#[test]
fn a_run_does_not_grow_into_the_reserve() {
    let marks = Marks::for_frames(4096);
    assert_eq!(marks, Marks { min: 128, low: 160, high: 192 });
    assert_eq!(Marks::for_frames(256).min, 32, "two square roots are an eighth");
    assert_eq!(Marks::for_frames(64).min, 8, "an eighth is less");
    let watermarks = Watermarks::new(4096, marks, |_: Pressure| ());
    assert_eq!(watermarks.marks(), marks);
    let frames = [range(0, 4096)];
    let buddy = Simulated::new(&frames, SingleCpu::new(), Mode::Plain);
    // Two traces: the stricter one decides.
    let buddy = buddy.traced((EventCounts::new(), &watermarks));
    let zones = [NodeZone { node: 0, kind: ZoneKind::Normal, buddy: &*buddy }];
    let list = ZoneList::new(&zones).expect("one zone");
    let ordinary = list.source(Request::default());
    let reserve = list.source(Request { may_use_reserve: true, ..Request::default() });
    let run = ordinary.allocate_run(3000, Order::ZERO).expect("free");
    assert!(ordinary.allocate_run(4096 - 3000 - 64, Order::ZERO).is_err(), "below the reserve");
    // SAFETY: the run is ours, and only a number.
    assert!(!unsafe { ordinary.resize_run(run.start(), 3000, 4096 - 64) });
    // SAFETY: as above; a refusal changes nothing.
    assert!(unsafe { ordinary.resize_run(run.start(), 3000, 3100) });
    // SAFETY: as above, with the length that it has now.
    assert!(unsafe { reserve.resize_run(run.start(), 3100, 4096 - 64) });
    assert_eq!(buddy.trace().pressure(), Pressure::Min);
    // SAFETY: as above.
    unsafe { ordinary.free_run(run.start(), 4096 - 64) };
    assert_eq!(buddy.free_frames_count(), 4096);
}
