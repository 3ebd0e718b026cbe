//! The caches that a trace uses: opened at the first request, found by the trace's number and the
//! requested size.

use std::collections::HashMap;

use super::hash::NumberMap;
use super::target::{NoCache, OBJECT_ALIGN, ObjectTarget};
use crate::input_error::Mismatch;

/// Maximum number of caches that a trace may open.
pub const MAX_CACHES: usize = 4096;

/// The index of no cache: the object was allocated as bytes, or its cache found no memory.
pub(super) const NO_CACHE: u32 = u32::MAX;

/// A cache that was opened for the trace.
pub struct OpenCache<C> {
    /// The name to show: `NAME`, or `NAME-REQ`.
    pub name: String,
    /// Allocations, including those that found no memory.
    pub allocations: u64,
    /// Live objects, including those that found no memory.
    pub live_objects: u64,
    /// The maximum of `live_objects`.
    pub peak_objects: u64,
    /// The target's handle of it.
    pub cache: C,
    requested_bytes: u32,
    name_number: u32,
}

/// Opened caches, found by the trace's number and the requested size.
pub(super) struct Caches<C> {
    pub(super) opened: Vec<OpenCache<C>>,
    /// By the trace's number: the name, and the cache used last under it.
    by_id: Vec<Option<Recent>>,
    names: HashMap<String, u32>,
    /// By name and size.
    by_name_and_size: NumberMap<u32>,
}

#[derive(Clone, Copy)]
struct Recent {
    name: u32,
    cache: u32,
    requested_bytes: u32,
}

impl<C: Copy> Caches<C> {
    /// Returns an empty set.
    pub(super) fn new() -> Self {
        Self {
            opened: Vec::new(),
            by_id: Vec::new(),
            names: HashMap::new(),
            by_name_and_size: NumberMap::default(),
        }
    }

    /// Records that `id` is the trace's number for the cache or call site `name`.
    pub(super) fn name(&mut self, id: u32, name: &str) {
        let next = self.names.len() as u32;
        let name = *self.names.entry(name.to_owned()).or_insert(next);
        let index = id as usize;
        if self.by_id.len() <= index {
            self.by_id.resize(index + 1, None);
        }
        let recent = Recent { name, cache: NO_CACHE, requested_bytes: 0 };
        self.by_id[index].get_or_insert(recent);
    }

    /// Returns the index of the cache for `id` and `requested_bytes`, and opens it at the first
    /// request; `NO_CACHE` when there is no memory for it.
    #[inline]
    pub(super) fn find(
        &mut self,
        target: &mut impl ObjectTarget<Cache = C>,
        id: u32,
        requested_bytes: u32,
    ) -> Result<u32, Mismatch> {
        match self.by_id.get(id as usize) {
            Some(&Some(recent))
                if recent.requested_bytes == requested_bytes && recent.cache != NO_CACHE =>
            {
                Ok(recent.cache)
            }
            _ => self.find_or_open(target, id, requested_bytes),
        }
    }

    #[cold]
    fn find_or_open(
        &mut self,
        target: &mut impl ObjectTarget<Cache = C>,
        id: u32,
        requested_bytes: u32,
    ) -> Result<u32, Mismatch> {
        let known = self.by_id.get_mut(id as usize).and_then(Option::as_mut);
        let recent = known.expect("the reader passes on only numbers that were named");
        let key = u64::from(recent.name) << 32 | u64::from(requested_bytes);
        let cache = match self.by_name_and_size.get(&key) {
            Some(&cache) => cache,
            None => {
                let cache = self.opened.len();
                if cache == MAX_CACHES {
                    let expected = format!("at most {MAX_CACHES} caches");
                    return Err(Mismatch::new(expected, "one more"));
                }
                let named = recent.name;
                let plain = self.names.iter().find(|(_, number)| **number == named);
                let (plain, _) = plain.expect("every number of a name is in the table");
                // The first size under a name gets the name without a suffix.
                let name = match self.opened.iter().any(|opened| opened.name_number == named) {
                    true => format!("{plain}-{requested_bytes}"),
                    false => plain.to_string(),
                };
                let object_bytes = (requested_bytes as usize).next_multiple_of(OBJECT_ALIGN);
                let opened = match target.open_cache(&name, object_bytes) {
                    Ok(opened) => opened,
                    Err(NoCache::OutOfMemory) => return Ok(NO_CACHE),
                    Err(NoCache::Impossible(reason)) => {
                        return Err(Mismatch::new("an object size that a cache can have", reason));
                    }
                };
                let opened = OpenCache {
                    name,
                    allocations: 0,
                    live_objects: 0,
                    peak_objects: 0,
                    cache: opened,
                    requested_bytes,
                    name_number: named,
                };
                self.opened.push(opened);
                self.by_name_and_size.insert(key, cache as u32);
                cache as u32
            }
        };
        *recent = Recent { name: recent.name, cache, requested_bytes };
        Ok(cache)
    }
}

impl<C> OpenCache<C> {
    /// Returns the requested bytes of each object.
    pub fn requested_bytes(&self) -> u32 {
        self.requested_bytes
    }
}
