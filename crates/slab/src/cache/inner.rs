//! The cache of a cache: everything it has except its handle, in pages of the page source.
//!
//! # Invariants
//! - I1: a cache is alive from its construction until its handle has destroyed it; visitors keep it so (inner list I1, I2).
//! - I2: the system that a cache points to outlives it.

use core::fmt;
use core::ptr::NonNull;

use page_frame::sync::TakeAll;
use page_frame::{Fault, FaultKind, IrqLock, Tag};

use crate::cache_name::CacheName;
use crate::debug::trace::Observer;
use crate::hardening::Padding;
use crate::percpu::depot::{Depot, Places};
use crate::percpu::magazine::CAPACITIES;
use crate::percpu::sizing::MagazineSizing;
use crate::percpu::slot::CacheSlots;
use crate::registry::cache_list::ListNode;
use crate::registry::handle::Shared;
use crate::slabs::geometry::Geometry;
use crate::slabs::header::SlabHeader;
use crate::slabs::set::SlabSet;
use crate::system::System;

/// Called with an object that is to be constructed or destroyed.
pub type ObjectHook = unsafe fn(NonNull<u8>);

/// What a cache is told when it is built, and keeps.
#[derive(Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) name: CacheName,
    /// The size of an object in bytes, without padding.
    pub(crate) size: u32,
    pub(crate) padding: Padding,
    pub(crate) geometry: Geometry,
    pub(crate) coloured: bool,
    /// Whether users free objects on demand.
    pub(crate) is_reclaimable: bool,
    pub(crate) constructor: Option<ObjectHook>,
    pub(crate) destructor: Option<ObjectHook>,
    pub(crate) tag: Tag,
    /// Empty slabs that stay, the largest number for all; `None`: by the number of slabs.
    pub(crate) keep_empty: Option<u16>,
    /// Empty slabs that stay even when memory is short.
    pub(crate) keep_at_least: u32,
    pub(crate) most_slabs: u32,
    /// Frees what the user can do without.
    pub(crate) reclaim: Option<&'static (dyn Fn() + Sync)>,
    /// What canaries and shuffled slabs depend on.
    pub(crate) secret: usize,
    /// What histories are dated by.
    pub(crate) clock: Option<fn() -> u64>,
    pub(crate) observer: Option<Observer>,
    /// Whether objects that are in use when the cache is dropped keep the page source for ever.
    pub(crate) is_pinned: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Settings").field(&self.name).finish()
    }
}

/// A cache, without its handle.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct CacheInner<S: System> {
    pub(crate) slots: CacheSlots<S::Cpus>,
    pub(crate) system: NonNull<Shared<S>>,
    pub(crate) settings: Settings,
    pub(crate) pending: TakeAll<SlabHeader>,
    pub(crate) set: IrqLock<SlabSet>,
    pub(crate) depot: IrqLock<Depot>,
    pub(crate) sizing: MagazineSizing,
    pub(crate) list_node: ListNode<S>,
}

impl<S: System> CacheInner<S> {
    pub(crate) fn new(
        system: NonNull<Shared<S>>,
        slots: CacheSlots<S::Cpus>,
        settings: Settings,
        sizing: MagazineSizing,
    ) -> Self {
        let places = match settings.keep_empty {
            // Objects that are to go back to the page source at once do not wait in the depot.
            Some(0) => Places::NONE,
            _ => Places::for_objects(settings.geometry.stride()),
        };
        Self {
            slots,
            system,
            settings,
            pending: TakeAll::new(),
            set: IrqLock::new(SlabSet::new()),
            depot: IrqLock::new(Depot::new(places)),
            sizing,
            list_node: ListNode::new(),
        }
    }

    #[inline]
    pub(crate) fn system(&self) -> &Shared<S> {
        // SAFETY: I2: whoever reaches the cache keeps the system alive.
        unsafe { self.system.as_ref() }
    }

    /// Returns what headers call this cache.
    pub(crate) fn identity(&self) -> NonNull<()> {
        NonNull::from(self).cast()
    }

    /// Returns the pages of the best slabs.
    pub(crate) fn slab_pages(&self) -> usize {
        self.settings.geometry.order().pages()
    }

    /// Returns how many empty slabs of `set` stay.
    pub(crate) fn empty_slabs_kept(&self, set: &SlabSet) -> usize {
        // 1/64: a guess; one at least, so that an allocate and free at the edge of a slab never asks the source twice.
        // Internal caches serve all others, to which pages that they keep are lost.
        let missed = if self.sizing.has_magazines() { set.missed() } else { 0 };
        let by_itself = || (set.slabs() / 64).max(1) + missed;
        let kept = self.settings.keep_empty.map_or_else(by_itself, |kept| match kept {
            u16::MAX => usize::MAX,
            kept => usize::from(kept),
        });
        kept.max(self.empty_slabs_at_least())
    }

    /// Returns how many empty slabs stay even when memory is short. None of a cache that is being destroyed.
    pub(crate) fn empty_slabs_at_least(&self) -> usize {
        if self.list_node.is_closed() { 0 } else { self.settings.keep_at_least as usize }
    }

    pub(crate) fn object_size(&self) -> usize {
        self.settings.size as usize
    }

    /// Returns how many objects new magazines have room for; zero for caches without slots.
    pub(crate) fn magazine_capacity(&self) -> usize {
        if self.sizing.has_magazines() { CAPACITIES[self.sizing.class()] } else { 0 }
    }

    /// Finds the slab of the object at `address`, and the object's index. O(1), no lock.
    ///
    /// For addresses that a caller frees or has just taken alone: the header of another address may go away meanwhile. That
    /// of an address that was freed already, or never was an object, is found on a best effort, as the clauses of
    /// [`Cache::free`](crate::Cache::free) are broken then.
    #[track_caller]
    pub(crate) fn find(&self, address: usize) -> Result<(NonNull<SlabHeader>, usize), Fault> {
        let (found, owner) = self.system().tag_and_owner(address);
        let expected = self.settings.tag;
        if !found.is_slab() {
            let (expected, found) = (expected.get().into(), found.get().into());
            return Err(Fault::new(FaultKind::ForeignPointer, address, expected, found));
        }
        let header = NonNull::new(owner.cast::<SlabHeader>())
            .expect("set_owner wrote the header where it wrote the tag");
        // SAFETY: a page with a slab's tag is owned by a live header; the tag is cleared before the header dies, and
        // whoever frees an object of the slab keeps the slab alive.
        let slab = unsafe { header.as_ref() };
        if slab.cache != self.identity() {
            let (expected, found) = (self.identity().addr(), slab.cache.addr());
            return Err(Fault::new(FaultKind::WrongCache, address, expected.get(), found.get()));
        }
        let geometry = &slab.geometry(&self.settings.geometry);
        let (index, behind) = slab.index_of(geometry, address);
        if index >= geometry.capacity() {
            let first = slab.first_object(geometry);
            return Err(Fault::new(FaultKind::InteriorPointer, address, first, address));
        }
        if behind != 0 {
            return Err(Fault::new(FaultKind::InteriorPointer, address, address - behind, address));
        }
        Ok((header, index))
    }

    /// Whether an object of one of the slabs in the set has its place at `address`. O(slabs), takes the lock; `false` for an
    /// interrupt that came upon it.
    ///
    /// It reads only headers that it finds in the set, which cannot go away while the lock is held. The owner word of the
    /// address could name the header of a slab that goes back to the page source at this moment.
    pub(crate) fn has_object_at(&self, address: usize) -> bool {
        if self.system().tag_and_owner(address).0 != self.settings.tag {
            return false;
        }
        let token = self.system().locking.lock_token();
        let Some(set) = token.lock(&self.set) else { return false };
        set.iter().any(|header| {
            // SAFETY: slab set I1: a slab in the set is alive, and leaves it under the lock alone.
            let slab = unsafe { header.as_ref() };
            let geometry = &slab.geometry(&self.settings.geometry);
            let (index, behind) = slab.index_of(geometry, address);
            index < geometry.capacity() && behind == 0
        })
    }
}
