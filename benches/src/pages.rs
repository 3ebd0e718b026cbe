//! Page allocators by frame number. Memory is simulated: metadata is real, frames are only numbers.

use std::ptr::{NonNull, without_provenance_mut};

use buddy::{Buddy, Mode};
use hosted::{Mapped, Threads};
use page_frame::{DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE};

/// A page allocator that is measured.
pub trait Pages {
    /// Returns the first frame of a block of `order`.
    fn allocate(&mut self, order: Order) -> Option<usize>;
    /// Takes the block of `order` at `frame` back.
    fn free(&mut self, frame: usize, order: Order);
}

/// Makes a fresh allocator of that many frames.
pub type Make = fn(usize) -> Box<dyn Contestant>;

/// A [`Pages`] behind a pointer: the workloads are compiled once for each implementation, inside it.
pub trait Contestant {
    /// Runs `workload` on this allocator; see [`crate::workload::run`].
    fn run(&mut self, workload: crate::workload::Workload, frames: usize)
    -> crate::measure::Sample;
}

impl<P: Pages> Contestant for P {
    fn run(
        &mut self,
        workload: crate::workload::Workload,
        frames: usize,
    ) -> crate::measure::Sample {
        crate::workload::run(self, workload, frames)
    }
}

/// Returns ours, the harness's floor, and the rivals, by name.
pub fn contestants() -> [(&'static str, Make); 3] {
    [
        ("ours", |frames| Box::new(Ours::new(frames))),
        ("floor", |_| Box::new(Nothing(0))),
        ("buddy_system_allocator", |frames| Box::new(BuddySystem::new(frames))),
    ]
}

/// The `buddy` crate with all its checks, its slots one per thread.
struct Ours {
    buddy: Buddy<'static, DirectMap, Threads>,
    _metadata: Mapped,
}

impl Ours {
    fn new(frames: usize) -> Self {
        let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames))];
        let slots = hosted::THREAD_SLOTS;
        let layout =
            Buddy::<DirectMap, Threads>::metadata_layout(&range, slots).expect("a good range");
        let metadata = Mapped::reserve(layout.size()).expect("memory for metadata");
        back(metadata.start(), layout.size());
        let root = NonNull::new(without_provenance_mut(PAGE_SIZE)).expect("not zero");
        // SAFETY: no pointer of the map is used.
        let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
        // SAFETY: the metadata is zero and goes after the allocator: fields drop in order.
        let buddy = unsafe { Buddy::new_in(metadata.start(), &range, map, Threads, Mode::Cached) };
        Self { buddy: buddy.expect("a good range"), _metadata: metadata }
    }
}

/// Writes a zero to each page of fresh metadata, so that no workload pays for the system's page faults. The rivals write
/// all of theirs when they are built.
fn back(start: NonNull<u8>, bytes: usize) {
    for offset in (0..bytes).step_by(PAGE_SIZE) {
        // SAFETY: the caller's fresh memory has so many bytes.
        let byte = unsafe { start.add(offset) };
        // SAFETY: as above; it is zero already.
        unsafe { byte.write_volatile(0) };
    }
}

impl Pages for Ours {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        self.buddy.allocate_frames(order).ok().map(FrameNumber::get)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        self.buddy.free_frames(FrameNumber::new(frame), order).expect("the workloads free once");
    }
}

/// The harness without an allocator: hands out numbers.
struct Nothing(usize);

impl Pages for Nothing {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        self.0 += order.pages();
        std::hint::black_box(Some(self.0))
    }

    #[inline]
    fn free(&mut self, frame: usize, _: Order) {
        std::hint::black_box(frame);
    }
}

/// The published `buddy_system_allocator`, without a lock.
struct BuddySystem(buddy_system_allocator::FrameAllocator<32>);

impl BuddySystem {
    fn new(frames: usize) -> Self {
        let mut allocator = buddy_system_allocator::FrameAllocator::new();
        allocator.add_frame(0, frames);
        Self(allocator)
    }
}

impl Pages for BuddySystem {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        self.0.alloc(order.pages())
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        self.0.dealloc(frame, order.pages());
    }
}
