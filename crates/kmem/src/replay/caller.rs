//! Callers: the memory that each call site requested, and the memory of it that is live.

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
    /// The call site. If the trace does not name it: the name of the cache or, for pages, the gfp
    /// mask.
    pub site: String,
    /// Whether the trace names the call site.
    pub is_named: bool,
    /// The source of its memory.
    pub source: Source,
    /// Number of requests.
    pub allocations: u64,
    /// Number of requests that found no memory in the replay.
    pub failed: u64,
    /// Sum of the requested bytes.
    pub requested_bytes: u64,
    /// Sum of the bytes that the recorded kernel allocated for them.
    pub allocated_bytes: u64,
    /// Live memory at the end of the trace.
    pub live: Live,
    /// Live memory at the moment when the live memory of the whole trace is largest: that of
    /// objects for a caller of objects, that of pages for a caller of pages.
    pub at_peak: Live,
    /// Free bytes that cannot be released because of live memory of this call site: the free bytes
    /// of slabs with live objects or, for pages, of areas of 2 MiB with live blocks. Each live
    /// object of a slab counts an equal share of its free bytes, as does each block of an area.
    /// Zero if the replay did not count them.
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

/// Sorts callers by their live bytes at the peak, largest first.
pub(super) fn sort(callers: &mut [Caller]) {
    callers.sort_by(|one, other| {
        let key =
            |caller: &Caller| (caller.at_peak.bytes, caller.live.bytes, caller.requested_bytes);
        let names = |caller: &Caller| (caller.site.clone(), caller.source_name().to_owned());
        key(other).cmp(&key(one)).then_with(|| names(one).cmp(&names(other)))
    });
}
