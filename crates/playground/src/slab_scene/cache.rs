//! The cache of the scene, and the objects that its user holds.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::{CpuId, Order, SwitchedCpu};
use slab::{Cache, Geometry, Registry, SlabView};

use super::script::{CPUS, Options, Request};
use crate::input::size::counted;
use crate::page_memory::PageBuddy;

type Source<'s> = &'s PageBuddy<'s, &'s SwitchedCpu>;
type Objects<'s> = Cache<(Source<'s>, &'s SwitchedCpu)>;

/// The cache with the objects in use.
pub(super) struct SceneCache<'s> {
    cache: Objects<'s>,
    cpus: &'s SwitchedCpu,
    current: u32,
    /// The address of the first page.
    base: usize,
    is_coloured: bool,
    /// Objects in use by number.
    held: BTreeMap<usize, NonNull<u8>>,
    /// Number of objects that were allocated so far.
    allocated: usize,
}

impl<'s> SceneCache<'s> {
    /// Builds the cache.
    ///
    /// # Errors
    /// A text that says why it cannot be built.
    pub(super) fn new(
        buddy: Source<'s>,
        cpus: &'s SwitchedCpu,
        base: usize,
        options: &Options,
    ) -> Result<Self, String> {
        let registry = Registry::new(buddy, cpus).map_err(|error| error.to_string())?;
        let layout = Layout::from_size_align(options.object_bytes, 8);
        let layout = layout.map_err(|error| error.to_string())?;
        // A slab of one page: a column of the picture is one set of the CPU cache.
        let builder = registry.cache("object", layout).max_order(Order::ZERO);
        let builder = if options.is_coloured { builder } else { builder.uncoloured() };
        let cache = builder.build().map_err(|error| error.to_string())?;
        let is_coloured = options.is_coloured;
        Ok(Self { cache, cpus, current: 0, base, is_coloured, held: BTreeMap::new(), allocated: 0 })
    }

    /// Performs a request, and returns what it did as a sentence.
    ///
    /// # Errors
    /// A sentence that says why the request is wrong. Nothing has changed then.
    pub(super) fn perform(&mut self, request: &Request) -> Result<String, String> {
        match *request {
            Request::Allocate(count) => Ok(self.allocate(count)),
            Request::Free(number) => self.free_number(number),
            Request::FreeLast => match self.held.keys().next_back().copied() {
                Some(number) => self.free_number(number),
                None => Err("No object is in use.".into()),
            },
            Request::FreeAll => {
                let count = self.free_all();
                Ok(format!(
                    "CPU {} frees {}. {}",
                    self.current,
                    counted(count, "object"),
                    self.magazine_words()
                ))
            }
            Request::SwitchTo(cpu) => {
                self.switch_to(cpu);
                Ok(format!("CPU {cpu} makes the next requests."))
            }
            Request::Shrink => {
                let pages = self.cache.shrink_all();
                Ok({
                    let verb = if pages == 1 { "returns" } else { "return" };
                    format!(
                        "The magazines are emptied, and {} {verb} to the page source.",
                        counted(pages, "empty slab")
                    )
                })
            }
        }
    }

    fn allocate(&mut self, count: usize) -> String {
        let before = self.cache.stats();
        let mut done = 0;
        while done < count {
            let Ok(object) = self.cache.allocate() else { break };
            self.held.insert(self.allocated, object);
            self.allocated += 1;
            done += 1;
        }
        let after = self.cache.stats();
        let which = match done {
            0 => "No object is allocated.".to_string(),
            1 => format!("CPU {} allocates object {}.", self.current, self.allocated - 1),
            _ => format!(
                "CPU {} allocates objects {} to {}.",
                self.current,
                self.allocated - done,
                self.allocated - 1
            ),
        };
        let grown = match after.grown.wrapping_sub(before.grown) {
            0 => " No slab is added.".to_string(),
            1 => " The cache grows by a slab.".to_string(),
            slabs => format!(" The cache grows by {slabs} slabs."),
        };
        let end = if done < count { " The page source has no page left." } else { "" };
        format!("{which}{grown} {}{end}", self.magazine_words())
    }

    fn free_number(&mut self, number: usize) -> Result<String, String> {
        let Some(object) = self.held.remove(&number) else {
            return Err(match number < self.allocated {
                true => format!("Object {number} is free already."),
                false => format!("There was no object {number}."),
            });
        };
        // SAFETY: clauses 1 and 2: `held` had it, which has only objects of this cache that are in
        // use. Clause 3: there is no constructor.
        unsafe { self.cache.free(object) };
        Ok(format!("CPU {} frees object {number}. {}", self.current, self.magazine_words()))
    }

    fn free_all(&mut self) -> usize {
        let held = core::mem::take(&mut self.held);
        let count = held.len();
        for object in held.into_values() {
            // SAFETY: as in `free_number`.
            unsafe { self.cache.free(object) };
        }
        count
    }

    fn switch_to(&mut self, cpu: u32) {
        self.cpus.switch_to(Some(CpuId::new(cpu)));
        self.current = cpu;
    }

    fn magazine_words(&self) -> String {
        match self.cache.magazines() {
            [None, _] => "It has no magazine yet.".to_string(),
            [Some(loaded), None] => format!("Its magazine holds {loaded}."),
            [Some(loaded), Some(previous)] => {
                format!("Its magazines hold {loaded} and {previous}.")
            }
        }
    }

    /// Returns the lengths of the magazines of each CPU.
    pub(super) fn magazines(&self) -> [[Option<usize>; 2]; CPUS] {
        let magazines = core::array::from_fn(|cpu| {
            self.cpus.switch_to(Some(CpuId::new(cpu as u32)));
            self.cache.magazines()
        });
        self.cpus.switch_to(Some(CpuId::new(self.current)));
        magazines
    }

    /// Returns the slabs by address.
    pub(super) fn slabs(&self) -> Vec<SlabView> {
        let mut slabs = Vec::new();
        self.cache.for_each_slab(|slab| slabs.push(slab));
        slabs.sort_unstable_by_key(|slab| slab.start);
        slabs
    }

    /// Returns the numbers of the objects in use by address.
    pub(super) fn numbers(&self) -> BTreeMap<usize, usize> {
        self.held.iter().map(|(number, object)| (object.addr().get(), *number)).collect()
    }

    pub(super) const fn current(&self) -> u32 {
        self.current
    }

    pub(super) const fn is_coloured(&self) -> bool {
        self.is_coloured
    }

    pub(super) fn page_of(&self, slab: &SlabView) -> usize {
        (slab.start - self.base) / page_frame::PAGE_SIZE
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.cache.geometry()
    }

    pub(super) fn stats(&self) -> slab::CacheStats {
        self.cache.stats()
    }
}

impl Drop for SceneCache<'_> {
    /// Frees what the user holds, so that the cache ends without objects in use.
    fn drop(&mut self) {
        self.free_all();
    }
}
