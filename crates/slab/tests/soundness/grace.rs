//! Grace periods whose code panics: no slab is released too early, and no page
//! and no object is lost.

use std::alloc::Layout;
use std::cell::Cell;

use page_frame::{Arena, SingleCpu};
use slab::{Cache, GracePeriods, Registry};

use crate::panics::{count_down, ends, panics};
use crate::source::with_arena;

thread_local! {
    /// Grace periods that have ended, of the test that this thread runs.
    static EPOCH: Cell<u64> = const { Cell::new(1) };
    /// Calls before the one that panics.
    static UNTIL_START: Cell<usize> = const { Cell::new(usize::MAX) };
    static UNTIL_ENDED: Cell<usize> = const { Cell::new(usize::MAX) };
    static UNTIL_WAIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Grace periods that end when the test says so, or waits.
struct Failing;

// SAFETY: clause 1: what the tests read, they read between two changes of the epoch.
unsafe impl GracePeriods for Failing {
    fn start(&self) -> u64 {
        count_down(&UNTIL_START);
        EPOCH.get() + 1
    }

    fn has_ended(&self, token: u64) -> bool {
        count_down(&UNTIL_ENDED);
        EPOCH.get() >= token
    }

    fn wait(&self, token: u64) -> bool {
        count_down(&UNTIL_WAIT);
        EPOCH.set(EPOCH.get().max(token));
        true
    }
}

type Objects<'a> = Cache<(&'a Arena<'a>, SingleCpu)>;

/// Fills a few slabs, and frees all of their objects.
fn leave_empty_slabs(cache: &Objects<'_>) {
    let objects: Vec<_> = (0..60).map(|_| cache.allocate().expect("room")).collect();
    // SAFETY: allocated above, and not used any more.
    objects.iter().for_each(|object| unsafe { cache.free(*object) });
}

fn stable<'a>(registry: &Registry<(&'a Arena<'a>, SingleCpu)>) -> Objects<'a> {
    let builder = registry.cache("file", Layout::new::<[u64; 75]>()).keep_empty(100);
    builder.type_stable(&Failing).build().expect("room")
}

/// Mutation that it catches: a set that moves slabs to those that wait before it has their token.
#[test]
fn slabs_whose_grace_period_did_not_start_are_not_released() {
    ends(|| {
        with_arena(|arena| {
            let registry = Registry::new(arena, SingleCpu::new()).expect("room");
            let cache = stable(&registry);
            leave_empty_slabs(&cache);
            UNTIL_START.set(0);
            assert!(panics(|| registry.shrink(1000)));
            let slabs = cache.stats().slabs;
            assert!(slabs > 0);
            registry.validate().expect("consistent");
            registry.shrink(1000);
            assert_eq!(cache.stats().slabs, slabs, "readers may look at them");
            cache.destroy().expect("the machine waits");
        });
    });
}

/// Mutation that it catches: `pop_empty` into a list that no guard owns.
#[test]
fn a_panic_between_two_slabs_loses_no_page() {
    ends(|| {
        for until in 0..4 {
            with_arena(|arena| {
                let registry = Registry::new(arena, SingleCpu::new()).expect("room");
                let cache = stable(&registry);
                leave_empty_slabs(&cache);
                registry.shrink(1000);
                EPOCH.set(EPOCH.get() + 1);
                UNTIL_ENDED.set(until);
                assert!(panics(|| registry.shrink(1000)));
                registry.validate().expect("consistent");
                cache.destroy().expect("the machine waits");
            });
        }
    });
}

/// Mutation that it catches: a group that is taken from the young objects before it has a token.
#[test]
fn objects_whose_grace_period_did_not_start_are_freed_later() {
    ends(|| {
        with_arena(|arena| {
            let registry = Registry::new(arena, SingleCpu::new()).expect("room");
            let cache = registry.cache("file", Layout::new::<[u64; 75]>()).build().expect("room");
            let mut deferred = cache.deferred_frees(&Failing, 100);
            let object = cache.allocate().expect("room");
            // SAFETY: allocated above; no reader.
            unsafe { deferred.free(object) }.expect("below the limit");
            UNTIL_START.set(0);
            assert!(panics(|| deferred.poll()));
            assert_eq!(deferred.waiting(), 1);
            assert_eq!((deferred.poll(), deferred.waiting()), (0, 1));
            UNTIL_ENDED.set(0);
            assert!(panics(|| deferred.poll()));
            assert_eq!(deferred.waiting(), 1);
            UNTIL_WAIT.set(0);
            assert!(panics(|| drop(deferred)), "the end tries it a second time");
            cache.destroy().expect("all are free");
        });
    });
}
