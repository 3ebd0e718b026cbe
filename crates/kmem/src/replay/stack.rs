//! Object events on the real stack: named caches and kmalloc over one slab registry, that over a buddy, that over memory
//! of this process.
//!
//! # Invariants
//! - I1: `machine` came from a box and is freed in `drop` alone, after everything that refers to it.
//! - I2: `kmalloc`, and with it the registry, is there until the target was shrunk; then no more requests come.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

use buddy::Mode;
use kmalloc::Kmalloc;
use page_frame::{CpuId, FrameNumber, Order, OutOfMemory, SwitchedCpu};
use slab::{BuildError, Cache, CacheStats, Registry};

use super::outcome::StackTotals;
use super::target::{NoCache, OBJECT_ALIGN, ObjectTarget};
use crate::backed::{Backed, CountedBuddy};

type Cpus = &'static SwitchedCpu;
type Source = &'static CountedBuddy<Cpus>;

/// All four layers, played by one thread on several CPU slots.
pub struct Stack {
    caches: Vec<Cache<Source, Cpus>>,
    kmalloc: Option<Kmalloc<Source, Cpus>>,
    cpus: Cpus,
    machine: NonNull<Backed<Cpus>>,
    free_at_start: Vec<(FrameNumber, Order)>,
    slabs_grown: usize,
    slabs_given_back: usize,
}

impl Stack {
    /// Returns a stack over `bytes` of memory, with `cpus` CPU slots.
    ///
    /// # Errors
    /// Too little memory for a registry, or no address space.
    pub fn new(bytes: usize, cpus: u16) -> io::Result<Self> {
        // Leaked, 32 bytes for each replay, as for page events.
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
        };
        stack.free_at_start = stack.machine().buddy().free_blocks().collect();
        // SAFETY: I1: the reference ends up in registry, caches and kmalloc only, which `drop` ends before the machine.
        let source: Source = unsafe { &*machine };
        let registry = Registry::new(source, cpus).map_err(io::Error::other)?;
        stack.kmalloc = Some(Kmalloc::new(registry));
        Ok(stack)
    }

    /// Returns all caches in the form of the kernel's `/proc/slabinfo`; empty once the target was shrunk.
    pub fn slabinfo(&self) -> String {
        let mut text = String::new();
        if let Some(kmalloc) = &self.kmalloc {
            kmalloc.registry().slabinfo(&mut text).expect("a String takes all text");
        }
        text
    }

    fn machine(&self) -> &Backed<Cpus> {
        // SAFETY: I1.
        unsafe { self.machine.as_ref() }
    }

    #[inline(always)]
    fn kmalloc(&self) -> &Kmalloc<Source, Cpus> {
        self.kmalloc.as_ref().expect("I2: no requests after the end")
    }
}

/// Sums the slabs taken and given back, and names the first cache that keeps pages.
///
/// All but the last two caches of the registry: those are the ones that the caches themselves are in, which live on.
fn look_at_caches(registry: &Registry<Source, Cpus>) -> (usize, usize, Option<String>) {
    let (mut grown, mut given_back, mut keeper) = (0, 0, None);
    let mut last: [Option<CacheStats>; 2] = [None; 2];
    registry.stats(|stats| {
        last.swap(0, 1);
        if let Some(stats) = last[1].replace(*stats) {
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

// SAFETY: objects come from caches of at least their size and alignment, bytes from kmalloc for their layout; both hand
// out memory of the mapping, once until it is freed.
unsafe impl ObjectTarget for Stack {
    /// An index.
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
        self.caches[cache].allocate()
    }

    #[inline]
    unsafe fn free_object(&mut self, cache: usize, object: NonNull<u8>) {
        // SAFETY: clause 1.
        unsafe { self.caches[cache].free(object) }
    }

    #[inline]
    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        let layout = Layout::from_size_align(bytes, OBJECT_ALIGN).map_err(|_| OutOfMemory)?;
        self.kmalloc().allocate(layout)
    }

    /// Frees by the address alone, as the recorded kernel did.
    #[inline]
    unsafe fn free_bytes(&mut self, start: NonNull<u8>, _: usize) {
        // SAFETY: clause 1.
        unsafe { self.kmalloc().free(start) }
    }

    fn totals(&self) -> StackTotals {
        let machine = self.machine();
        let counts = machine.buddy().observer();
        StackTotals {
            held_pages: machine.held_pages(),
            peak_pages: machine.peak_pages(),
            slabs_grown: self.slabs_grown,
            slabs_given_back: self.slabs_given_back,
            splits: counts.splits(),
            merges: counts.merges(),
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
        // Without caches and registry, nothing is left that has a right to a page.
        for cache in self.caches.drain(..) {
            if let Err(busy) = cache.destroy() {
                problem.get_or_insert_with(|| busy.to_string());
            }
        }
        drop(kmalloc);
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
        // SAFETY: I1: from `into_raw`, freed once, and nothing refers to it any more.
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
            // SAFETY: allocated above.
            unsafe { stack.free_object(cache, object.expect("there is room")) };
        }
        for (start, bytes) in bytes.into_iter().zip(sizes) {
            // SAFETY: allocated above.
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
