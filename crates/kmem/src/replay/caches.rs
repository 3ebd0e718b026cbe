//! The caches that a trace uses: opened at the first request, found by name and requested size.

use super::hash::NumberMap;
use super::target::{NoCache, OBJECT_ALIGN, ObjectTarget};
use super::usage::Live;
use crate::input_error::Mismatch;

/// Maximum number of caches that a trace may open.
pub const MAX_CACHES: usize = 4096;

/// A cache that was opened for the trace.
pub(super) struct OpenCache<C> {
    /// The name to show: `NAME`, or `NAME-REQ`.
    pub(super) name: String,
    /// The target's handle of it.
    pub(super) handle: C,
    pub(super) requested_bytes: u32,
    name_number: u32,
}

/// The use of a cache.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CacheState {
    /// The name to show: `NAME`, or `NAME-REQ`.
    pub name: String,
    /// Requested bytes of each object.
    pub requested_bytes: u32,
    /// Allocations, including those that found no memory.
    pub allocations: u64,
    /// Live objects.
    pub live: Live,
    /// Live objects at the moment of the peak of all objects.
    pub at_peak: Live,
}

/// Opened caches.
pub(super) struct Caches<C> {
    pub(super) opened: Vec<OpenCache<C>>,
    /// By name and size.
    by_name_and_size: NumberMap<u32>,
}

impl<C: Copy> Caches<C> {
    pub(super) fn new() -> Self {
        Self { opened: Vec::new(), by_name_and_size: NumberMap::default() }
    }

    /// Returns the index of the cache of that name and size, and opens it at the first request;
    /// `None` when there is no memory for it.
    pub(super) fn find_or_open(
        &mut self,
        target: &mut impl ObjectTarget<Cache = C>,
        name_number: u32,
        plain_name: &str,
        requested_bytes: u32,
    ) -> Result<Option<u32>, Mismatch> {
        let key = u64::from(name_number) << 32 | u64::from(requested_bytes);
        if let Some(&cache) = self.by_name_and_size.get(&key) {
            return Ok(Some(cache));
        }
        if self.opened.len() == MAX_CACHES {
            let expected = format!("at most {MAX_CACHES} caches");
            return Err(Mismatch::new(expected, "one more"));
        }
        // The first size under a name gets the name without a suffix.
        let name = match self.opened.iter().any(|opened| opened.name_number == name_number) {
            true => format!("{plain_name}-{requested_bytes}"),
            false => plain_name.to_owned(),
        };
        let object_bytes = (requested_bytes as usize).next_multiple_of(OBJECT_ALIGN);
        let handle = match target.open_cache(&name, object_bytes) {
            Ok(handle) => handle,
            Err(NoCache::OutOfMemory) => return Ok(None),
            Err(NoCache::Impossible(reason)) => {
                return Err(Mismatch::new("an object size that a cache can have", reason));
            }
        };
        let index = self.opened.len() as u32;
        self.opened.push(OpenCache { name, handle, requested_bytes, name_number });
        self.by_name_and_size.insert(key, index);
        Ok(Some(index))
    }
}
