//! Page allocators by frame number. Memory is simulated: metadata is real, frames are only numbers.
//!
//! To add one, implement [`Pages`] for it when one thread at a time may use it, or [`SharedPages`] when several may, and
//! name it in [`contestants`].

#[cfg(feature = "counted")]
pub mod counted;
mod linux_like;
mod rivals;

use std::time::Instant;

use buddy::{FrameAllocator, Mode, ZeroedMemory};
use hosted::{Mapped, Threads};
use page_frame::{Cpu, CpuId, FrameNumber, FrameRange, Order, PageMapArray};
use rustix::mm::{Advice, madvise};

use crate::measure::Sample;
use crate::workload::{self, Workload};

/// A page allocator that one thread at a time uses.
pub trait Pages {
    /// Returns the first frame of a block of `order`.
    fn allocate(&mut self, order: Order) -> Option<usize>;
    /// Takes the block of `order` at `frame` back.
    fn free(&mut self, frame: usize, order: Order);
    /// Gives the frames that it keeps at hand back to where every request finds them.
    fn drain(&mut self) {}
    /// Returns how many whole areas are free by its own account; `None` when it has none to give.
    fn free_areas(&self) -> Option<usize> {
        None
    }
    /// Returns the bytes of metadata, a page map apart; `None` when they grow with use.
    fn metadata_bytes(&self) -> Option<usize> {
        None
    }
}

/// A page allocator that several threads use at once. Methods are those of [`Pages`].
pub trait SharedPages: Sync {
    /// Returns the first frame of a block of `order`.
    fn allocate(&self, order: Order) -> Option<usize>;
    /// Takes the block of `order` at `frame` back.
    fn free(&self, frame: usize, order: Order);
    /// See [`Pages::drain`].
    fn drain(&self) {}
    /// See [`Pages::free_areas`].
    fn free_areas(&self) -> Option<usize> {
        None
    }
    /// See [`Pages::metadata_bytes`].
    fn metadata_bytes(&self) -> Option<usize> {
        None
    }
    /// Has the system put memory behind all metadata, so that no workload pays for its page faults.
    fn back(&self) {}
}

impl<S: SharedPages> Pages for &S {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        (**self).allocate(order)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        (**self).free(frame, order);
    }

    fn drain(&mut self) {
        (**self).drain();
    }

    fn free_areas(&self) -> Option<usize> {
        (**self).free_areas()
    }

    fn metadata_bytes(&self) -> Option<usize> {
        (**self).metadata_bytes()
    }
}

/// Makes a fresh allocator of that many frames.
pub type Make = fn(usize) -> Box<dyn Contestant>;

/// An allocator behind a pointer: the workloads are compiled once for each implementation, inside it.
pub trait Contestant {
    /// Runs one round of `workload`; `None` when this allocator cannot, or takes too long.
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample>;
    /// Runs so many operations of `workload` and measures nothing; see [`workload::repeat`].
    fn repeat(&mut self, workload: Workload, count: usize, frames: usize) {
        let _ = (workload, count, frames);
    }
}

/// A contestant for one thread.
struct Alone<P>(P);

impl<P: Pages> Contestant for Alone<P> {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        workload::run(&mut self.0, workload, frames)
    }

    fn repeat(&mut self, workload: Workload, count: usize, frames: usize) {
        workload::repeat(&mut self.0, workload, count, frames);
    }
}

/// A contestant for one thread or several.
struct Shared<S>(S);

impl<S: SharedPages> Contestant for Shared<S> {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        self.0.back();
        match workload.threads() {
            1 => workload::run(&mut &self.0, workload, frames),
            _ => workload::together::run(&self.0, workload, frames),
        }
    }

    fn repeat(&mut self, workload: Workload, count: usize, frames: usize) {
        workload::repeat(&mut &self.0, workload, count, frames);
    }
}

/// A contestant for several threads that sits out the rows of one thread, where it stands there without its lock.
struct OnlyShared<S>(S);

impl<S: SharedPages> Contestant for OnlyShared<S> {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        match workload.threads() {
            1 => None,
            _ => workload::together::run(&self.0, workload, frames),
        }
    }
}

/// The harness alone: it has times and no state.
impl Contestant for Nothing {
    fn run(&mut self, workload: Workload, frames: usize) -> Option<Sample> {
        workload.is_time().then(|| Shared(Self).run(workload, frames))?
    }
}

/// Returns ours, the harness's floor, and the rivals, by name.
pub fn contestants() -> [(&'static str, Make); 9] {
    [
        ("ours", |frames| Box::new(Shared(Ours::new(frames)))),
        ("floor", |_| Box::new(Nothing)),
        ("linux-like", |frames| Box::new(Shared(linux_like::LinuxLike::new(frames)))),
        ("buddy_system_allocator", |frames| Box::new(Alone(rivals::BuddySystem::new(frames)))),
        ("buddy_system_allocator-locked", |frames| {
            Box::new(Shared(rivals::Locked::new(rivals::BuddySystem::new(frames))))
        }),
        ("bitmap-allocator", |frames| Box::new(Alone(rivals::Bitmap::new(frames)))),
        ("bitmap-allocator-locked", |frames| {
            Box::new(OnlyShared(rivals::Locked::new(rivals::Bitmap::new(frames))))
        }),
        ("buddy-slab-allocator", |frames| Box::new(Alone(rivals::BuddySlab::new(frames)))),
        ("buddy-slab-allocator-locked", |frames| {
            Box::new(OnlyShared(rivals::Locked::new(rivals::BuddySlab::new(frames))))
        }),
    ]
}

/// Runs one round of `workload` on a fresh allocator of `frames` frames; `None` as for [`Contestant::run`].
pub fn measure(make: Make, workload: Workload, frames: usize) -> Option<Sample> {
    let start = Instant::now();
    let mut contestant = make(frames);
    let elapsed_us = start.elapsed().as_nanos() as f64 / 1e3;
    if workload == Workload::Init {
        // Who builds metadata as it goes has nothing to build here.
        contestant.run(Workload::Metadata, frames)?;
        return Some(workload::only(elapsed_us / (frames as f64 / (1 << 18) as f64)));
    }
    contestant.run(workload, frames)
}

/// As many threads as use an allocator at once, and the one that built it, with slots for no more.
#[derive(Clone, Copy)]
struct FewThreads;

/// Slots of [`FewThreads`]: two threads and the harness's own, rounded up.
const SLOTS: usize = 4;

// SAFETY: those of `Threads`, of which the ids from `SLOTS` on count as none.
unsafe impl Cpu for FewThreads {
    fn slots(&self) -> usize {
        SLOTS
    }

    #[inline]
    fn pin(&self) -> Option<CpuId> {
        Threads.pin().filter(|id| id.index() < SLOTS)
    }

    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        Threads.pin_known()
    }

    #[inline]
    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        Threads.fence_all()
    }
}

/// The `buddy` crate with all its checks, its slots one per thread.
struct Ours {
    buddy: FrameAllocator<'static, FewThreads>,
    metadata: Mapped,
}

impl Ours {
    fn new(frames: usize) -> Self {
        let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(frames))];
        let layout =
            FrameAllocator::<FewThreads>::metadata_layout(&range, SLOTS).expect("a good range");
        let metadata = Mapped::reserve(layout.size()).expect("memory for metadata");
        // SAFETY: a fresh mapping is zero and page-aligned, and goes after the allocator: fields drop in order.
        let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
        let buddy = FrameAllocator::new_in(zeroed, &range, FewThreads, Mode::Cached);
        Self { buddy: buddy.expect("a good range"), metadata }
    }
}

impl SharedPages for Ours {
    #[inline]
    fn allocate(&self, order: Order) -> Option<usize> {
        self.buddy.allocate_frames(order).ok().map(FrameNumber::get)
    }

    #[inline]
    fn free(&self, frame: usize, order: Order) {
        self.buddy.free_frames(FrameNumber::new(frame), order).expect("the workloads free once");
    }

    fn drain(&self) {
        self.buddy.drain();
    }

    fn free_areas(&self) -> Option<usize> {
        let areas = |(_, order): (FrameNumber, Order)| order.pages() / workload::AREA_FRAMES;
        Some(self.buddy.free_blocks().map(areas).sum())
    }

    fn metadata_bytes(&self) -> Option<usize> {
        let page_map = PageMapArray::metadata_bytes(self.buddy.frames());
        // The mapping is whole pages; what is less than one does not count against the frames of gibibytes.
        Some(self.metadata.bytes() - page_map)
    }

    fn back(&self) {
        let (start, bytes) = (self.metadata.start().as_ptr().cast(), self.metadata.bytes());
        // SAFETY: the mapping is ours, and its content stays as it is. The rivals write all of theirs when they are built.
        let backed = unsafe { madvise(start, bytes, Advice::LinuxPopulateWrite) };
        backed.expect("the system has memory for the metadata");
    }
}

/// The harness without an allocator: hands out one number.
struct Nothing;

impl SharedPages for Nothing {
    #[inline]
    fn allocate(&self, order: Order) -> Option<usize> {
        std::hint::black_box(Some(order.pages()))
    }

    #[inline]
    fn free(&self, frame: usize, _: Order) {
        std::hint::black_box(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::Random;

    /// Allocates and frees at random, with an owner for each frame; at the end everything is one piece again.
    fn behaves(mut pages: impl Pages, name: &str) {
        const FRAMES: usize = 4096;
        let mut owners = vec![false; FRAMES];
        let mut live: Vec<(usize, Order)> = Vec::new();
        let mut random = Random::new(3);
        for step in 0..20_000 {
            if random.below(100) < 51 {
                let order = workload::mixed_order(&mut random);
                let Some(frame) = pages.allocate(order) else { continue };
                assert_eq!(frame % order.pages(), 0, "{name}, step {step}");
                for owner in &mut owners[frame..frame + order.pages()] {
                    assert!(!std::mem::replace(owner, true), "{name}, step {step}");
                }
                live.push((frame, order));
            } else if !live.is_empty() {
                let (frame, order) = live.swap_remove(random.below(live.len()));
                owners[frame..frame + order.pages()].fill(false);
                pages.free(frame, order);
            }
        }
        live.into_iter().for_each(|(frame, order)| pages.free(frame, order));
        pages.drain();
        let largest = Order::new(10).expect("order 10 exists");
        let all = (0..FRAMES / largest.pages()).filter_map(|_| pages.allocate(largest)).count();
        assert_eq!(all, FRAMES / largest.pages(), "{name}: all frames are in blocks of order 10");
    }

    #[test]
    fn every_contestant_hands_out_aligned_blocks_once_and_merges_them() {
        behaves(&Ours::new(4096), "ours");
        behaves(&linux_like::LinuxLike::new(4096), "linux-like");
        behaves(rivals::BuddySystem::new(4096), "buddy_system_allocator");
        behaves(rivals::Bitmap::new(4096), "bitmap-allocator");
        behaves(rivals::BuddySlab::new(4096), "buddy-slab-allocator");
    }

    #[test]
    fn every_row_has_a_figure_for_ours() {
        for workload in Workload::ALL {
            let (_, make) = contestants()[0];
            let sample = measure(make, workload, 1 << 18).expect("ours takes part in every row");
            assert!(sample.mean_ns.is_finite(), "{workload:?}");
        }
    }
}
