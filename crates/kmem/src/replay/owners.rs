//! Owners of objects: pairs of a call site and a source, which is kmalloc or a cache. An owner
//! counts its objects. The counters of a cache are sums over its owners.

use std::collections::HashMap;

use super::caches::{CacheState, Caches};
use super::caller::{Caller, Source};
use super::hash::NumberMap;
use super::target::ObjectTarget;
use super::usage::{Moments, Usage};
use crate::input_error::Mismatch;

/// Maximum number of owners. Beyond it a cache has one owner for all further call sites, so that
/// memory does not grow with the length of a trace.
const MAX_OWNERS: usize = 1 << 16;
/// The index of no owner, and of no cache.
const NONE: u32 = u32::MAX;
/// In place of a cache that found no memory.
const NOT_OPEN: u32 = u32::MAX - 1;
/// In place of a call site, for all that have no owner of their own.
const OTHERS: u32 = u32::MAX;

/// An owner of objects.
pub(super) struct Owner<C> {
    pub(super) usage: Usage,
    /// The target's handle of the cache; `None` for kmalloc, and for a cache without memory.
    pub(super) handle: Option<C>,
    /// The number of the call site's name.
    site: u32,
    /// The index of the cache, `NONE` for kmalloc, or `NOT_OPEN`.
    cache: u32,
    /// Whether the trace names the call site.
    is_named: bool,
}

/// All owners, found by the trace's numbers.
pub(super) struct Owners<C> {
    pub(super) list: Vec<Owner<C>>,
    caches: Caches<C>,
    /// By the trace's number: the name, and the owners used last.
    by_id: Vec<Option<Recent>>,
    /// By call site and cache.
    by_site_and_cache: NumberMap<u32>,
    names: Vec<String>,
    name_numbers: HashMap<String, u32>,
}

/// The meaning of a number of the trace.
#[derive(Clone, Copy)]
struct Recent {
    name: u32,
    /// The owner of bytes; `NONE` before the first.
    of_bytes: u32,
    /// The owner of the objects of the last cache and size; `NONE` before the first.
    of_objects: u32,
    cache_id: u32,
    requested_bytes: u32,
}

impl<C: Copy> Owners<C> {
    pub(super) fn new() -> Self {
        Self {
            list: Vec::new(),
            caches: Caches::new(),
            by_id: Vec::new(),
            by_site_and_cache: NumberMap::default(),
            names: Vec::new(),
            name_numbers: HashMap::new(),
        }
    }

    /// Records that `id` is the trace's number for the cache or call site `name`.
    pub(super) fn name(&mut self, id: u32, name: &str) {
        let next = self.names.len() as u32;
        let number = *self.name_numbers.entry(name.to_owned()).or_insert(next);
        if number == next {
            self.names.push(name.to_owned());
        }
        let index = id as usize;
        if self.by_id.len() <= index {
            self.by_id.resize(index + 1, None);
        }
        let recent = Recent {
            name: number,
            of_bytes: NONE,
            of_objects: NONE,
            cache_id: 0,
            requested_bytes: 0,
        };
        self.by_id[index].get_or_insert(recent);
    }

    /// Returns the owner of bytes that the call site `id` allocates.
    #[inline]
    pub(super) fn of_bytes(&mut self, id: u32) -> u32 {
        match self.by_id.get(id as usize) {
            Some(Some(recent)) if recent.of_bytes != NONE => recent.of_bytes,
            _ => self.add_of_bytes(id),
        }
    }

    /// Returns the owner of objects of `requested_bytes` that the call site `id` allocates from
    /// the cache `cache_id`. Opens the cache at the first request.
    #[inline]
    pub(super) fn of_objects(
        &mut self,
        target: &mut impl ObjectTarget<Cache = C>,
        id: u32,
        cache_id: u32,
        requested_bytes: u32,
    ) -> Result<u32, Mismatch> {
        match self.by_id.get(id as usize) {
            Some(Some(recent))
                if recent.cache_id == cache_id
                    && recent.requested_bytes == requested_bytes
                    && recent.of_objects != NONE =>
            {
                Ok(recent.of_objects)
            }
            _ => self.find_of_objects(target, id, cache_id, requested_bytes),
        }
    }

    #[cold]
    fn add_of_bytes(&mut self, id: u32) -> u32 {
        let site = self.recent(id).name;
        let owner = self.find_or_add(site, NONE, None, true);
        self.recent(id).of_bytes = owner;
        owner
    }

    #[cold]
    fn find_of_objects(
        &mut self,
        target: &mut impl ObjectTarget<Cache = C>,
        id: u32,
        cache_id: u32,
        requested_bytes: u32,
    ) -> Result<u32, Mismatch> {
        let (site, cache_name) = (self.recent(id).name, self.recent(cache_id).name);
        let plain = &self.names[cache_name as usize];
        let cache = self.caches.find_or_open(target, cache_name, plain, requested_bytes)?;
        // Without a name of its own, the call site has the number of the cache.
        let is_named = id != cache_id;
        let Some(cache) = cache else {
            return Ok(self.find_or_add(site, NOT_OPEN, None, is_named));
        };
        let handle = self.caches.opened[cache as usize].handle;
        let owner = self.find_or_add(site, cache, Some(handle), is_named);
        let recent = self.recent(id);
        *recent = Recent { of_objects: owner, cache_id, requested_bytes, ..*recent };
        Ok(owner)
    }

    fn find_or_add(&mut self, site: u32, cache: u32, handle: Option<C>, is_named: bool) -> u32 {
        let key = |site: u32| u64::from(site) << 32 | u64::from(cache);
        if let Some(&owner) = self.by_site_and_cache.get(&key(site)) {
            return owner;
        }
        let site = if self.list.len() < MAX_OWNERS { site } else { OTHERS };
        let next = self.list.len() as u32;
        let owner = *self.by_site_and_cache.entry(key(site)).or_insert(next);
        if owner == next {
            self.list.push(Owner { usage: Usage::default(), handle, site, cache, is_named });
        }
        owner
    }

    fn recent(&mut self, id: u32) -> &mut Recent {
        let known = self.by_id.get_mut(id as usize).and_then(Option::as_mut);
        known.expect("the reader passes on only numbers that were named")
    }

    /// Returns the number of caches opened.
    pub(super) fn caches(&self) -> usize {
        self.caches.opened.len()
    }

    /// Returns the caches in the order of opening. O(owners).
    pub(super) fn cache_states(&self, moments: &Moments) -> Vec<CacheState> {
        let mut states: Vec<_> = self
            .caches
            .opened
            .iter()
            .map(|opened| CacheState {
                name: opened.name.clone(),
                requested_bytes: opened.requested_bytes,
                ..CacheState::default()
            })
            .collect();
        for owner in &self.list {
            if let Some(state) = states.get_mut(owner.cache as usize) {
                state.allocations += owner.usage.allocations;
                state.live.add(owner.usage.live);
                state.at_peak.add(owner.usage.at_peak(moments));
            }
        }
        states
    }

    /// Returns the live objects of each cache, in the order of opening. O(owners).
    pub(super) fn live_objects(&self) -> Vec<u64> {
        let mut objects = vec![0; self.caches.opened.len()];
        for owner in &self.list {
            if let Some(objects) = objects.get_mut(owner.cache as usize) {
                *objects += owner.usage.live.objects;
            }
        }
        objects
    }

    /// Returns the state of kmalloc: the sum over all owners of bytes. O(owners).
    pub(super) fn kmalloc_state(&self, moments: &Moments) -> CacheState {
        let mut state = CacheState { name: "kmalloc".to_owned(), ..CacheState::default() };
        for owner in self.list.iter().filter(|owner| owner.cache == NONE) {
            state.allocations += owner.usage.allocations;
            state.live.add(owner.usage.live);
            state.at_peak.add(owner.usage.at_peak(moments));
        }
        state
    }

    /// Returns all owners as callers; `pinned` has the pinned bytes of each.
    pub(super) fn callers(&self, moments: &Moments, pinned: &[u64]) -> Vec<Caller> {
        let caller = |(index, owner): (usize, &Owner<C>)| Caller {
            site: match owner.site {
                OTHERS => "(others)".to_owned(),
                site => self.names[site as usize].clone(),
            },
            is_named: owner.is_named,
            source: match owner.cache {
                NONE => Source::Kmalloc,
                cache => Source::Cache(
                    self.caches
                        .opened
                        .get(cache as usize)
                        .map_or("(a cache without memory)", |opened| &opened.name)
                        .to_owned(),
                ),
            },
            allocations: owner.usage.allocations,
            failed: owner.usage.failed,
            requested_bytes: owner.usage.requested_bytes,
            allocated_bytes: owner.usage.allocated_bytes,
            live: owner.usage.live,
            at_peak: owner.usage.at_peak(moments),
            pinned_bytes: pinned.get(index).copied().unwrap_or(0),
        };
        self.list.iter().enumerate().map(caller).collect()
    }
}
