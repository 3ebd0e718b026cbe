//! Replays object events on our own allocators: named caches and kmalloc on one slab registry,
//! which takes pages from a buddy over memory of this process.
//!
//! # Invariants
//! - I1: `machine` came from a box. Only `drop` frees it, after all that refers to it is dropped.
//! - I2: `kmalloc`, and with it the registry, exists until the target was shrunk; no requests
//!   follow.

use std::alloc::Layout;
use std::collections::HashSet;
use std::io;
use std::ptr::NonNull;

use buddy::{Block, BlockState, Mode};
use kmalloc::Kmalloc;
use page_frame::{CpuId, FrameNumber, Order, OutOfMemory, PAGE_SIZE, SwitchedCpu};
use slab::{BuildError, Cache, CacheStats, Registry};

use super::outcome::{Shortage, StackTotals};
use super::target::{NoCache, OBJECT_ALIGN, ObjectTarget};
use crate::kernel_files::slabinfo;
use crate::memory::backed::{Backed, CountedBuddy};

/// Pages that a reclaim requests from the caches when a request finds no memory.
const RECLAIMED_AT_ONCE: usize = 64;
/// Number of failed requests and frees that must follow a reclaim without result before the next
/// one: a reclaim visits every cache.
const HOPELESS: usize = 1000;

type Cpus = &'static SwitchedCpu;
type Source = &'static CountedBuddy<Cpus>;

/// The use of a page that is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageUse<'n> {
    /// A slab of the cache of that name.
    Slab(&'n str),
    /// Memory larger than any size class, or of the registry itself.
    Large,
    /// Cached in a CPU slot of the buddy.
    Cached,
    /// Allocated by the replay so that memory runs short.
    Ballast,
}

/// All four layers. One thread plays all CPUs.
pub struct Stack {
    caches: Vec<Cache<(Source, Cpus)>>,
    kmalloc: Option<Kmalloc<(Source, Cpus)>>,
    cpus: Cpus,
    machine: NonNull<Backed<Cpus>>,
    free_at_start: Vec<(FrameNumber, Order)>,
    slabs_grown: usize,
    slabs_given_back: usize,
    /// Blocks that `under_pressure` withholds.
    ballast: Vec<(FrameNumber, Order)>,
    reclaims: usize,
    reclaimed_pages: usize,
    /// Failed requests and frees until the next reclaim, if the last one found no page.
    hopeless: usize,
}

impl Stack {
    /// Returns a stack over `bytes` of memory, with `cpus` CPU slots.
    ///
    /// # Errors
    /// Too little memory for a registry, or no address space.
    pub fn new(bytes: usize, cpus: u16) -> io::Result<Self> {
        // Leaks 32 bytes per replay, as `BuddyPages` does.
        let cpus: Cpus = Box::leak(Box::new(SwitchedCpu::new(cpus.into())));
        let machine = Box::into_raw(Box::new(Backed::new(bytes, cpus, Mode::Cached)?));
        let mut stack = Self {
            caches: Vec::new(),
            kmalloc: None,
            cpus,
            machine: NonNull::new(machine).expect("a box is not null"),
            free_at_start: Vec::new(),
            slabs_grown: 0,
            slabs_given_back: 0,
            ballast: Vec::new(),
            reclaims: 0,
            reclaimed_pages: 0,
            hopeless: 0,
        };
        stack.free_at_start = stack.machine().buddy().free_blocks().collect();
        // SAFETY: I1: only the registry, the caches and kmalloc keep the reference, and `drop`
        // drops them before the machine.
        let source: Source = unsafe { &*machine };
        let registry = Registry::new(source, cpus).map_err(io::Error::other)?;
        stack.kmalloc = Some(Kmalloc::new(registry));
        Ok(stack)
    }

    /// Withholds `percent` of memory, in the largest free blocks, until the target is shrunk. A
    /// request that finds no memory then reclaims from the caches.
    pub fn under_pressure(mut self, percent: u8) -> Self {
        let mut pages = self.machine().buddy().frames() * usize::from(percent.min(100)) / 100;
        let orders: Vec<_> = Order::all().collect();
        for order in orders.into_iter().rev() {
            while order.pages() <= pages {
                let Ok(frame) = self.machine().buddy().allocate_frames(order) else { break };
                self.ballast.push((frame, order));
                pages -= order.pages();
            }
        }
        self
    }

    /// Reclaims pages from the caches. Returns whether another attempt may succeed.
    #[cold]
    fn reclaim(&mut self) -> bool {
        if self.hopeless > 0 {
            self.hopeless -= 1;
            return false;
        }
        let pages = self.kmalloc().registry().shrink(RECLAIMED_AT_ONCE);
        let at_hand = self.machine().buddy().drain();
        self.reclaims += 1;
        self.reclaimed_pages += pages;
        if pages + at_hand == 0 {
            self.hopeless = HOPELESS;
        }
        pages + at_hand > 0
    }

    /// Returns all caches in the format of the kernel's `/proc/slabinfo`; an empty text once the
    /// target was shrunk.
    pub fn slabinfo(&self) -> String {
        let mut text = String::new();
        if let Some(kmalloc) = &self.kmalloc {
            kmalloc.registry().slabinfo(&mut text).expect("a String takes all text");
            text.push_str(&slabinfo::large_line(kmalloc.large_pages()));
        }
        text
    }

    /// Calls `look` for each run of pages that are not free, with its first page (counted from the
    /// start of memory), its number of pages, and their use.
    pub fn for_each_use(&self, mut look: impl FnMut(usize, usize, PageUse<'_>)) {
        let start = self.machine().start_address();
        let page = |address: usize| (address - start) / PAGE_SIZE;
        let ballast: HashSet<_> = self.ballast.iter().map(|(frame, _)| *frame).collect();
        let mut slabs = HashSet::new();
        if let Some(kmalloc) = &self.kmalloc {
            kmalloc.registry().for_each_slab(|name, slab| {
                let (first, pages) = (page(slab.start), slab.order.pages());
                slabs.extend(first..first + pages);
                look(first, pages, PageUse::Slab(name.as_str()));
            });
        }
        // Frame numbers count from address zero.
        let first = start / PAGE_SIZE;
        let not_free = |block: &Block| block.state != BlockState::Free;
        for block in self.machine().buddy().blocks().filter(not_free) {
            let used = match block.state {
                _ if ballast.contains(&block.start) => PageUse::Ballast,
                BlockState::Cached => PageUse::Cached,
                _ => PageUse::Large,
            };
            let frames = block.start.get() - first..block.start.get() - first + block.frames;
            for page in frames.filter(|page| !slabs.contains(page)) {
                look(page, 1, used);
            }
        }
    }

    fn machine(&self) -> &Backed<Cpus> {
        // SAFETY: I1.
        unsafe { self.machine.as_ref() }
    }

    #[inline(always)]
    fn kmalloc(&self) -> &Kmalloc<(Source, Cpus)> {
        self.kmalloc.as_ref().expect("I2: no requests after the end")
    }
}

/// Sums the slabs taken and returned, and names the first cache that still holds pages.
///
/// Leaves out the last cache of the registry, which holds the caches themselves.
fn look_at_caches(registry: &Registry<(Source, Cpus)>) -> (usize, usize, Option<String>) {
    let (mut grown, mut given_back, mut keeper) = (0, 0, None);
    let mut last: Option<CacheStats> = None;
    registry.stats(|stats| {
        if let Some(stats) = last.replace(*stats) {
            grown += stats.grown;
            given_back += stats.shrunk;
            if stats.pages() > 0 {
                let text = || format!("cache {} keeps {} pages", stats.name, stats.pages());
                keeper.get_or_insert_with(text);
            }
        }
    });
    (grown, given_back, keeper)
}

// SAFETY: clause 1 of `ObjectTarget`: objects come from caches of at least their size and
// alignment, bytes from kmalloc for their layout. Both return memory of the mapping, to one user at
// a time.
unsafe impl ObjectTarget for Stack {
    /// An index into `caches`.
    type Cache = usize;

    #[inline]
    fn switch_cpu(&mut self, cpu: u16) {
        self.cpus.switch_to(Some(CpuId::new(cpu.into())));
    }

    fn open_cache(&mut self, name: &str, object_bytes: usize) -> Result<usize, NoCache> {
        let layout = Layout::from_size_align(object_bytes, OBJECT_ALIGN)
            .map_err(|error| NoCache::Impossible(error.to_string()))?;
        let built = self.kmalloc().registry().cache(name, layout).build();
        self.caches.push(built.map_err(|error| match error {
            BuildError::OutOfMemory => NoCache::OutOfMemory,
            error => NoCache::Impossible(error.to_string()),
        })?);
        Ok(self.caches.len() - 1)
    }

    #[inline]
    fn allocate_object(&mut self, cache: usize) -> Result<NonNull<u8>, OutOfMemory> {
        match self.caches[cache].allocate() {
            Err(OutOfMemory) if self.reclaim() => self.caches[cache].allocate(),
            object => object,
        }
    }

    #[inline]
    unsafe fn free_object(&mut self, cache: usize, object: NonNull<u8>) {
        self.hopeless = self.hopeless.saturating_sub(1);
        // SAFETY: clause 1 of `free_object`: allocated from the cache of this index.
        unsafe { self.caches[cache].free(object) }
    }

    #[inline]
    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let layout = Layout::from_size_align(bytes, OBJECT_ALIGN)?;
        match self.kmalloc().allocate(layout) {
            Err(OutOfMemory) if self.reclaim() => self.kmalloc().allocate(layout),
            start => start,
        }
    }

    /// Frees by address without a size, as the recorded kernel did.
    #[inline]
    unsafe fn free_bytes(&mut self, start: NonNull<u8>, _: usize) {
        self.hopeless = self.hopeless.saturating_sub(1);
        // SAFETY: clause 1 of `free_bytes`: allocated by this kmalloc, which finds the size itself.
        unsafe { self.kmalloc().free(start) }
    }

    fn for_each_slab(&self, look: &mut dyn FnMut(usize, usize)) {
        if let Some(kmalloc) = &self.kmalloc {
            kmalloc.registry().for_each_slab(|_, slab| look(slab.start, slab.order.bytes()));
        }
    }

    fn shortage(&self, bytes: usize) -> Shortage {
        let machine = self.machine();
        let pages = bytes.div_ceil(PAGE_SIZE);
        let ballast: usize = self.ballast.iter().map(|(_, order)| order.pages()).sum();
        let frames = machine.buddy().frames();
        match frames.saturating_sub(machine.held_pages() + ballast) {
            _ if pages > frames => Shortage::TooLarge,
            free if free < pages => Shortage::TooLittleFree,
            _ => Shortage::InPieces,
        }
    }

    fn totals(&self) -> StackTotals {
        let machine = self.machine();
        let counts = machine.buddy().trace();
        StackTotals {
            held_pages: machine.held_pages(),
            peak_pages: machine.peak_pages(),
            slabs_grown: self.slabs_grown,
            slabs_given_back: self.slabs_given_back,
            splits: counts.splits(),
            merges: counts.merges(),
            reclaims: self.reclaims,
            reclaimed_pages: self.reclaimed_pages,
        }
    }

    fn shrink(&mut self) -> Result<(), String> {
        let Some(kmalloc) = self.kmalloc.take() else { return Ok(()) };
        kmalloc.validate().map_err(|invariant| format!("before shrinking: {invariant}"))?;
        kmalloc.shrink_all();
        kmalloc.validate().map_err(|invariant| format!("after shrinking: {invariant}"))?;
        let (grown, given_back, keeper) = look_at_caches(kmalloc.registry());
        (self.slabs_grown, self.slabs_given_back) = (grown, given_back);
        let large = Some(kmalloc.large_pages()).filter(|pages| *pages > 0);
        let mut problem = keeper.or_else(|| large.map(|pages| format!("{pages} large pages stay")));
        // Without the caches and the registry, no page should stay allocated.
        for cache in self.caches.drain(..) {
            if let Err(busy) = cache.destroy() {
                problem.get_or_insert_with(|| busy.to_string());
            }
        }
        drop(kmalloc);
        for (frame, order) in std::mem::take(&mut self.ballast) {
            // SAFETY: clause 1 of `free_frames`: `under_pressure` allocated this block by number,
            // and only `ballast` referred to it.
            let freed = unsafe { self.machine().buddy().free_frames(frame, order) };
            if let Err(fault) = freed {
                problem.get_or_insert_with(|| fault.to_string());
            }
        }
        self.machine().buddy().drain();
        let valid = self.machine().buddy().validate().map_err(|violation| violation.to_string());
        problem.map_or(valid, Err)
    }

    fn is_as_at_start(&self) -> bool {
        self.machine().buddy().free_blocks().eq(self.free_at_start.iter().copied())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.caches.clear();
        self.kmalloc = None;
        // SAFETY: I1: from `Box::into_raw`; freed only here, after all that referred to it.
        drop(unsafe { Box::from_raw(self.machine.as_ptr()) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        Stack::new(16 << 20, 2).expect("there is address space")
    }

    #[test]
    fn everything_freed_on_other_cpus_is_home_after_the_shrink() {
        let mut stack = stack();
        let cache = stack.open_cache("inode", 640).expect("a good size");
        let sizes = [1, 100, 5000, 40_000, 1 << 20];
        let objects: Vec<_> = (0..100).map(|_| stack.allocate_object(cache)).collect();
        let bytes: Vec<_> = sizes.iter().map(|bytes| stack.allocate_bytes(*bytes)).collect();
        stack.switch_cpu(1);
        for object in objects {
            // SAFETY: one of the hundred, from this cache.
            unsafe { stack.free_object(cache, object.expect("there is room")) };
        }
        for (start, bytes) in bytes.into_iter().zip(sizes) {
            // SAFETY: allocated from this stack with the same size.
            unsafe { stack.free_bytes(start.expect("there is room"), bytes) };
        }
        assert!(stack.totals().held_pages > 0 && !stack.is_as_at_start());
        assert_eq!(stack.shrink(), Ok(()));
        let totals = stack.totals();
        assert!(totals.held_pages == 0 && totals.peak_pages > 16 + 256, "{totals:?}");
        assert!(totals.slabs_grown >= 100 / 6 && totals.slabs_grown == totals.slabs_given_back);
        assert!(stack.is_as_at_start());
    }

    #[test]
    fn under_pressure_caches_give_pages_back_before_memory_is_out() {
        let mut stack = stack().under_pressure(90);
        let caches = ["inode", "dentry"].map(|name| stack.open_cache(name, 1000).expect("a size"));
        let filled = caches.map(|cache| {
            let held: Vec<_> = std::iter::from_fn(|| stack.allocate_object(cache).ok()).collect();
            for object in &held {
                // SAFETY: each object of this cache, freed once.
                unsafe { stack.free_object(cache, *object) };
            }
            held.len()
        });
        // The second cache got at least as much memory as the first had.
        assert!(filled[0] > 1000 && filled[1] >= filled[0], "{filled:?}");
        let totals = stack.totals();
        assert!(totals.reclaims > 0 && totals.reclaimed_pages > 0, "{totals:?}");
        assert_eq!(stack.shrink(), Ok(()));
        assert!(stack.is_as_at_start());
    }

    #[test]
    fn an_object_that_stays_is_named_by_its_cache() {
        let mut stack = stack();
        let cache = stack.open_cache("inode", 640).expect("a good size");
        assert!(stack.allocate_object(cache).is_ok());
        assert_eq!(stack.shrink(), Err("cache inode keeps 1 pages".to_owned()));
        assert!(stack.totals().held_pages > 0 && !stack.is_as_at_start());
    }

    #[test]
    fn large_bytes_that_stay_are_noticed() {
        let mut stack = stack();
        assert!(stack.allocate_bytes(100_000).is_ok());
        assert_eq!(stack.shrink(), Err("25 large pages stay".to_owned()));
        assert!(stack.totals().held_pages >= 25);
    }
}
