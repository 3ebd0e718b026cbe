//! Callers: the requested and the live memory of each call site.

use super::usage::Live;

/// The source of an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// kmalloc.
    Kmalloc,
    /// The cache of that name.
    Cache(String),
    /// Blocks of pages.
    Pages,
}

/// The allocations of one call site from one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The call site. Where the trace does not name it, the cache, or the gfp mask of pages.
    pub site: String,
    /// Whether the trace names the call site.
    pub is_named: bool,
    /// The source of its memory.
    pub source: Source,
    /// Requests.
    pub allocations: u64,
    /// Requests that found no memory in the replay.
    pub failed: u64,
    /// Sum of the requested bytes.
    pub requested_bytes: u64,
    /// Sum of the bytes that the recorded kernel allocated for them.
    pub allocated_bytes: u64,
    /// Live memory at the end of the trace.
    pub live: Live,
    /// Live memory at the moment of the peak of its side, of objects or of pages.
    pub at_peak: Live,
    /// Free bytes that cannot be released because of live memory of this call site: in slabs, and
    /// on the page side in areas of 2 MiB. The live objects of a slab, or the live blocks of an
    /// area, have equal shares. Zero where it was not counted.
    pub pinned_bytes: u64,
}

impl Caller {
    /// Returns the name of the source: `kmalloc`, `pages` or the cache.
    pub fn source_name(&self) -> &str {
        match &self.source {
            Source::Kmalloc => "kmalloc",
            Source::Cache(name) => name,
            Source::Pages => "pages",
        }
    }

    /// Returns the bytes that were allocated beyond the requested ones.
    pub fn wasted_bytes(&self) -> u64 {
        self.allocated_bytes.saturating_sub(self.requested_bytes)
    }
}

/// Sorts callers: most live bytes at the peak first.
pub(super) fn sort(callers: &mut [Caller]) {
    callers.sort_by(|one, other| {
        let key =
            |caller: &Caller| (caller.at_peak.bytes, caller.live.bytes, caller.requested_bytes);
        let names = |caller: &Caller| (caller.site.clone(), caller.source_name().to_owned());
        key(other).cmp(&key(one)).then_with(|| names(one).cmp(&names(other)))
    });
}
