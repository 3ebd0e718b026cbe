//! Statistics of caches, as a struct and in the kernel's text format.

use core::fmt;

use page_frame::{CacheName, Order};

use crate::patience::Patience;
use crate::slabs::Slabs;
use crate::slabs::environment::Environment;
use crate::system::System;

/// The first two lines of the kernel's `/proc/slabinfo`, version 2.1.
pub(crate) const SLABINFO_HEADER: &str = "\
slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables <limit> <batchcount> \
<sharedfactor> : slabdata <active_slabs> <num_slabs> <sharedavail>
";

/// The statistics of a cache at one moment.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// let inodes = registry.cache("inode", Layout::new::<[u64; 75]>()).build()?;
/// let inode = inodes.allocate()?;
/// let stats: slab::CacheStats = inodes.stats();
/// assert_eq!((stats.name.as_str(), stats.object_size), ("inode", 600));
/// assert_eq!((stats.slabs, stats.pages()), (1, stats.pages_per_slab));
/// assert!((1..=stats.objects_per_slab).contains(&stats.objects_active)); // with magazines
/// assert_eq!(stats.objects_in_use(), stats.objects_active - stats.depot_objects);
/// # // SAFETY: allocated above, and not used any more.
/// # unsafe { inodes.free(inode) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStats {
    /// The name.
    pub name: CacheName,
    /// The size of an object in bytes with its padding, rounded up to its alignment.
    pub object_size: usize,
    /// Objects that are not free in their slabs: in use, or in magazines (the kernel counts the
    /// same).
    pub objects_active: usize,
    /// Objects of all slabs.
    pub objects: usize,
    /// Objects in a slab.
    pub objects_per_slab: usize,
    /// Pages of a slab.
    pub pages_per_slab: usize,
    /// Slabs with at least one active object.
    pub slabs_active: usize,
    /// All slabs.
    pub slabs: usize,
    pages: usize,
    /// Slabs ever taken from the page source, modulo 2^32.
    pub grown: usize,
    /// Slabs ever returned to the page source, modulo 2^32.
    pub shrunk: usize,
    /// The capacity of new magazines in objects; zero for internal caches, which have no magazines.
    pub magazine_capacity: usize,
    /// Full magazines in the depot.
    pub depot_magazines: usize,
    /// The objects in them. They count in `objects_active` too.
    pub depot_objects: usize,
}

impl CacheStats {
    /// Returns how many objects are in use or in magazines of CPUs: `objects_active` without those
    /// in the depot. Example: see [`CacheStats`].
    pub const fn objects_in_use(&self) -> usize {
        // The slabs are read before the depot, which may hold more by then.
        self.objects_active.saturating_sub(self.depot_objects)
    }

    /// Returns the pages of all slabs. That is less than `slabs * pages_per_slab` if memory was too
    /// fragmented for slabs of the best order. Example: see [`CacheStats`].
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Returns the statistics of `slabs` as those of a cache without magazines.
    pub(crate) fn of_slabs<S: System>(slabs: &Slabs, environment: &Environment<S>) -> Self {
        let settings = &slabs.settings;
        let mut stats = Self {
            name: settings.name,
            object_size: settings.geometry.stride(),
            objects_active: 0,
            objects: 0,
            objects_per_slab: settings.geometry.capacity(),
            pages_per_slab: settings.slab_pages(),
            slabs_active: 0,
            slabs: 0,
            pages: 0,
            grown: 0,
            shrunk: 0,
            magazine_capacity: 0,
            depot_magazines: 0,
            depot_objects: 0,
        };
        for_each_slab(slabs, environment, |slab| {
            stats.objects_active += slab.capacity - slab.free;
            stats.objects += slab.capacity;
            stats.slabs_active += usize::from(slab.free < slab.capacity);
            stats.slabs += 1;
            stats.pages += slab.order.pages();
        });
        let token = environment.lock_token();
        if let Some(set) = slabs.lock::<S>(&token, Patience::Wait) {
            (stats.grown, stats.shrunk) = (set.grown(), set.shrunk());
        }
        stats
    }

    /// Writes the line of `/proc/slabinfo` for this cache.
    pub(crate) fn write_slabinfo(&self, out: &mut impl fmt::Write) -> fmt::Result {
        writeln!(
            out,
            "{:<17} {:>6} {:>6} {:>6} {:>4} {:>4} : tunables {:>4} {:>4} {:>4} : slabdata {:>6} {:>6} {:>6}",
            self.name,
            self.objects_in_use(),
            self.objects,
            self.object_size,
            self.objects_per_slab,
            self.pages_per_slab,
            self.magazine_capacity,
            self.magazine_capacity.div_ceil(2),
            0,
            self.slabs_active,
            self.slabs,
            self.depot_magazines,
        )
    }
}

/// Pages that the caches of a registry hold.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::Totals;
/// let dentries = registry.cache("dentry", Layout::new::<[u64; 24]>()).reclaimable().build()?;
/// let dentry = dentries.allocate()?;
/// let Totals { reclaimable, unreclaimable } = registry.totals();
/// assert_eq!(reclaimable, dentries.stats().pages());
/// assert_eq!(reclaimable + unreclaimable, registry.pages_held());
/// # // SAFETY: allocated above, and not used any more.
/// # unsafe { dentries.free(dentry) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pages of caches whose objects can be freed on demand.
    pub reclaimable: usize,
    /// Pages of all others.
    pub unreclaimable: usize,
}

/// A slab at one moment, for tools that draw slabs.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::SlabView;
/// let inodes = registry.cache("inode", Layout::new::<[u64; 75]>()).build()?;
/// let inode = inodes.allocate()?;
/// inodes.for_each_slab(|slab: SlabView| {
///     let end = slab.start + slab.order.bytes();
///     assert!((slab.start..end).contains(&inode.addr().get()));
///     println!("{:#x}: {} of {} objects free", slab.start, slab.free, slab.capacity);
/// });
/// # // SAFETY: allocated above, and not used any more.
/// # unsafe { inodes.free(inode) };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabView {
    /// The address of its first byte.
    pub start: usize,
    /// Its size.
    pub order: Order,
    /// The offset of the first object in bytes.
    pub colour_offset: usize,
    /// How many objects it has.
    pub capacity: usize,
    /// How many of them are free in the slab. Objects in magazines do not count.
    pub free: usize,
}

/// Calls `look` with each slab, under the lock of the set.
pub(crate) fn for_each_slab<S: System>(
    slabs: &Slabs,
    environment: &Environment<S>,
    mut look: impl FnMut(SlabView),
) {
    let token = environment.lock_token();
    let Some(set) = slabs.lock::<S>(&token, Patience::Wait) else { return };
    for header in set.iter() {
        // SAFETY: slab set I1: a slab in the set is alive.
        let slab = unsafe { header.as_ref() };
        let geometry = slab.geometry(&slabs.settings.geometry);
        look(SlabView {
            start: slab.start.addr().get(),
            order: geometry.order(),
            colour_offset: geometry.colour_offset(usize::from(slab.colour)),
            capacity: geometry.capacity(),
            free: slab.word.load().free,
        });
    }
}
