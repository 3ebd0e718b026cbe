//! The registry: the caches of a system, over one page source and one machine.
//!
//! # Concepts
//! Everything that is not an object lives in **internal caches** of the registry: headers that do not fit in their slabs,
//! magazines, the inners of the caches themselves. They are caches without CPU slots: their objects come from their slabs one by
//! one. So all memory of a registry comes
//! from its page source, and one block of it, the registry's own, is held from the first moment to the last.
//!
//! # Invariants
//! - I1: the system lives while it has references: registry handles and caches. The last one sends its block home.
//! - I2: every cache that users made is in the list of inners until it is destroyed.

use core::fmt;
use core::ptr::NonNull;

use page_frame::sync::{AtomicBool, AtomicUsize, Ordering};
use page_frame::{
    Cpu, CpuId, Fault, FaultHook, IrqLock, Order, OutOfMemory, PageBlock, PageMap, PageSource,
    Shrink, Tag, TagRange, panic_on_fault,
};

use crate::cache::builder::CacheBuilder;
use crate::cache::inner::{CacheInner, Settings};
use crate::cache_name::CacheName;
use crate::hardening::{Off, Padding};
use crate::percpu::magazine::{CAPACITIES, Magazine};
use crate::percpu::path::{Patience, Reclaim};
use crate::percpu::sizing::MagazineSizing;
use crate::percpu::slot::CacheSlots;
use crate::percpu::slot_arena::{SlotArena, free_slot_block, slots_behind, slots_in};
use crate::reclaim::aging::AgingClock;
use crate::registry::cache_list::CacheList;
use crate::registry::frozen::FrozenSlots;
use crate::registry::stats::{CacheStats, SLABINFO_HEADER, SlabView, Totals};
use crate::slabs::geometry::{Geometry, HEADER};
use crate::system::System;
use crate::unwind::MagazineGuard;

/// The sizes of memory for headers outside their slabs: alone, and with a line of links.
const HEADER_SIZES: [usize; 2] = [HEADER, HEADER + 64];
/// The names of the internal caches of magazines, by capacity.
const MAGAZINE_NAMES: [&str; CAPACITIES.len()] =
    ["magazine-1", "magazine-2", "magazine-4", "magazine-12", "magazine-28", "magazine-60"];
/// The most objects of a slab whose header lies outside: so many links fit in the largest of [`HEADER_SIZES`].
pub(crate) const MOST_OUTSIDE: usize = 64;

/// What all caches of a registry share, in a block of its page source.
#[derive(Debug)]
pub(crate) struct Shared<S: System> {
    pub(crate) source: S::Pages,
    /// Tags and owners of most pages of the source.
    range: TagRange,
    /// Marks CPUs that hold a slow-path lock of any cache, and so tells contexts nested on them. These slots stay empty:
    /// closed fronts enter them and find nothing, and internal caches, whose too they are, take their objects from slabs alone.
    pub(crate) locking: CacheSlots<S::Cpus>,
    /// Where the slots of caches lie that are not behind their inners.
    pub(crate) slot_arena: IrqLock<SlotArena<S::Cpus>>,
    hook: FaultHook,
    headers: [CacheInner<S>; HEADER_SIZES.len()],
    magazines: [CacheInner<S>; CAPACITIES.len()],
    inners: CacheInner<S>,
    pub(crate) list: CacheList<S>,
    pub(crate) aging: AgingClock,
    references: AtomicUsize,
    pub(crate) is_frozen: AtomicBool,
    order: Order,
}

/// The caches of a system.
///
/// A handle; clones are the same registry. Caches keep their registry alive, so handles may be dropped in any order.
pub struct Registry<S: System> {
    system: NonNull<Shared<S>>,
}

// SAFETY: the system is reached through shared references, and all that is in it is Sync when P and C are; the last
// handle may drop P and C on any CPU, so they are Send.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>> Send for Registry<S> {}
// SAFETY: a shared handle gives no more than shared references to the system.
unsafe impl<S: System<Pages: Send + Sync, Cpus: Send + Sync>> Sync for Registry<S> {}

impl<P: PageSource + PageMap, C: Cpu + Clone> Registry<(P, C)> {
    /// Makes a registry over `source`, for the CPUs of `cpu`. Faults panic.
    ///
    /// Takes one block of `source`; and where the machine wants the slots of each CPU side by side ([`Cpu::SPREAD`]), one of
    /// that many bytes for each CPU, and another for each 100 caches or so.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no such block.
    pub fn new(source: P, cpu: C) -> Result<Self, OutOfMemory> {
        Self::with_fault_hook(source, cpu, panic_on_fault)
    }

    /// Makes a registry whose faults go to `hook`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no such block.
    pub fn with_fault_hook(source: P, cpu: C, hook: FaultHook) -> Result<Self, OutOfMemory> {
        Self::build(source, cpu, hook)
    }
}

impl<S: System> Registry<S> {
    /// Makes a registry for a [`System`] that the caller has declared. Faults panic.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `source` has no such block.
    pub fn for_system(source: S::Pages, cpu: S::Cpus) -> Result<Self, OutOfMemory> {
        Self::build(source, cpu, panic_on_fault)
    }

    fn build(source: S::Pages, cpu: S::Cpus, hook: FaultHook) -> Result<Self, OutOfMemory> {
        let count = cpu.slots();
        let slots_bytes = slots_behind::<S::Cpus>(count).ok_or(OutOfMemory)?;
        let system_bytes = size_of::<Shared<S>>().next_multiple_of(64);
        let bytes = slots_bytes.checked_add(system_bytes).ok_or(OutOfMemory)?;
        let order = Order::for_bytes(bytes).ok_or(OutOfMemory)?.order;
        let cores_size = inner_bytes::<S>(count).ok_or(OutOfMemory)?;
        let inners = Geometry::new(cores_size, 64, 64).map_err(|_| OutOfMemory)?;
        let block = source.allocate(order)?;
        let mut slot_arena = SlotArena::new();
        if SlotArena::<S::Cpus>::ARE_USED {
            match SlotArena::<S::Cpus>::order(count)
                .ok_or(OutOfMemory)
                .and_then(|order| source.allocate(order))
            {
                Ok(slots) => slot_arena.add(slots),
                Err(error) => {
                    // SAFETY: just allocated.
                    unsafe { source.free(block) };
                    return Err(error);
                }
            }
        }
        let (start, _) = block.into_raw();
        let system = start.cast::<Shared<S>>();
        let slots = match slot_arena.take(count) {
            Some(slot_row) => slot_row,
            None => {
                assert!(
                    !SlotArena::<S::Cpus>::ARE_USED,
                    "I3 of `slot_arena.rs`: the first block has a slot_row"
                );
                // SAFETY: behind the system, inside the block.
                let slots = unsafe { start.add(system_bytes) };
                // SAFETY: ours, for `count` slots, aligned to 64.
                unsafe { slots_in(slots, count) }
            }
        };
        // SAFETY: clause 1: as many as CPUs, as far apart as they are in a slot_row or an array; they live as long as the system.
        // Clause 2: all values have clones of one machine, and nobody looks at all slots.
        let empty = || unsafe { CacheSlots::at(slots, count, cpu.clone()) };
        let internal = |name: &str, geometry: Geometry, size: usize| {
            let settings = Settings {
                name: CacheName::new(name),
                size: size as u32,
                padding: Padding::default(),
                geometry,
                coloured: true,
                is_reclaimable: false,
                constructor: None,
                destructor: None,
                tag: Tag::SLAB,
                keep_empty: None,
                keep_at_least: 0,
                most_slabs: u32::MAX,
                reclaim: None,
                secret: 0,
                clock: None,
                observer: None,
                is_pinned: false,
            };
            CacheInner::new(system, empty(), settings, MagazineSizing::without_magazines())
        };
        let small = |size, alignment| {
            Geometry::at_order(size, alignment, 64, 0)
                .expect("headers and magazines are smaller than a page")
        };
        let made = Shared {
            source,
            range: TagRange::EMPTY,
            locking: empty(),
            slot_arena: IrqLock::new(slot_arena),
            hook,
            headers: core::array::from_fn(|index| {
                let size = HEADER_SIZES[index];
                internal(["header", "header-links"][index], small(size, 64), size)
            }),
            magazines: core::array::from_fn(|index| {
                let size = Magazine::bytes(CAPACITIES[index]);
                internal(MAGAZINE_NAMES[index], small(size, Magazine::ALIGNMENT), size)
            }),
            inners: internal("cache", inners, cores_size),
            list: CacheList::new(),
            aging: AgingClock::new(),
            references: AtomicUsize::new(1),
            is_frozen: AtomicBool::new(false),
            order,
        };
        // SAFETY: the block is ours, large enough, aligned to a page.
        unsafe { system.write(made) };
        // SAFETY: just written, and nobody else's yet.
        let made = unsafe { &mut *system.as_ptr() };
        // Now that the source is where it stays.
        made.range = made.source.tag_range();
        Ok(Self { system })
    }

    /// Begins a cache of objects of `layout`, called `name`.
    pub fn cache(&self, name: &str, layout: core::alloc::Layout) -> CacheBuilder<'_, S> {
        CacheBuilder::new(self, name, layout)
    }

    /// Returns the page source.
    pub fn source(&self) -> &S::Pages {
        &self.system().source
    }

    /// Returns the address of what all caches share.
    pub(crate) fn address(&self) -> usize {
        self.system.addr().get()
    }

    /// Gives `fault` to the fault hook, for layers above that see misuse themselves.
    #[cold]
    pub fn report(&self, fault: &Fault) {
        self.system().report(fault);
    }

    /// Returns the pages held: by all caches, the internal ones, and the registry itself.
    pub fn pages_held(&self) -> usize {
        let mut pages = self.system().own_pages();
        self.visit(|inner| pages += inner.pages());
        pages + self.system().internal().map(CacheInner::pages).sum::<usize>()
    }

    /// Calls `look` with the numbers of each cache, internal ones last. Nothing is held during the call. `look` must not destroy a
    /// cache of the registry, which would wait for the end of the call; a panic in it changes nothing.
    pub fn stats(&self, mut look: impl FnMut(&CacheStats)) {
        self.visit(|inner| look(&inner.stats()));
        self.system().internal().for_each(|inner| look(&inner.stats()));
    }

    /// Returns the pages of caches whose objects can be freed on demand, and of all others, internal ones and the registry
    /// itself among them: the kernel's `SReclaimable` and `SUnreclaim`.
    pub fn totals(&self) -> Totals {
        let mut reclaimable = 0;
        self.visit(|inner| {
            reclaimable += if inner.settings.is_reclaimable { inner.pages() } else { 0 }
        });
        Totals { reclaimable, unreclaimable: self.pages_held().saturating_sub(reclaimable) }
    }

    /// Calls `look` with each slab of each cache and the cache's name, internal caches last; under the lock of the cache's
    /// slab set, so `look` must use no cache and destroy none. A panic in it changes nothing.
    pub fn for_each_slab(&self, mut look: impl FnMut(CacheName, SlabView)) {
        self.visit(|inner| inner.for_each_slab(|slab| look(inner.settings.name, slab)));
        for inner in self.system().internal() {
            inner.for_each_slab(|slab| look(inner.settings.name, slab));
        }
    }

    /// Writes all caches in the text of the kernel's `/proc/slabinfo`, version 2.1.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn slabinfo(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(SLABINFO_HEADER)?;
        let mut outcome = Ok(());
        self.stats(|stats| {
            if outcome.is_ok() {
                outcome = stats.write_slabinfo(out);
            }
        });
        outcome
    }

    /// Checks the invariants of all caches.
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), &'static str> {
        let mut outcome = Ok(());
        self.visit(|inner| outcome = outcome.and_then(|()| inner.validate()));
        self.system().internal().try_fold((), |(), inner| inner.validate()).and(outcome)
    }

    /// Gives back all pages that hold no object that somebody uses; returns how many. Waits for locks.
    pub fn shrink_all(&self) -> usize {
        self.system().shrink(usize::MAX, Patience::Wait)
    }

    /// Gives back at least `target_pages` if it can; returns how many. Only tries locks.
    ///
    /// First what idle caches keep, then empty slabs of all, then magazines, then what the caches'
    /// [`reclaim`](CacheBuilder::reclaim) callbacks free.
    pub fn shrink(&self, target_pages: usize) -> usize {
        self.system().shrink(target_pages, Patience::Try)
    }

    /// Keeps all CPUs out of their slots of all caches while the guard lives, see [`PerCpu::freeze`](page_frame::PerCpu::freeze):
    /// for whoever is about to `fork`. Caches built meanwhile are not frozen. Waits while somebody else has frozen them.
    pub fn freeze_slots(&self, own: Option<CpuId>) -> FrozenSlots<'_, S> {
        FrozenSlots::new(self, own)
    }

    /// Says that no CPU but `own` is in the middle of anything, see [`PerCpu::forget_others`](page_frame::PerCpu::forget_others).
    ///
    /// # Safety
    /// 1. As for [`PerCpu::forget_others`](page_frame::PerCpu::forget_others), of the slots of all caches.
    pub unsafe fn forget_others(&self, own: Option<CpuId>) {
        // SAFETY: clause 1. The bodies of these slots are empty and stay so.
        unsafe { self.system().locking.forget_others(own) };
        // SAFETY: clause 1: the others' contexts have ended, and `freeze_slots` froze the slots of each cache.
        self.visit(|inner| unsafe { inner.slots.forget_others(own) });
    }

    #[inline(always)]
    pub(crate) fn system(&self) -> &Shared<S> {
        // SAFETY: I1: we hold a reference.
        unsafe { self.system.as_ref() }
    }

    /// Calls `look` with each cache, none of which can go meanwhile; holds no lock during the call.
    pub(crate) fn visit(&self, look: impl FnMut(&CacheInner<S>)) {
        let system = self.system();
        system.list.visit(&system.locking, look);
    }

    /// Makes the cache of a cache and puts it into the list; the system has a reference more. Fails too for an interrupt that
    /// came upon the list's lock.
    pub(crate) fn make_inner(
        &self,
        settings: Settings,
        sizing: MagazineSizing,
        reclaim: Reclaim,
    ) -> Result<NonNull<CacheInner<S>>, OutOfMemory> {
        let system = self.system();
        // First, as a clone of the user's may panic.
        let (count, cpu) = (system.locking.count(), system.locking.cpu().clone());
        let mut held = MagazineGuard::new(&system.inners, None);
        held.object = Some(system.inners.take_one::<Off>(reclaim)?);
        let slots = system.take_slots();
        let Some(memory) = held.object.take() else { return Err(OutOfMemory) };
        let slots = match slots {
            Ok(Some(slot_row)) => slot_row,
            Ok(None) => {
                // SAFETY: behind the cache, inside the memory.
                let slots = unsafe { memory.add(size_of::<CacheInner<S>>()) };
                // SAFETY: ours, `inner_bytes` left room for as many slots, aligned to 64.
                unsafe { slots_in(slots, count) }
            }
            Err(error) => {
                system.inners.give_back(Patience::Wait, &[memory]);
                return Err(error);
            }
        };
        // SAFETY: clause 1: ours: a slot_row, or an array that lives as long as the cache; as many as CPUs. Clause 2: fronts have
        // clones of the same machine, or references to it, and nobody looks at all slots.
        let slots = unsafe { CacheSlots::at(slots, count, cpu) };
        let inner = memory.cast::<CacheInner<S>>();
        let made = CacheInner::new(self.system, slots, settings, sizing);
        // SAFETY: ours, of the size and alignment of a cache.
        unsafe { inner.write(made) };
        // SAFETY: just made; `detach` unlinks it before it dies.
        if !unsafe { system.list.link(inner, &system.locking) } {
            // SAFETY: in no list, and nobody else has seen it.
            unsafe { system.free_inner(inner) };
            return Err(OutOfMemory);
        }
        system.add_reference();
        Ok(inner)
    }
}

impl<S: System> Shared<S> {
    /// Adds a reference for a caller that keeps one alive.
    ///
    /// # Panics
    /// When handles were forgotten so often that the count would overflow, and the system be freed while it is used.
    fn add_reference(&self) {
        // Relaxed: whoever adds one has one; only the last release has to see everything.
        let before = self.references.fetch_add(1, Ordering::Relaxed);
        if before > isize::MAX as usize {
            // Relaxed: the reference that is not handed out.
            self.references.fetch_sub(1, Ordering::Relaxed);
            panic!("a registry has at most isize::MAX handles and caches");
        }
    }

    /// Returns tag and owner word of the page that `address` lies in.
    #[inline]
    pub(crate) fn tag_and_owner(&self, address: usize) -> (Tag, *mut ()) {
        // SAFETY: the source has not moved since the range was taken.
        match unsafe { self.range.tag_and_owner(address) } {
            Some(found) if found.0.is_slab() => found,
            _ => (self.source.tag(address), self.source.owner(address)),
        }
    }

    pub(crate) fn report(&self, fault: &Fault) {
        (self.hook)(fault);
    }

    pub(crate) fn records_of(&self, geometry: &Geometry) -> &CacheInner<S> {
        &self.headers[geometry.links_bytes() / 64]
    }

    /// Returns the internal cache of the magazines of the capacity that `class` names.
    pub(crate) fn magazines(&self, class: usize) -> &CacheInner<S> {
        &self.magazines[class]
    }

    pub(crate) fn internal(&self) -> impl DoubleEndedIterator<Item = &CacheInner<S>> {
        self.headers.iter().chain(&self.magazines).chain([&self.inners])
    }

    /// Sends all slabs of a cache home and takes it out of the list. Where a destructor panics, the inner stays closed, and the
    /// caller does it again.
    ///
    /// # Errors
    /// How many objects are in use: then the cache goes on. None are where an interrupt came upon the lock of the list.
    ///
    /// # Safety
    /// 1. `cache` came from `make_inner`; its only handle calls this, and if it succeeds only frees the inner.
    pub(crate) unsafe fn detach(&self, inner: NonNull<CacheInner<S>>) -> Result<(), usize> {
        // SAFETY: clause 1: the handle's cache, which is unmapped only below.
        let shared = unsafe { inner.as_ref() };
        if !self.list.close(shared, &self.locking) {
            return Err(0);
        }
        shared.shrink(usize::MAX, Patience::Wait);
        // SAFETY: it is closed, and clause 1: still in the list.
        if shared.slabs() > 0 || !unsafe { self.list.unlink(inner, &self.locking) } {
            self.list.reopen(shared);
            return Err(shared.stats().objects_active);
        }
        Ok(())
    }

    /// Leaves a cache that could not be destroyed to itself: no visitor comes to it any more.
    ///
    /// # Safety
    /// 1. As for `detach`, which failed; the handle is not used again.
    pub(crate) unsafe fn abandon(&self, inner: NonNull<CacheInner<S>>) {
        // SAFETY: clause 1: it was not destroyed, so it is still there.
        if self.list.close(unsafe { inner.as_ref() }, &self.locking) {
            // SAFETY: it is closed, and still in the list.
            unsafe { self.list.unlink(inner, &self.locking) };
        }
    }

    /// Frees the memory of a cache and its slots.
    ///
    /// # Safety
    /// 1. `cache` is in no list, nobody uses it, and it has no slab.
    pub(crate) unsafe fn free_inner(&self, inner: NonNull<CacheInner<S>>) {
        // SAFETY: clause 1: nobody uses it, or its slots.
        let slots = unsafe { inner.as_ref() }.slots.first();
        // SAFETY: clause 1: the last time that anybody uses it.
        unsafe { inner.drop_in_place() };
        if SlotArena::<S::Cpus>::ARE_USED {
            // SAFETY: the cache's slot_row, and clause 1.
            unsafe { self.return_slots(slots) };
        }
        self.inners.give_back(Patience::Wait, &[inner.cast()]);
    }

    /// Returns the pages that no cache holds: the system's, and those of slots.
    fn own_pages(&self) -> usize {
        self.order.pages() + self.slot_pages()
    }
}

impl<S: System> Clone for Registry<S> {
    fn clone(&self) -> Self {
        self.system().add_reference();
        Self { system: self.system }
    }
}

impl<S: System> Drop for Registry<S> {
    fn drop(&mut self) {
        // SAFETY: the reference that this handle has.
        unsafe { release_system(self.system) };
    }
}

impl<S: System> fmt::Debug for Registry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("pages_held", &self.pages_held()).finish()
    }
}

impl<S> Shrink for Registry<S>
where
    S: System<Pages: Send + Sync, Cpus: Send + Sync>,
{
    fn reclaimable(&self) -> usize {
        let mut pages = 0;
        self.visit(|inner| pages += inner.reclaimable());
        pages
    }

    fn shrink(&self, target_pages: usize) -> usize {
        self.shrink(target_pages)
    }
}

/// Releases a reference to the system; the last one sends its pages home.
///
/// # Safety
/// 1. The caller has that reference, and gives it up.
pub(crate) unsafe fn release_system<S>(system: NonNull<Shared<S>>)
where
    S: System,
{
    // SAFETY: clause 1: the reference that is given up below keeps it until then.
    let this = unsafe { system.as_ref() };
    // AcqRel: the last release sees what all others did.
    if this.references.fetch_sub(1, Ordering::AcqRel) > 1 {
        return;
    }
    for inner in this.internal().rev() {
        inner.shrink(usize::MAX, Patience::Wait);
    }
    let (order, cpus) = (this.order, this.locking.count());
    // SAFETY: it was the last reference: the value is moved out, and its memory not used as a system again.
    let Shared { source, mut slot_arena, .. } = unsafe { system.read() };
    // SAFETY: nobody uses a slot any more: no cache is left, and the internal ones have shrunk.
    while let Some(block) = unsafe { slot_arena.get_mut().remove() } {
        // SAFETY: the slot_arena gave it away, and it came from this source.
        unsafe { free_slot_block::<S::Pages, S::Cpus>(&source, block, cpus) };
    }
    // SAFETY: the block that `with_fault_hook` took apart.
    let block = unsafe { PageBlock::from_raw(system.cast(), order, false) };
    // SAFETY: from this source, and no reference is left.
    unsafe { source.free(block) };
}

/// Returns the bytes of a cache, with its slots behind it if that is where they are.
fn inner_bytes<S: System>(slots: usize) -> Option<usize> {
    slots_behind::<S::Cpus>(slots)?.checked_add(size_of::<CacheInner<S>>())
}
