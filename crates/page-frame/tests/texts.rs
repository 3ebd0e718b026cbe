//! What errors and reports say: a developer reads nothing else when a kernel stops.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::panic::Location;

use page_frame::sync::{AppendList, Lock};
use page_frame::{
    Arena, CacheName, Fault, FaultKind, FaultPlace, FrameNumber, ListFull, MapError, MemoryMap,
    Once, Order, OutOfMemory, PerCpu, PerCpuSlot, RegionKind, SingleCpu, StillInUse, Violation,
};

fn order(order: u8) -> Order {
    Order::new(order).expect("small")
}

/// Each kind with its whole text.
fn kinds() -> Vec<(FaultKind, &'static str)> {
    let (changed, offset, size, found) = (0x5007, 7, 5, 0xab);
    let neighbour = NonZeroUsize::new(0x5010);
    let overflow = |neighbour, expected| FaultKind::Overflow {
        changed,
        offset,
        size,
        neighbour,
        expected,
        found,
    };
    vec![
        (FaultKind::ForeignPointer, "no allocation of this allocator is there"),
        (FaultKind::DoubleFree, "it is free already"),
        (
            FaultKind::WrongOrder { allocated: order(2), given: order(5) },
            "expected order 2, found order 5",
        ),
        (
            FaultKind::WrongPageCount { allocated: Some(3), given: 4 },
            "expected 3 pages, found 4 pages",
        ),
        (
            FaultKind::WrongPageCount { allocated: None, given: 4 },
            "expected no run, found one of 4 pages",
        ),
        (
            FaultKind::WrongSize { allocated: 64, given: 65 },
            "expected one of 64 usable bytes, found one of 65",
        ),
        (
            FaultKind::Misaligned { alignment: 16 },
            "expected an alignment of 16 bytes, found a smaller one",
        ),
        (FaultKind::InteriorPointer, "expected a start, found a place inside"),
        (FaultKind::ReservedFrame, "the frame is reserved or absent"),
        (FaultKind::WrongCache, "the object belongs to another cache"),
        (
            overflow(None, None),
            "a write beyond the object changed the byte at 0x5007 to 0xab (offset 7 of 5 bytes \
             asked for)",
        ),
        (
            overflow(neighbour, Some(0x5a)),
            "a write beyond the object changed the byte at 0x5007 from 0x5a to 0xab (offset 7 of \
             5 bytes asked for), or a write in front of 0x5010 did",
        ),
        (
            FaultKind::WriteAfterFree { changed, expected: 0x6b, found },
            "a write after the free changed the byte at 0x5007 from 0x6b to 0xab",
        ),
        (FaultKind::Corrupted, "the allocator's own data about it was overwritten"),
    ]
}

/// Mutation that it catches: two kinds with one name, or a text that swaps what was expected and
/// what was found.
#[test]
fn each_fault_says_what_was_expected_and_what_was_found() {
    for (kind, text) in kinds() {
        assert_eq!(kind.to_string(), text);
        // The derived name without the fields.
        let debug = format!("{kind:?}");
        assert_eq!(debug.split(' ').next(), Some(kind.name()));
    }
    assert_eq!(kinds().iter().map(|(kind, _)| kind.name()).collect::<BTreeSet<_>>().len(), 12);
}

/// Mutation that it catches: `with_callers` that swaps the two callers.
#[test]
fn a_fault_names_place_call_cache_and_callers() {
    let (allocated, freed) = (Location::caller(), here());
    let fault = Fault::at_frame(FaultKind::DoubleFree, FrameNumber::new(0x7f));
    let site = fault.site;
    assert_eq!(
        fault.to_string(),
        format!("DoubleFree at frame 0x7f from {site}: it is free already")
    );
    assert_eq!((fault.frame(), fault.address()), (Some(FrameNumber::new(0x7f)), None));
    let fault = fault.with_address(0x7f008).in_cache(CacheName::new("dentry"));
    let fault = fault.with_callers(Some(allocated), Some(freed));
    assert_eq!(
        fault.to_string(),
        format!(
            "DoubleFree at 0x7f008 from {site}: it is free already; cache dentry; allocated from \
             {allocated}; freed from {freed}"
        )
    );
    assert_eq!((fault.frame(), fault.address()), (None, Some(0x7f008)));
    assert_eq!(FaultPlace::Frame(FrameNumber::new(16)).to_string(), "frame 0x10");
    assert_eq!(format!("{:?}", CacheName::new("dentry")), "\"dentry\"");
}

#[track_caller]
fn here() -> &'static Location<'static> {
    Location::caller()
}

#[test]
fn errors_say_the_numbers_concerned() {
    let texts = [
        (OutOfMemory.to_string(), "out of memory"),
        (ListFull { capacity: 3 }.to_string(), "all 3 places of the shrink list are in use"),
        (StillInUse.to_string(), "a call of the shrinker has not returned yet"),
        (Violation::of("I1: counts agree").to_string(), "I1: counts agree: does not hold"),
        (
            Violation::at("I1: counts agree", FrameNumber::new(9)).to_string(),
            "I1: counts agree: does not hold at frame 0x9",
        ),
        (MapError::Full { capacity: 8 }.to_string(), "the map has room for 8 regions"),
        (
            MapError::Reversed { start: 0x9000, end: 0x7000 }.to_string(),
            "the region 0x9000 to 0x7000 ends before it starts",
        ),
        (
            MapError::WrapsAround { start: 0xfff0, bytes: 0x20 }.to_string(),
            "0x20 bytes from 0xfff0 go beyond the last address",
        ),
        (
            MapError::NoRoom { pages: 9, longest: 4 }.to_string(),
            "no usable run has 9 pages, the longest has 4",
        ),
    ];
    for (text, expected) in texts {
        assert_eq!(text, expected);
    }
    let error = Arena::new(&mut []).expect_err("no memory");
    let needed = error.needed;
    assert_eq!(error.to_string(), format!("an arena needs {needed} bytes, 0 were given"));
}

/// Mutation that it catches: a lock whose `Debug` waits for the lock (the test hangs).
#[test]
fn values_behind_locks_can_be_printed() {
    let lock = Lock::new(7);
    assert_eq!(format!("{lock:?}"), "Lock(Mutex(7))");
    let guard = lock.lock();
    assert_eq!(format!("{lock:?}"), "Lock(Mutex(<held>))");
    assert_eq!(format!("{guard:?}"), "Guard(7)");
    drop(guard);
    let once = Once::new();
    assert_eq!(format!("{once:?}"), "Once(None)");
    once.set(5).expect("set once");
    assert_eq!(format!("{once:?}"), "Once(Some(5))");
    assert_eq!(format!("{:?}", AppendList::<u8>::default()), "[]");
    let slots = &mut [PerCpuSlot::new(())];
    let per_cpu = PerCpu::new(slots, SingleCpu::new());
    let frozen = per_cpu.freeze(None);
    assert_eq!(format!("{frozen:?}"), "Frozen { count: 1, .. }");
}

#[test]
fn an_empty_map_is_the_default() {
    let mut map = MemoryMap::<2>::default();
    assert_eq!((map.regions().len(), map.usable_bytes()), (0, 0));
    map.add(0, 1 << 20, RegionKind::Usable).expect("room");
    assert_eq!(map.usable_bytes(), 1 << 20);
}
