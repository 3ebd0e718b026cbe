//! An interrupt after each instruction of the operations of a cache in `work`. The handler uses the
//! same cache: it must not wait for ever, and neither it nor the interrupted call may lose
//! anything.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(any(loom, miri))))]

mod common;

use std::alloc::Layout;
use std::cell::Cell;
use std::ptr::NonNull;

use buddy::Buddy;
use common::OurBuddy;
use page_frame::{Cpu, CpuId, DirectMap};
use slab::{Cache, Debugging, Hardened, Hardening, Off, Registry};
use testkit::{Pattern, interrupt_each};

const PAGES: usize = 2048;
const SIZE: usize = 200;
/// Objects that the interrupt handler keeps until a later interrupt.
/// No divisor of it is 3, 7 or 1009, so that each place meets each kind of step.
const KEPT: usize = 25;

/// A machine of one CPU that does not mask interrupts.
#[derive(Clone, Copy)]
struct OneCpu;

// SAFETY: clause 1: one thread, and a handler ends before the interrupted code goes on. Clauses 2
// and 3: there is no other context. Clause 4: nothing is masked, so a handler may interrupt the
// owner of a lock; nested code then only tries locks, which this test is about. Clauses 5 and 6:
// one id, the same in each clone. Clause 7: slots follow their caches.
unsafe impl Cpu for OneCpu {
    fn slots(&self) -> usize {
        1
    }

    fn pin(&self) -> Option<CpuId> {
        Some(CpuId::new(0))
    }

    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        true
    }
}

type Source = &'static Buddy<'static, DirectMap, OneCpu>;
type Objects<K> = Cache<(Source, OneCpu), K>;

/// The state of the interrupt handler: the cache that it interrupts, and the objects that it keeps.
struct World<K: Hardening> {
    cache: &'static Objects<K>,
    kept: [Cell<Option<NonNull<u8>>>; KEPT],
}

trait Interrupt {
    fn at(&self, step: u64);
}

impl<K: Hardening> Interrupt for World<K> {
    /// Frees one of the objects kept, allocates another, and at times takes the locks of the cache.
    fn at(&self, step: u64) {
        let place = &self.kept[step as usize % KEPT];
        if let Some(object) = place.take() {
            let pattern = Pattern(object.addr().get() as u64);
            // SAFETY: an earlier interrupt allocated and filled it.
            assert!(unsafe { pattern.is_in(object, 32) }, "another owner wrote to it");
            // SAFETY: taken out of its place, so freed once.
            unsafe { self.cache.free(object) };
        }
        // Each third step allocates none, so that the number of objects kept changes.
        let taken = if step % 3 == 0 { None } else { self.cache.allocate().ok() };
        if let Some(object) = taken {
            // SAFETY: an object of more bytes, ours.
            unsafe { Pattern(object.addr().get() as u64).fill(object, 32) };
            place.set(Some(object));
        }
        if step % 7 == 0 {
            _ = self.cache.stats();
        }
        if step % 1009 == 0 {
            self.cache.shrink_all();
        }
    }
}

thread_local! {
    static WORLD: Cell<Option<&'static dyn Interrupt>> = const { Cell::new(None) };
}

fn interrupt(step: u64) {
    WORLD.get().expect("set before the first step").at(step);
}

/// Does many operations of a cache and of its registry.
fn work<K: Hardening>(registry: &Registry<(Source, OneCpu)>, cache: &Objects<K>) {
    let mut objects = [None; 60];
    for _ in 0..2 {
        objects.iter_mut().for_each(|place| *place = cache.allocate().ok());
        for object in objects.iter_mut().filter_map(Option::take) {
            // SAFETY: allocated above, freed once.
            unsafe { cache.free(object) };
        }
    }
    let mut many = [NonNull::dangling(); 30];
    let had = cache.allocate_many(&mut many);
    // SAFETY: `had` objects were allocated above.
    unsafe { cache.free_many(&many[..had]) };
    cache.shrink_all();
    registry.shrink(1);
    registry.shrink(usize::MAX);
    registry.validate().expect("consistent");
    _ = (registry.pages_held(), registry.totals(), cache.magazines());
    cache.for_each_slab(|_| ());
    if let Ok(other) = registry.cache("other", Layout::new::<[u64; 5]>()).hardening::<K>().build() {
        let reserve = other.mempool(2);
        let mut prefilled = other.prefill(2).ok();
        if let Some(object) = prefilled.as_mut().and_then(|prefilled| prefilled.allocate()) {
            // SAFETY: from this cache, which was filled for it.
            unsafe { other.free(object) };
        }
        drop(prefilled);
        drop(reserve);
        other.destroy().expect("nothing is in use");
    }
}

fn interrupt_each_step<K: Hardening>() {
    let source: Source = &Box::leak(Box::new(OurBuddy::new(PAGES, OneCpu))).buddy;
    let free = source.free_frames_count();
    let registry = Registry::new(source, OneCpu).expect("room");
    let layout = Layout::from_size_align(SIZE, 8).expect("a layout");
    let cache = registry.cache("interrupted", layout).hardening::<K>().build().expect("fits");
    let cache: &'static Objects<K> = Box::leak(Box::new(cache));
    let world = World { cache, kept: [const { Cell::new(None) }; KEPT] };
    let world: &'static World<K> = Box::leak(Box::new(world));
    WORLD.set(Some(world));
    let steps = interrupt_each(interrupt, || work(&registry, cache));
    assert!(steps > 10_000, "{steps} steps only");
    for object in world.kept.iter().filter_map(Cell::take) {
        // SAFETY: kept by the last interrupts, each in one place.
        unsafe { cache.free(object) };
    }
    registry.validate().expect("consistent");
    cache.shrink_all();
    assert_eq!(cache.stats().slabs, 0, "all objects are back");
    registry.shrink_all();
    source.drain();
    let held = registry.pages_held();
    assert_eq!(source.free_frames_count() + held, free, "no page is lost");
}

#[test]
fn at_every_instruction() {
    interrupt_each_step::<Off>();
}

#[test]
fn at_every_instruction_with_the_checks_of_hardened() {
    interrupt_each_step::<Hardened>();
}

#[test]
fn at_every_instruction_with_all_checks() {
    interrupt_each_step::<Debugging>();
}
