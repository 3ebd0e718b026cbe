//! Simulated users of a buddy: they make random requests of all kinds, and track the frames they
//! own.
//!
//! No `RefCell` is borrowed while the buddy is called, so that an interrupt may make requests too.

use std::cell::{Cell, RefCell};
use std::ptr::{NonNull, without_provenance_mut};

use buddy::{HotplugError, Mobility, Trace};
use page_frame::{Cpu, FaultKind, FrameNumber, FrameRange, Order, PAGE_SIZE, PageMap, PageResize};
use testkit::Random;

use super::{Metadata, ROOT, Simulated, range};

mod checks;

/// Frames of an area.
const AREA: usize = 512;
/// Maximum number of blocks of one request.
const MANY: usize = 40;
/// Maximum number of pages of a run.
const RUN: usize = 1200;

/// Frames that a user owns.
#[derive(Clone, Copy)]
enum Held {
    Block(FrameNumber, Order),
    Run(FrameNumber, usize),
    Offline(FrameRange),
}

/// Whether other contexts may use the buddy during a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// No other context: a request succeeds exactly if enough frames are free.
    Alone,
    /// Interrupts.
    Interrupted,
}

/// All users of a buddy. Declared before the buddy, as this owns the metadata of added sections.
pub struct Users {
    company: Company,
    largest: usize,
    /// The frames that exist.
    ranges: RefCell<Vec<FrameRange>>,
    /// Whether a frame has an owner, by number.
    taken: RefCell<Vec<bool>>,
    held: RefCell<Vec<Held>>,
    /// Frames that may still be added.
    absent: RefCell<Vec<FrameRange>>,
    /// The metadata of added sections.
    sections: RefCell<Vec<(FrameRange, Metadata)>>,
    removals: Cell<usize>,
}

pub fn order(order: usize) -> Order {
    Order::new(order as u8).expect("a valid order")
}

impl Users {
    /// Returns users of `ranges`, for blocks up to order `largest`. The frames of each range of
    /// `absent`, in a section of its own, may be added.
    pub fn new(
        ranges: &[FrameRange],
        absent: &[FrameRange],
        largest: usize,
        company: Company,
    ) -> Self {
        let ends = ranges.iter().chain(absent).map(|range| range.end.get());
        Self {
            company,
            largest,
            ranges: RefCell::new(ranges.to_vec()),
            taken: RefCell::new(vec![false; ends.max().expect("some frames")]),
            held: RefCell::default(),
            absent: RefCell::new(absent.to_vec()),
            sections: RefCell::default(),
            removals: Cell::new(0),
        }
    }

    /// Makes a random request, or frees something.
    pub fn play<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        match random.below(100) {
            0..30 => self.allocate(buddy, random),
            30..36 => self.allocate_as(buddy, random),
            36..39 => self.allocate_many(buddy, random),
            39..45 => self.allocate_at(buddy, random),
            45..51 => self.allocate_run(buddy, random),
            51..53 => self.offline(buddy, random),
            53 => self.add(buddy),
            54 if self.company == Company::Alone => self.remove(buddy, random),
            _ => self.free_or_resize(buddy, random),
        }
    }

    /// Returns the largest order of a request.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Returns the number of sections that were removed.
    pub fn removals(&self) -> usize {
        self.removals.get()
    }

    /// Frees all frames.
    pub fn free_all<C: Cpu, T: Trace, const K: bool>(&self, buddy: &Simulated<C, T, K>) {
        while let Some(held) = self.pop() {
            self.free(buddy, held);
        }
    }

    fn allocate<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let size = self.random_order(random);
        match buddy.allocate_frames(size) {
            Ok(block) => self.hold(Held::Block(block, size)),
            Err(_) => self.assert_none(size),
        }
    }

    fn allocate_as<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let size = self.random_order(random);
        match buddy.allocate_as(size, Mobility::ALL[random.below(3)]) {
            Ok(block) => self.hold(Held::Block(block, size)),
            Err(_) => self.assert_none(size),
        }
    }

    fn allocate_many<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let size = order(random.below(4));
        let mut blocks = [FrameNumber::new(0); MANY];
        let asked = 1 + random.below(MANY);
        let had = buddy.allocate_many(size, &mut blocks[..asked]);
        blocks[..had].iter().for_each(|block| self.hold(Held::Block(*block, size)));
        if had < asked {
            self.assert_none(size);
        } else if random.one_in(2) {
            let before = self.held.borrow().len() - had;
            self.held.borrow_mut().truncate(before);
            blocks[..had].iter().for_each(|block| self.mark(*block, size.pages(), false));
            buddy.free_many(size, &blocks[..had]).expect("ours");
        }
    }

    fn allocate_at<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let size = self.random_order(random);
        let ranges = self.ranges.borrow().clone();
        let own = ranges[random.below(ranges.len())];
        let frame = own.start.get() + random.below(own.frames());
        let frame = if random.one_in(8) { frame } else { frame & !(size.pages() - 1) };
        let block = FrameNumber::new(frame);
        let is_tried = random.one_in(4);
        let had = match is_tried {
            true => buddy.try_allocate_at(block, size),
            false => buddy.allocate_at(block, size),
        };
        if had.is_ok() {
            self.hold(Held::Block(block, size));
        } else if self.company == Company::Alone && !is_tried && block.is_aligned_to(size) {
            assert!(!self.is_free(frame..frame + size.pages()), "{block} is free");
        }
    }

    fn allocate_run<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let most = 1 + random.below(RUN.min(1 << self.largest));
        let (pages, alignment) = (1 + random.below(most), order(random.below(5)));
        let Ok(run) = buddy.allocate_run(pages, alignment) else {
            let size = Order::for_pages(pages).expect("small");
            return self.assert_none(size.max(alignment));
        };
        let start = FrameNumber::new((run.start().addr().get() - ROOT) / PAGE_SIZE);
        assert!(start.is_aligned_to(alignment) && run.pages() >= pages);
        assert!(self.company == Company::Interrupted || run.pages() == pages, "the tail goes back");
        assert_eq!(buddy.run_pages(run.start().addr().get()), Some(run.pages()));
        self.hold(Held::Run(start, run.pages()));
    }

    fn offline<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let ranges = self.ranges.borrow().clone();
        let own = ranges[random.below(ranges.len())];
        let area = (own.start.get() + random.below(own.frames())) / AREA;
        let areas = 1 + random.below(3);
        let frames = own.intersection(range(area * AREA, (area + areas) * AREA));
        let first_taken = || {
            (frames.start.get()..frames.end.get()).find(|frame| !self.is_free(*frame..frame + 1))
        };
        match buddy.offline(frames) {
            Ok(()) => self.hold(Held::Offline(frames)),
            Err(HotplugError::InUse { frame }) if self.company == Company::Alone => {
                assert_eq!(first_taken(), Some(frame.get()));
            }
            Err(HotplugError::InUse { frame }) => assert!(frames.contains(frame)),
            Err(other) => panic!("{frames:?}: {other}"),
        }
    }

    fn add<C: Cpu, T: Trace, const K: bool>(&self, buddy: &Simulated<C, T, K>) {
        let Some(frames) = self.absent.borrow_mut().pop() else { return };
        let metadata = Metadata::new(buddy::Buddy::<page_frame::DirectMap, C>::section_layout());
        match buddy.add_section(metadata.memory(), frames) {
            Ok(()) => {
                self.sections.borrow_mut().push((frames, metadata));
                self.ranges.borrow_mut().push(frames);
            }
            Err(error) => {
                assert_eq!((error, self.company), (HotplugError::Occupied, Company::Interrupted));
                self.absent.borrow_mut().push(frames);
            }
        }
    }

    /// Removes a section, mostly after its free areas were taken offline.
    fn remove<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let added = self.sections.borrow().len();
        if added == 0 {
            return;
        }
        let index = random.below(added);
        let frames = self.sections.borrow()[index].0;
        let areas = frames.start.get() / AREA..frames.end.get().div_ceil(AREA);
        let parts: Vec<_> =
            areas.map(|area| frames.intersection(range(area * AREA, (area + 1) * AREA))).collect();
        for part in parts.iter().filter(|_| !random.one_in(8)) {
            if self.is_free(part.start.get()..part.end.get()) {
                buddy.offline(*part).expect("free");
                self.hold(Held::Offline(*part));
            }
        }
        let is_offline = |part: &FrameRange| {
            let covers = |held: &Held| matches!(held, Held::Offline(own) if own.intersection(*part) == *part);
            self.held.borrow().iter().any(covers)
        };
        let online = parts.iter().find(|part| !is_offline(part)).map(|part| part.start);
        // SAFETY: there is one thread, and no interrupt.
        let removed = unsafe { buddy.remove_section_while_stopped(frames.start) };
        if let Some(frame) = online {
            assert_eq!(removed, Err(HotplugError::InUse { frame }));
            return;
        }
        assert_eq!(removed, Ok(frames));
        self.held.borrow_mut().retain(|held| !frames.contains(extent(*held).0));
        self.mark(frames.start, frames.frames(), false);
        self.ranges.borrow_mut().retain(|own| *own != frames);
        self.absent.borrow_mut().push(frames);
        // Its metadata is freed, so that a use after the removal is a use after free.
        self.sections.borrow_mut().swap_remove(index);
        self.removals.set(self.removals.get() + 1);
    }

    fn free_or_resize<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        random: &mut Random,
    ) {
        let held = self.held.borrow().len();
        if held == 0 {
            return;
        }
        let held = self.held.borrow_mut().swap_remove(random.below(held));
        match held {
            Held::Run(start, pages) if random.one_in(2) => self.resize(buddy, start, pages, random),
            _ => self.free(buddy, held),
        }
    }

    fn resize<C: Cpu, T: Trace, const K: bool>(
        &self,
        buddy: &Simulated<C, T, K>,
        start: FrameNumber,
        pages: usize,
        random: &mut Random,
    ) {
        let wanted = 1 + random.below(pages + pages.min(20));
        let (kept, tail) = (pages.min(wanted), FrameNumber::new(start.get() + pages.min(wanted)));
        self.mark(tail, pages - kept, false);
        // SAFETY: the run is ours and has `pages` pages; frames are only numbers.
        let resized = unsafe { buddy.resize_run(pointer(start), pages, wanted) };
        assert!(resized || wanted > pages || self.company == Company::Interrupted);
        let now = if resized { wanted } else { pages };
        self.mark(tail, now - kept, true);
        self.held.borrow_mut().push(Held::Run(start, now));
    }

    fn free<C: Cpu, T: Trace, const K: bool>(&self, buddy: &Simulated<C, T, K>, held: Held) {
        let (start, pages) = extent(held);
        if let (Held::Block(frame, size), Company::Alone) = (held, self.company) {
            if size != Order::ZERO {
                let wrong = buddy.free_frames(frame, Order::ZERO).expect_err("another order");
                let expected = FaultKind::WrongOrder { allocated: size, given: Order::ZERO };
                assert_eq!(wrong.kind, expected);
            }
        }
        self.mark(start, pages, false);
        match held {
            Held::Block(frame, size) => buddy.free_frames(frame, size).expect("ours"),
            // SAFETY: the run is ours and has `pages` pages; frames are only numbers.
            Held::Run(start, pages) => unsafe { buddy.free_run(pointer(start), pages) },
            Held::Offline(frames) => buddy.online(frames).expect("offline"),
        }
        if let (Held::Block(frame, size), Company::Alone) = (held, self.company) {
            let twice = buddy.free_frames(frame, size).expect_err("free already");
            assert_eq!(twice.kind, FaultKind::DoubleFree);
        }
    }

    fn random_order(&self, random: &mut Random) -> Order {
        order((random.number().trailing_zeros() as usize).min(self.largest))
    }

    fn hold(&self, held: Held) {
        let (start, pages) = extent(held);
        self.mark(start, pages, true);
        self.held.borrow_mut().push(held);
    }

    fn pop(&self) -> Option<Held> {
        self.held.borrow_mut().pop()
    }

    /// Marks frames as taken or free, and asserts that they were not before.
    fn mark(&self, start: FrameNumber, pages: usize, taken: bool) {
        let frames = range(start.get(), start.get() + pages);
        let is_there = |own: &FrameRange| own.intersection(frames) == frames;
        assert!(
            pages == 0 || self.ranges.borrow().iter().any(is_there),
            "{frames:?} are not there"
        );
        for frame in frames.start.get()..frames.end.get() {
            let before = std::mem::replace(&mut self.taken.borrow_mut()[frame], taken);
            assert!(before != taken, "frame {frame} twice");
        }
    }
}

/// Returns the address of a frame as a pointer that is never followed.
fn pointer(frame: FrameNumber) -> NonNull<u8> {
    NonNull::new(without_provenance_mut(ROOT + frame.get() * PAGE_SIZE)).expect("not zero")
}

fn extent(held: Held) -> (FrameNumber, usize) {
    match held {
        Held::Block(start, size) => (start, size.pages()),
        Held::Run(start, pages) => (start, pages),
        Held::Offline(frames) => (frames.start, frames.frames()),
    }
}
