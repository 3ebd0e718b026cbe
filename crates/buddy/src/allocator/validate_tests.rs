//! `validate` finds each planted corruption of each structure, and names the invariant.

extern crate std;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::vec::Vec;

use page_frame::{
    DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE, PageMap, PageResize, SingleCpu, Tag,
};

use crate::bitmap::Bitmap;
use crate::bitmap::bits::{AREA_FRAMES, AREA_ORDER};
use crate::bitmap::check::corrupt::{
    clear_hints, lock_claims, lock_section_claims, set_bit, set_entry,
};
use crate::frames::Frames;
use crate::percpu::Caches;
use crate::{Buddy, Mode, ZeroedMemory};

/// Where frame 0 would be.
const ROOT: usize = 1 << 40;
/// The first and the last frame of the hole between the two ranges, and the end of memory.
const HOLE: [usize; 3] = [20_000, 20_009, AREA_FRAMES * 136 - 7];
/// The last area that no request of [`Machine::new`] uses.
const UNUSED: usize = AREA_FRAMES * 132;

fn order(order: u8) -> Order {
    Order::new(order).expect("a valid order")
}

fn frame(number: usize) -> FrameNumber {
    FrameNumber::new(number)
}

fn range(start: usize, end: usize) -> FrameRange {
    FrameRange::new(frame(start), frame(end))
}

fn pointer(frame: FrameNumber) -> NonNull<u8> {
    let address = ROOT + frame.get() * PAGE_SIZE;
    NonNull::new(std::ptr::without_provenance_mut(address)).expect("not zero")
}

/// A buddy with one part of each kind.
struct Machine {
    buddy: Buddy<'static, DirectMap, SingleCpu>,
    metadata: (NonNull<u8>, Layout),
    /// A block of order 3.
    eight: FrameNumber,
    /// A single frame.
    single: FrameNumber,
    /// A block of an area, and one of two areas.
    area: FrameNumber,
    areas: FrameNumber,
    /// A run of 700 pages, and one of 1024.
    run: FrameNumber,
    whole_run: FrameNumber,
    /// A slab of four pages, and one of an area.
    slab: FrameNumber,
    large_slab: FrameNumber,
    /// A deferred block.
    deferred: FrameNumber,
    /// The first frame of an area that is offline.
    offline: FrameNumber,
    /// The blocks that the slot caches: first frame and order.
    cached: Vec<(FrameNumber, Order)>,
}

impl Machine {
    fn new() -> Self {
        let ranges = [range(3, HOLE[0]), range(HOLE[1] + 1, HOLE[2])];
        let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&ranges, 1);
        let layout = layout.expect("good ranges");
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory");
        // SAFETY: fresh and zero, aligned as the layout says, and freed after the buddy.
        let memory = unsafe { ZeroedMemory::from_zeroed(start, layout.size()) };
        let root = NonNull::new(std::ptr::without_provenance_mut(ROOT)).expect("not zero");
        // SAFETY: no pointer of the map is ever used.
        let map = unsafe { DirectMap::from_root(root, frame(0)) };
        let cpu = SingleCpu::new();
        // SAFETY: the frames are numbers, and no pointer to them is used.
        let buddy = unsafe { Buddy::new_in(memory, &ranges, map, cpu, Mode::Cached) };
        let mut buddy = buddy.expect("good ranges");
        let block = |number| buddy.allocate_frames(order(number)).expect("free");
        let run = |pages| {
            let run = buddy.allocate_run(pages, Order::ZERO).expect("free");
            frame((run.start().addr().get() - ROOT) / PAGE_SIZE)
        };
        let owned = |number: u8| {
            let start = block(number);
            let pages = order(number).pages();
            let owner = NonNull::dangling();
            // SAFETY: clause 1: just allocated.
            unsafe { buddy.set_owner(pointer(start), pages, Tag::SLAB, owner) };
            start
        };
        let (single, eight, area, areas) = (block(0), block(3), block(9), block(10));
        let (run, whole_run) = (run(700), run(1024));
        let (slab, large_slab) = (owned(2), owned(9));
        let offline = frame(UNUSED + 2 * AREA_FRAMES);
        buddy.offline(range(offline.get(), offline.get() + AREA_FRAMES)).expect("unused");
        for number in [0, 3, 9] {
            let kept = block(number);
            // SAFETY: the block was allocated by number.
            unsafe { buddy.free_frames(kept, order(number)) }.expect("allocated above");
        }
        // The slots keep blocks of their own area only, so a block elsewhere is deferred.
        let deferred = frame(UNUSED - AREA_FRAMES);
        for at in 0..128 {
            let other = frame(deferred.get() + at);
            buddy.try_allocate_at(other, Order::ZERO).expect("unused");
        }
        // SAFETY: the frame was allocated by number.
        unsafe { buddy.free_frames(deferred, Order::ZERO) }.expect("allocated above");
        let mut cached = Vec::new();
        buddy.frames.for_each_cached(|_, start, order| cached.push((start, order)));
        let metadata = (start, layout);
        Self {
            buddy,
            metadata,
            eight,
            single,
            area,
            areas,
            run,
            whole_run,
            slab,
            large_slab,
            deferred,
            offline,
            cached,
        }
    }

    fn frames(&self) -> &Frames<'static, ()> {
        &self.buddy.frames.pool.frames
    }

    fn bitmap(&self) -> &Bitmap<'static> {
        self.frames().bitmap()
    }

    fn caches(&self) -> &Caches<'static, SingleCpu> {
        &self.buddy.frames.pool.caches
    }

    fn set_tag(&self, frame: FrameNumber, tag: Tag) {
        self.frames().tags().corrupt(frame, tag);
    }

    fn set_area_tag(&self, frame: FrameNumber, tag: Tag) {
        self.frames().tags().corrupt_area(frame, tag);
    }

    fn set_map_tag(&self, frame: FrameNumber, tag: Tag) {
        self.frames().tags().set(frame, tag);
    }

    fn set_run(&self, pages: usize) {
        // SAFETY: clause 1: the run is ours; frames are only numbers.
        unsafe { self.buddy.set_run(pointer(self.run), pages) };
    }

    /// Returns a block of `order` that the slot caches.
    fn cached(&self, order: u8) -> FrameNumber {
        let is_such = |(_, cached): &&(FrameNumber, Order)| cached.get() == order;
        self.cached.iter().find(is_such).expect("cached").0
    }

    fn push(&self, frame: FrameNumber, order: usize) {
        self.caches().corrupt(|slot, count| {
            assert!(slot.push(frame, order), "the stack has room");
            count.add(slot.take_change(order));
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let (start, layout) = self.metadata;
        // SAFETY: allocated in `new` with this layout; dropping the buddy does not read it.
        unsafe { dealloc(start.as_ptr(), layout) };
    }
}

/// Returns the frame that lies `frames` frames after `start`.
fn after(start: FrameNumber, frames: usize) -> FrameNumber {
    frame(start.get() + frames)
}

type Corruption = (&'static str, fn(&Machine));

const OVERLAP: &str = "I1: blocks do not overlap";
const NOT_TAKEN: &str = "I1: an allocated frame is taken";
const UNEXPLAINED: &str = "I1: a taken frame without a tag lies in a block or in a CPU slot";
const IN_BLOCK: &str = "I1: a cached frame is in one slot, and in no block";
const AREA_TAG: &str = "area tags I1: they are the tags of blocks of whole areas";
const TWO_TAGS: &str = "area tags I2: a frame has one tag";
const TAGGED_FREE: &str = "I5: free frames have no tag";
const WHOLE: &str = "I2: a whole area belongs to one block";
const OWNER: &str = "section I3: one CPU slot owns each area that is owned";
const ENTRY: &str = "entry: the bits of an entry are a state, a placement and a density";
const CLAIM: &str = "I4: no claim outlives its call";
const ABSENT: &str = "I6: blocks consist of frames that exist";
const RUN_PAGES: &str = "page map: a run is at least a page and at most the largest block";

/// Bits and tags of blocks.
const BLOCKS: &[Corruption] = &[
    (UNEXPLAINED, |machine| set_bit(machine.bitmap(), frame(UNUSED + 5), true)),
    (UNEXPLAINED, |machine| machine.set_tag(machine.single, Tag::NONE)),
    (UNEXPLAINED, |machine| machine.set_tag(machine.eight, Tag::NONE)),
    (UNEXPLAINED, |machine| machine.set_tag(machine.areas, Tag::NONE)),
    (UNEXPLAINED, |machine| machine.set_tag(machine.eight, Tag::block(order(2)))),
    (UNEXPLAINED, |machine| machine.set_tag(machine.areas, Tag::block(order(9)))),
    (NOT_TAKEN, |machine| {
        let start = frame(UNUSED);
        machine.buddy.try_allocate_at(start, order(3)).expect("unused");
        machine.set_tag(start, Tag::block(order(4)));
    }),
    (NOT_TAKEN, |machine| set_bit(machine.bitmap(), after(machine.eight, 5), false)),
    (TAGGED_FREE, |machine| set_bit(machine.bitmap(), machine.eight, false)),
    (TAGGED_FREE, |machine| machine.set_tag(frame(UNUSED + 4), Tag::block(order(2)))),
    (TAGGED_FREE, |machine| machine.set_tag(frame(UNUSED + 4), Tag::SLAB)),
    (TAGGED_FREE, |machine| machine.set_tag(frame(UNUSED + 4), Tag::deferred(Order::ZERO))),
    (OVERLAP, |machine| machine.set_tag(after(machine.eight, 4), Tag::block(order(2)))),
    (OVERLAP, |machine| machine.set_tag(after(machine.run, 600), Tag::RUN)),
    ("I5: a block is aligned to its order", |machine| {
        machine.buddy.try_allocate_at(frame(UNUSED + 1), Order::ZERO).expect("unused");
        machine.set_tag(frame(UNUSED + 1), Tag::block(order(1)));
    }),
    (ABSENT, |machine| {
        let start = frame((HOLE[2] - 1) & !7);
        set_bit(machine.bitmap(), start, true);
        (start.get()..HOLE[2]).for_each(|at| set_bit(machine.bitmap(), frame(at), true));
        machine.set_tag(start, Tag::block(order(3)));
    }),
    (WHOLE, |machine| machine.set_tag(machine.area, Tag::block(order(3)))),
    ("I2: a block of whole areas has them whole", |machine| {
        let range = range(machine.area.get(), machine.area.get() + AREA_FRAMES);
        assert!(machine.bitmap().split_areas(range));
    }),
    (AREA_TAG, |machine| machine.set_area_tag(machine.area, Tag::block(order(8)))),
    (AREA_TAG, |machine| machine.set_area_tag(frame(UNUSED), Tag::RUN)),
    (AREA_TAG, |machine| machine.set_map_tag(machine.area, Tag::block(order(9)))),
    (AREA_TAG, |machine| machine.set_map_tag(after(machine.eight, 1), Tag::block(order(9)))),
    (TWO_TAGS, |machine| machine.set_map_tag(machine.area, Tag::block(Order::ZERO))),
    (TWO_TAGS, |machine| machine.set_area_tag(machine.large_slab, Tag::block(order(9)))),
    (TAGGED_FREE, |machine| machine.set_area_tag(frame(UNUSED), Tag::block(order(9)))),
    (OVERLAP, |machine| {
        machine.set_area_tag(after(machine.areas, AREA_FRAMES), Tag::block(order(9)));
    }),
    ("page map: a tag has a meaning", |machine| {
        // SAFETY: `Tag` is a transparent byte, of which each value is valid.
        let tag = unsafe { core::mem::transmute::<u8, Tag>(250) };
        machine.set_tag(machine.single, tag);
    }),
];

/// Runs, slabs, deferred blocks and areas that are offline.
const OTHER_PARTS: &[Corruption] = &[
    (UNEXPLAINED, |machine| machine.set_run(699)),
    (RUN_PAGES, |machine| machine.set_run(0)),
    (RUN_PAGES, |machine| machine.set_run(usize::MAX)),
    (IN_BLOCK, |machine| machine.set_run(701)),
    (NOT_TAKEN, |machine| {
        machine.buddy.allocate_run_at(frame(UNUSED), 3).expect("unused");
        // SAFETY: clause 1: just allocated.
        unsafe { machine.buddy.set_run(pointer(frame(UNUSED)), 4) };
    }),
    (ABSENT, |machine| {
        let start = frame(HOLE[0] - 1);
        machine.buddy.try_allocate_at(start, Order::ZERO).expect("unused");
        // SAFETY: clause 1: just allocated.
        unsafe { machine.buddy.set_run(pointer(start), 2) };
    }),
    (WHOLE, |machine| {
        // SAFETY: clause 1: the run is ours; frames are only numbers.
        unsafe { machine.buddy.set_run(pointer(machine.whole_run), 1000) };
    }),
    (UNEXPLAINED, |machine| machine.set_tag(after(machine.slab, 2), Tag::NONE)),
    ("page map: all pages of a slab have its tag", |machine| {
        machine.set_tag(after(machine.slab, 2), Tag::class(3).expect("a class"));
    }),
    (WHOLE, |machine| {
        let (page, other) = (pointer(after(machine.large_slab, 9)), NonNull::<u64>::dangling());
        // SAFETY: clause 1: the slab is ours.
        unsafe { machine.buddy.set_owner(page, 1, Tag::SLAB, other.cast()) };
    }),
    ("I7: deferred frees are counted", |machine| {
        machine.buddy.try_allocate_at(frame(UNUSED), Order::ZERO).expect("unused");
        machine.set_tag(frame(UNUSED), Tag::deferred(Order::ZERO));
    }),
    ("deferred I1: only small blocks are deferred", |machine| {
        machine.set_tag(machine.eight, Tag::deferred(order(3)));
    }),
    (OVERLAP, |machine| machine.set_tag(machine.deferred, Tag::deferred(order(1)))),
    (UNEXPLAINED, |machine| machine.set_tag(machine.deferred, Tag::NONE)),
    ("I4: no reconciliation outlives its call", |machine| {
        machine.frames().deferred().set_reconciling(machine.deferred);
    }),
    (UNEXPLAINED, |machine| machine.set_tag(machine.offline, Tag::NONE)),
    (OVERLAP, |machine| machine.set_tag(after(machine.offline, 100), Tag::block(order(0)))),
];

/// Entries, hints and locks.
const AREAS: &[Corruption] = &[
    (ENTRY, |machine| set_entry(machine.bitmap(), frame(UNUSED), 1 << 7)),
    (ENTRY, |machine| set_entry(machine.bitmap(), frame(UNUSED), 15 << 2)),
    (ENTRY, |machine| set_entry(machine.bitmap(), machine.area, 2 | 1 << 2)),
    (CLAIM, |machine| set_entry(machine.bitmap(), frame(UNUSED), 1)),
    (CLAIM, |machine| lock_claims(machine.bitmap(), frame(UNUSED))),
    (CLAIM, |machine| lock_section_claims(machine.bitmap())),
    ("I4: no addition of a section outlives its call", |machine| {
        core::mem::forget(machine.bitmap().table().try_lock());
    }),
    ("I2: the bits of a whole area are clear", |machine| {
        set_bit(machine.bitmap(), machine.area, true);
    }),
    ("I2: the bits of a whole area are clear", |machine| {
        set_entry(machine.bitmap(), machine.single, 2);
    }),
    (UNEXPLAINED, |machine| set_entry(machine.bitmap(), frame(UNUSED), 2)),
    (TAGGED_FREE, |machine| {
        machine.bitmap().free_block(machine.area, order(AREA_ORDER as u8));
    }),
    ("I3: an open area with a free frame has a hint", |machine| {
        clear_hints(machine.bitmap(), frame(UNUSED));
    }),
    ("bitmap: frames that do not exist are taken for ever", |machine| {
        set_bit(machine.bitmap(), frame(HOLE[1]), false);
    }),
    ("bitmap: frames that do not exist are taken for ever", |machine| {
        set_bit(machine.bitmap(), frame(HOLE[2]), false);
    }),
    (OWNER, |machine| set_entry(machine.bitmap(), frame(UNUSED), 3 | 1 << 6)),
];

/// CPU slots.
const SLOTS: &[Corruption] = &[
    ("I1: a cached frame is taken", |machine| machine.push(frame(UNUSED), 0)),
    ("I1: a cached frame is taken", |machine| {
        set_bit(machine.bitmap(), machine.cached(0), false);
    }),
    ("I5: a cached frame has no tag", |machine| machine.push(machine.single, 0)),
    ("I5: a cached frame has no tag", |machine| {
        machine.set_tag(machine.cached(3), Tag::block(order(3)));
    }),
    ("I1: a cached frame is in one slot, once", |machine| machine.push(machine.cached(3), 3)),
    ("I1: a cached frame is in one slot, once", |machine| machine.push(machine.cached(3), 2)),
    (IN_BLOCK, |machine| {
        machine.push(after(machine.eight, 1), 0);
    }),
    (UNEXPLAINED, |machine| {
        machine.caches().corrupt(|slot, count| {
            slot.pop(3).expect("cached");
            count.add(slot.take_change(3));
        });
    }),
    ("CPU slot I1: a slot caches aligned blocks of frames that exist", |machine| {
        machine.push(frame(1 << 30), 0);
    }),
    ("CPU slot I1: a slot caches aligned blocks of frames that exist", |machine| {
        machine.push(frame(usize::MAX), 0);
    }),
    ("CPU slot I1: a slot caches aligned blocks of frames that exist", |machine| {
        machine.push(after(machine.eight, 1), 1);
    }),
    ("CPU slot I1: a stack holds at most its capacity", |machine| {
        machine.caches().corrupt(|slot, _| slot.corrupt_len(0, 33));
    }),
    ("CPU slot: its count is the sum of the changes reported", |machine| {
        machine.caches().corrupt(|_, count| count.add(1));
    }),
    ("I2: a cached block is a whole area, or lies in an open one", |machine| {
        let start = machine.cached(AREA_ORDER as u8);
        assert!(machine.bitmap().split_areas(range(start.get(), start.get() + AREA_FRAMES)));
    }),
    ("section I3: the entry of an area that a slot owns says so", |machine| {
        machine.caches().corrupt(|slot, _| slot.set_owned(1, Some(frame(UNUSED))));
    }),
    (OWNER, |machine| {
        machine.caches().corrupt(|slot, _| {
            let owned = slot.owned(0).expect("the slot owns an area for single frames");
            slot.set_owned(1, Some(owned));
        });
    }),
];

fn finds_each(corruptions: &[Corruption]) {
    for (number, (invariant, plant)) in corruptions.iter().enumerate() {
        let machine = Machine::new();
        machine.buddy.validate().expect("consistent before");
        plant(&machine);
        let found = machine.buddy.validate().err().map(|violation| violation.invariant);
        assert_eq!(found, Some(*invariant), "corruption {number}");
    }
}

#[test]
fn each_wrong_bit_and_tag_of_a_block_is_found() {
    finds_each(BLOCKS);
}

#[test]
fn each_wrong_run_slab_deferred_block_and_offline_area_is_found() {
    finds_each(OTHER_PARTS);
}

#[test]
fn each_wrong_entry_hint_and_lock_is_found() {
    finds_each(AREAS);
}

#[test]
fn each_wrong_slot_is_found() {
    finds_each(SLOTS);
}

/// Mutation that it catches: a request that fails beside one of these and does not look again.
#[test]
fn claims_and_reconciliations_under_way_leave_areas_undecided() {
    let under_way: [fn(&Machine); 3] = [
        |machine| set_entry(machine.bitmap(), frame(UNUSED), 1),
        |machine| lock_claims(machine.bitmap(), frame(UNUSED)),
        |machine| lock_section_claims(machine.bitmap()),
    ];
    for begin in under_way {
        let machine = Machine::new();
        assert!(!machine.bitmap().is_undecided(|_| false));
        begin(&machine);
        assert!(machine.bitmap().is_undecided(|_| false));
    }
    let area = frame(UNUSED - UNUSED % AREA_FRAMES);
    assert!(Machine::new().bitmap().is_undecided(|first| first == area));
    // What is asked before a pass and after it.
    let asked = core::cell::Cell::new(0);
    let machine = Machine::new();
    let largest = machine.buddy.largest_free().and_then(Order::larger).expect("not all is free");
    let found = machine.bitmap().take_anywhere(largest, |first| {
        asked.set(asked.get() + usize::from(first == area));
        false
    });
    assert_eq!((found, asked.get()), (None, 2));
}
