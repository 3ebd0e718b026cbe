//! Memory that readers may look at: slabs of type-stable caches, and objects whose frees wait, are
//! neither released nor reused before the grace period has ended.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use page_frame::{Arena, CpuId, Limited, PAGE_SIZE, SingleCpu, SwitchedCpu};
use slab::{
    Cache, CacheName, Debugging, Event, GracePending, GracePeriods, Hardened, Hardening, Off,
    Registry,
};
use testkit::{Pattern, Random, steps};

thread_local! {
    /// Grace periods that have ended, of the test that this thread runs.
    static EPOCH: Cell<u64> = const { Cell::new(0) };
    /// Whether `wait` ends a grace period.
    static WAITS: Cell<bool> = const { Cell::new(false) };
    /// The epoch in which each object was freed last.
    static FREED: RefCell<HashMap<usize, u64>> = RefCell::default();
    static RELEASED: Cell<usize> = const { Cell::new(0) };
}

/// Grace periods that end when the test says so.
struct Epochs;

static EPOCHS: Epochs = Epochs;

fn now() -> u64 {
    EPOCH.get()
}

fn end_grace_period() {
    EPOCH.set(now() + 1);
}

// SAFETY: clause 1: what the tests read, they read between two changes of the epoch.
unsafe impl GracePeriods for Epochs {
    fn start(&self) -> u64 {
        now() + 1
    }

    fn has_ended(&self, token: u64) -> bool {
        now() >= token
    }

    fn wait(&self, token: u64) -> bool {
        if WAITS.get() && now() < token {
            EPOCH.set(token);
        }
        self.has_ended(token)
    }
}

/// Checks that no slab is released before the readers of its objects have ended.
fn check_release(_: &CacheName, event: Event) {
    let Event::SlabReleased { start, pages } = event else { return };
    RELEASED.set(RELEASED.get() + 1);
    let start = start.addr().get();
    FREED.with_borrow_mut(|freed| {
        freed.retain(|object, epoch| {
            let is_inside = (start..start + pages * PAGE_SIZE).contains(object);
            assert!(!is_inside || now() > *epoch, "freed in {epoch}, released in {}", now());
            !is_inside
        });
    });
}

type Pages<'a> = &'a Arena<'a>;
type Objects<'a, K = Off> = Cache<(Pages<'a>, SingleCpu), K>;

/// Calls `test` with a cache of 600-byte objects in 64 pages. In the end all pages must be free.
fn with_cache<K: Hardening>(is_type_stable: bool, test: impl FnOnce(&Arena<'_>, Objects<'_, K>)) {
    let mut memory = vec![MaybeUninit::uninit(); 65 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    let builder = registry.cache("file", Layout::new::<[u64; 75]>());
    let builder = match is_type_stable {
        true => builder.type_stable(&EPOCHS).trace(&check_release),
        false => builder,
    };
    test(&arena, builder.hardening::<K>().build().expect("room"));
    registry.validate().expect("consistent");
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
}

/// Shrinks `cache` until two grace periods have ended: slabs that became empty while others waited
/// wait for the second one.
fn shrink_after_grace_periods(cache: &Objects<'_>) -> usize {
    (0..3).fold(0, |released, round| {
        if round > 0 {
            end_grace_period();
        }
        released + cache.shrink_all()
    })
}

fn allocate<K: Hardening>(cache: &Objects<'_, K>, count: usize) -> Vec<NonNull<u8>> {
    (0..count).map(|_| cache.allocate().expect("room")).collect()
}

fn free<K: Hardening>(cache: &Objects<'_, K>, objects: impl IntoIterator<Item = NonNull<u8>>) {
    for object in objects {
        FREED.with_borrow_mut(|freed| freed.insert(object.addr().get(), now()));
        // SAFETY: allocated from this cache, freed once.
        unsafe { cache.free(object) };
    }
}

#[test]
fn a_type_stable_slab_is_released_only_after_a_grace_period() {
    with_cache::<Off>(true, |_, cache| {
        let objects = allocate(&cache, 60);
        free(&cache, objects);
        let slabs = cache.stats().slabs;
        assert_eq!((cache.shrink_all(), cache.stats().slabs), (0, slabs), "readers may go on");
        end_grace_period();
        assert!(cache.shrink_all() > 0);
        shrink_after_grace_periods(&cache);
        assert_eq!(cache.stats().slabs, 0);
        cache.destroy().expect("nothing waits");
    });
}

#[test]
fn a_slab_that_waits_is_used_and_waits_anew() {
    with_cache::<Off>(true, |_, cache| {
        let objects = allocate(&cache, 60);
        free(&cache, objects);
        cache.shrink_all();
        let stats = cache.stats();
        let objects = allocate(&cache, 60);
        assert_eq!(cache.stats().grown, stats.grown, "slabs that wait are used first");
        cache.validate().expect("consistent");
        free(&cache, objects);
        assert!(shrink_after_grace_periods(&cache) > 0);
        cache.destroy().expect("nothing waits");
    });
}

#[test]
fn slabs_that_become_empty_while_others_wait_are_not_released_with_them() {
    with_cache::<Off>(true, |_, cache| {
        let (first, second) = (allocate(&cache, 30), allocate(&cache, 60));
        free(&cache, first);
        cache.shrink_all();
        let waiting = cache.stats().slabs - cache.stats().slabs_active;
        assert!(waiting > 0);
        end_grace_period();
        // Empty since this epoch. The slabs of `first` have waited for the one before.
        free(&cache, second);
        cache.shrink_all();
        assert!(RELEASED.get() > 0 && cache.stats().slabs > 0);
        cache.validate().expect("consistent");
        shrink_after_grace_periods(&cache);
        assert_eq!(cache.stats().slabs, 0);
    });
}

#[test]
fn a_cache_whose_slabs_wait_is_destroyed_by_a_machine_that_waits() {
    with_cache::<Off>(true, |_, cache| {
        let (first, second) = (allocate(&cache, 30), allocate(&cache, 60));
        free(&cache, first);
        cache.shrink_all();
        free(&cache, second);
        let busy = cache.destroy().expect_err("slabs wait, and the machine does not");
        assert_eq!(busy.objects, 0);
        WAITS.set(true);
        busy.cache.destroy().expect("two grace periods end");
        WAITS.set(false);
    });
}

#[test]
fn no_preset_changes_what_readers_of_a_type_stable_cache_see() {
    with_cache::<Debugging>(true, |_, cache| {
        let object = cache.allocate().expect("room");
        // SAFETY: ours, of 600 bytes.
        unsafe { Pattern(7).fill(object, 600) };
        free(&cache, [object]);
        // SAFETY: the cache keeps its memory and its content.
        assert!(unsafe { Pattern(7).is_in(object, 600) });
        // SAFETY: clause 1: there is no other thread.
        assert_eq!(unsafe { cache.check_free_objects() }, 0);
        end_grace_period();
        WAITS.set(true);
        cache.destroy().expect("nothing is in use");
    });
}

#[test]
fn a_deferred_free_waits_for_a_grace_period_that_began_later() {
    with_cache::<Off>(false, |_, cache| {
        let mut deferred = cache.deferred_frees(&EPOCHS, 1000);
        let (first, second) = (allocate(&cache, 40), allocate(&cache, 40));
        for object in first {
            // SAFETY: allocated from this cache; no reader.
            unsafe { deferred.free(object) }.expect("below the limit");
        }
        deferred.poll();
        end_grace_period();
        for object in second {
            // SAFETY: as above.
            unsafe { deferred.free(object) }.expect("below the limit");
        }
        // Some of the first were freed on the way.
        deferred.poll();
        let left = deferred.waiting();
        assert!((40..80).contains(&left), "the second ones wait: {left}");
        assert!(!deferred.wait());
        assert_eq!(deferred.waiting(), left);
        end_grace_period();
        assert!(!deferred.wait(), "those that were young begin to wait");
        end_grace_period();
        assert!(deferred.wait());
        assert_eq!(deferred.waiting(), 0);
        drop(deferred);
        cache.destroy().expect("all are free");
    });
}

#[test]
fn a_full_magazine_goes_to_the_depot_as_it_is() {
    with_cache::<Off>(false, |_, cache| {
        let mut deferred = cache.deferred_frees(&EPOCHS, 1000);
        for object in allocate(&cache, 8) {
            // SAFETY: allocated from this cache; no reader.
            unsafe { deferred.free(object) }.expect("below the limit");
        }
        deferred.poll();
        end_grace_period();
        let before = cache.stats();
        assert!(deferred.poll() > 0);
        let after = cache.stats();
        assert!(after.depot_magazines > before.depot_magazines, "{after:?}");
        WAITS.set(true);
    });
}

#[test]
fn at_the_limit_the_machine_waits_or_the_caller_keeps_the_object() {
    with_cache::<Off>(false, |_, cache| {
        let mut deferred = cache.deferred_frees(&EPOCHS, 10);
        let mut objects = allocate(&cache, 50);
        // SAFETY: allocated from this cache; no reader.
        while unsafe { deferred.free(objects[objects.len() - 1]) }.is_ok() {
            objects.pop();
        }
        let waiting = deferred.waiting();
        assert!((10..10 + 60).contains(&waiting) && waiting + objects.len() == 50);
        WAITS.set(true);
        for object in objects {
            // SAFETY: refused, so still ours.
            assert_eq!(unsafe { deferred.free(object) }, Ok(()));
        }
        WAITS.set(false);
        assert!(deferred.waiting() <= waiting + 10);
        end_grace_period();
        end_grace_period();
        assert!(!deferred.wait() || deferred.waiting() == 0);
        WAITS.set(true);
        drop(deferred);
        cache.destroy().expect("all are free");
        WAITS.set(false);
    });
}

/// Mutation that it catches: a free at the limit that waits for one group only, which may have
/// fewer objects than the last magazine is above the limit.
#[test]
fn at_the_limit_a_machine_that_waits_refuses_nothing() {
    with_cache::<Off>(false, |_, cache| {
        for limit in 1..40 {
            let mut deferred = cache.deferred_frees(&EPOCHS, limit);
            for (number, object) in allocate(&cache, 60).into_iter().enumerate() {
                // The oldest group has one object.
                WAITS.set(number > 0);
                // SAFETY: allocated from this cache; no reader.
                assert_eq!(unsafe { deferred.free(object) }, Ok(()), "{number}, limit {limit}");
                if number == 0 {
                    deferred.poll();
                }
            }
        }
        cache.destroy().expect("all are free");
        WAITS.set(false);
    });
}

#[test]
fn without_memory_for_magazines_no_object_is_lost() {
    let mut memory = vec![MaybeUninit::uninit(); 65 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let source = Limited::new(&arena);
    let registry = Registry::new(&source, SingleCpu::new()).expect("room");
    let cache = registry.cache("page", Layout::new::<[u64; 512]>()).build().expect("room");
    let mut objects: Vec<_> = std::iter::from_fn(|| cache.allocate().ok()).collect();
    let count = objects.len();
    let mut deferred = cache.deferred_frees(&EPOCHS, usize::MAX);
    // SAFETY: allocated from this cache; no reader.
    objects.retain(|object| unsafe { deferred.free(*object) } == Err(GracePending));
    assert_eq!(deferred.waiting() + objects.len(), count);
    for object in objects {
        // SAFETY: refused, so still ours.
        unsafe { cache.free(object) };
    }
    WAITS.set(true);
    drop(deferred);
    WAITS.set(false);
    cache.shrink_all();
    assert_eq!(cache.stats().slabs, 0);
    cache.destroy().expect("all are free");
}

#[test]
fn objects_whose_readers_go_on_stay_in_use_when_the_list_ends() {
    with_cache::<Off>(false, |_, cache| {
        let mut deferred = cache.deferred_frees(&EPOCHS, 100);
        let object = cache.allocate().expect("room");
        // SAFETY: allocated from this cache; no reader.
        unsafe { deferred.free(object) }.expect("below the limit");
        drop(deferred);
        let mut busy = cache.destroy().expect_err("readers may look at the object");
        let mut live = Vec::new();
        busy.cache.for_each_live(|found| live.push(found.object));
        assert_eq!((busy.objects, live), (1, vec![object]));
        free(&busy.cache, [object]);
        busy.cache.destroy().expect("all are free");
    });
}

#[test]
fn a_preset_checks_an_object_when_its_readers_have_ended() {
    thread_local!(static FAULTS: Cell<usize> = const { Cell::new(0) });
    let mut memory = vec![MaybeUninit::uninit(); 65 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let hook = |_: &page_frame::Fault| FAULTS.set(FAULTS.get() + 1);
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), hook).expect("room");
    let builder = registry.cache("file", Layout::new::<[u64; 75]>()).hardening::<Hardened>();
    let cache = builder.build().expect("room");
    let object = cache.allocate().expect("room");
    // SAFETY: ours, of 600 bytes.
    unsafe { Pattern(7).fill(object, 600) };
    let mut deferred = cache.deferred_frees(&EPOCHS, 100);
    for _twice in 0..2 {
        // SAFETY: the second time is the bug shown: a double free, which the preset detects.
        unsafe { deferred.free(object) }.expect("below the limit");
    }
    deferred.poll();
    // SAFETY: the readers may go on, so nothing has changed.
    assert!(unsafe { Pattern(7).is_in(object, 600) });
    assert_eq!(FAULTS.get(), 0);
    end_grace_period();
    assert_eq!((deferred.poll(), FAULTS.get()), (2, 1), "the double free");
    drop(deferred);
    cache.destroy().expect("all are free");
}

const CPUS: usize = 3;
const STEPS: usize = steps(4_000);

/// Objects with content on several CPUs, freed at once or deferred, in a cache whose memory keeps
/// its type. No object is allocated again, and none changes, before its grace period has ended.
fn history<K: Hardening>(seed: u64) {
    let mut memory = vec![MaybeUninit::uninit(); 257 << 12];
    let arena = Arena::new(&mut memory).expect("large enough");
    let free_pages = arena.free_pages();
    let cpus = SwitchedCpu::new(CPUS);
    let mut random = Random::new(seed);
    let registry = Registry::new(&arena, &cpus).expect("room");
    let layout = Layout::from_size_align(8 * (1 + random.below(80)), 8).expect("a layout");
    let builder = registry.cache("file", layout).type_stable(&EPOCHS).trace(&check_release);
    let cache = builder.hardening::<K>().build().expect("room");
    let bytes = layout.size();
    let mut deferred: Vec<_> = (0..CPUS).map(|_| cache.deferred_frees(&EPOCHS, 200)).collect();
    let mut live: Vec<(NonNull<u8>, u64)> = Vec::new();
    // Deferred objects, by address: what they contain, and the epoch of the free.
    let mut waiting: HashMap<usize, (NonNull<u8>, u64, u64)> = HashMap::new();
    for step in 0..STEPS as u64 {
        let cpu = random.below(CPUS);
        cpus.switch_to(Some(CpuId::new(cpu as u32)));
        match random.below(100) {
            0..50 if live.len() < 400 => {
                let Ok(object) = cache.allocate() else { continue };
                if let Some((_, _, epoch)) = waiting.remove(&object.addr().get()) {
                    assert!(now() > epoch, "freed in {epoch}, allocated in {}", now());
                }
                // SAFETY: just allocated, of that many bytes.
                unsafe { Pattern(step).fill(object, bytes) };
                live.push((object, step));
            }
            0..95 if !live.is_empty() => {
                let (object, number) = live.swap_remove(random.below(live.len()));
                let address = object.addr().get();
                // SAFETY: ours since the fill.
                assert!(unsafe { Pattern(number).is_in(object, bytes) });
                FREED.with_borrow_mut(|freed| freed.insert(address, now()));
                if random.one_in(3) {
                    // SAFETY: allocated from this cache, freed once.
                    unsafe { cache.free(object) };
                    continue;
                }
                // SAFETY: as above; the history reads it only before the grace period has ended.
                match unsafe { deferred[cpu].free(object) } {
                    Ok(()) => _ = waiting.insert(address, (object, number, now())),
                    Err(GracePending) => live.push((object, number)),
                }
            }
            95 => _ = deferred[cpu].poll(),
            96 => _ = cache.shrink_all(),
            97 => _ = registry.shrink(random.below(20)),
            _ => {
                for (object, number, epoch) in waiting.values() {
                    // SAFETY: the cache keeps memory and content until the grace period ends.
                    let is_kept = || unsafe { Pattern(*number).is_in(*object, bytes) };
                    assert!(now() > *epoch || is_kept(), "changed at step {step}");
                }
                end_grace_period();
            }
        }
        registry.validate_quiet().unwrap_or_else(|broken| panic!("{broken} at step {step}"));
    }
    WAITS.set(true);
    drop(deferred);
    for (object, _) in live {
        FREED.with_borrow_mut(|freed| freed.insert(object.addr().get(), now()));
        // SAFETY: allocated from this cache, freed once.
        unsafe { cache.free(object) };
    }
    cache.destroy().expect("all are free");
    WAITS.set(false);
    FREED.take();
    drop(registry);
    assert_eq!(arena.free_pages(), free_pages);
}

#[test]
fn random_histories_wait_for_their_readers() {
    for seed in 0..6 {
        history::<Off>(seed);
        history::<Debugging>(100 + seed);
    }
    assert!(RELEASED.get() > 0, "slabs were released on the way");
}
