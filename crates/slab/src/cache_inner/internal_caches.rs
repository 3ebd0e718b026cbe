//! The internal caches of a registry: memory for caches, magazines and headers.
//!
//! # Concepts
//! Headers that do not fit in their slabs, magazines, and the caches themselves are objects of
//! **internal caches**. An internal cache is a [`Slabs`] alone: it has no CPU slots and no
//! magazines. So all memory of a registry comes from its page source. A registry whose source
//! serves bytes makes them with its first cache.

use crate::own_memory::OwnMemory;
use crate::percpu::magazine::{CAPACITIES, Magazine};
use crate::slabs::Slabs;
use crate::slabs::layout::geometry::{Geometry, HEADER};
use crate::slabs::settings::CacheSettings;

/// The sizes of memory for headers outside their slabs: alone, and with a line of links.
pub(crate) const HEADER_SIZES: [usize; 2] = [HEADER, HEADER + 64];
/// The names of the internal caches of magazines, by capacity.
const MAGAZINE_NAMES: [&str; CAPACITIES.len()] =
    ["magazine-1", "magazine-2", "magazine-4", "magazine-12", "magazine-28", "magazine-60"];

/// The internal caches.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct InternalCaches {
    /// Memory for headers without links, and for headers with a line of links. First, as the
    /// pointer of the slab source is to them.
    headers: [Slabs; 2],
    /// Memory for magazines, by capacity.
    magazines: [Slabs; CAPACITIES.len()],
    /// Memory for the caches that users make.
    pub(crate) caches: Slabs,
    /// The memory of this value; `None` if it lies in the block of the registry.
    pub(crate) memory: Option<OwnMemory>,
}

impl InternalCaches {
    /// Makes the internal caches; a cache takes `cache_size` bytes, from slabs cut by `caches`.
    pub(crate) fn new(cache_size: usize, caches: Geometry, memory: Option<OwnMemory>) -> Self {
        let small = |name: &str, size: usize, alignment| {
            let geometry = Geometry::at_order(size, alignment, 64, 0)
                .expect("headers and magazines are smaller than a page");
            Slabs::new(CacheSettings::internal(name, size, geometry))
        };
        let header =
            |index: usize| small(["record", "record-links"][index], HEADER_SIZES[index], 64);
        let magazine = |index: usize| {
            let size = Magazine::bytes(CAPACITIES[index]);
            small(MAGAZINE_NAMES[index], size, Magazine::ALIGNMENT)
        };
        Self {
            headers: core::array::from_fn(header),
            magazines: core::array::from_fn(magazine),
            caches: Slabs::new(CacheSettings::internal("cache", cache_size, caches)),
            memory,
        }
    }

    /// Returns the internal cache of the magazines of the capacity that `class` names.
    pub(crate) fn magazines(&self, class: usize) -> &Slabs {
        &self.magazines[class]
    }

    /// Iterates over the internal caches.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Slabs> {
        self.headers.iter().chain(&self.magazines).chain([&self.caches])
    }
}
