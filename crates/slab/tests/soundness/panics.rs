//! A panic of the user's code leaves no lock held, loses no page and no object, and the registry
//! stays consistent.

use std::alloc::Layout;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use page_frame::{Arena, SingleCpu};
use slab::{CacheName, Event, ObjectCache, Registry, Reset};

use crate::source::with_arena;

thread_local! {
    pub(crate) static ALIVE: Cell<isize> = const { Cell::new(0) };
    /// Calls of the constructor before the one that panics; below, of the destructor and of the
    /// trace.
    pub(crate) static UNTIL_CONSTRUCTOR: Cell<usize> = const { Cell::new(usize::MAX) };
    static UNTIL_DESTRUCTOR: Cell<usize> = const { Cell::new(usize::MAX) };
    static UNTIL_EVENT: Cell<usize> = const { Cell::new(usize::MAX) };
    static RESET_PANICS: Cell<bool> = const { Cell::new(false) };
}

/// Counts down, and panics at zero. Panics again only after the counter was set again.
pub(crate) fn count_down(counter: &'static std::thread::LocalKey<Cell<usize>>) {
    let left = counter.get();
    counter.set(if left == 0 {
        usize::MAX
    } else {
        left.saturating_sub(usize::from(left < usize::MAX))
    });
    assert!(left > 0, "on demand");
}

/// A value with memory of its own, so that the test notices one that is lost or dropped twice.
pub(crate) struct Value(Box<u64>, [u64; 19]);

impl Default for Value {
    fn default() -> Self {
        count_down(&UNTIL_CONSTRUCTOR);
        ALIVE.set(ALIVE.get() + 1);
        Self(Box::new(7), [1; 19])
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        assert_eq!((*self.0, self.1[18]), (7, 1));
        ALIVE.set(ALIVE.get() - 1);
        count_down(&UNTIL_DESTRUCTOR);
    }
}

impl Reset for Value {
    fn reset(self: Pin<&mut Self>) {
        assert!(!RESET_PANICS.take(), "on demand");
    }
}

/// Runs `test` in a thread of its own, and panics if it does not end in time.
pub(crate) fn ends(test: impl FnOnce() + Send + 'static) {
    let (sender, receiver) = mpsc::channel();
    let running = std::thread::spawn(move || {
        test();
        sender.send(()).expect("somebody listens");
    });
    let outcome = receiver.recv_timeout(Duration::from_secs(60));
    assert_ne!(outcome, Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    running.join().expect("the test itself does not panic");
}

pub(crate) fn panics<R>(run: impl FnOnce() -> R) -> bool {
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

type Values<'a> = ObjectCache<Value, (&'a Arena<'a>, SingleCpu)>;

/// Allocates and frees `count` values, often enough that the CPU gets magazines.
fn use_values(values: &Values<'_>, count: usize) {
    for _ in 0..3 {
        let all: Vec<_> = (0..count).map(|_| values.allocate().expect("room")).collect();
        drop(all);
    }
}

#[test]
fn a_panic_in_a_visitor_ends_its_visit() {
    ends(|| {
        with_arena(|arena| {
            let registry = Registry::new(arena, SingleCpu::new()).expect("room");
            let cache = registry.cache("visited", Layout::new::<u64>()).build().expect("room");
            let object = cache.allocate().expect("room");
            assert!(panics(|| registry.stats(|_| panic!("in the callback"))));
            assert!(panics(|| registry.for_each_slab(|_, _| panic!("under the lock"))));
            assert!(panics(|| cache.for_each_slab(|_| panic!("under the lock"))));
            let mut text = Failing;
            assert!(panics(|| registry.slabinfo(&mut text)));
            registry.validate().expect("consistent");
            // SAFETY: allocated above, and not used any more.
            unsafe { cache.free(object) };
            cache.destroy().expect("nobody visits it, nothing is in use");
        });
    });
}

struct Failing;

impl std::fmt::Write for Failing {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        assert!(!text.contains("visited"), "in the middle of a line");
        Ok(())
    }
}

#[test]
fn a_panic_in_a_reclaim_callback_ends_its_visit() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    ends(|| {
        with_arena(|arena| {
            let registry = Registry::new(arena, SingleCpu::new()).expect("room");
            let builder = registry.cache("reclaimed", Layout::new::<u64>());
            let cache = builder.reclaim(&|| {
                assert!(CALLS.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
            });
            let cache = cache.build().expect("room");
            assert!(panics(|| registry.shrink_all()));
            assert!(!panics(|| registry.shrink_all()));
            assert_eq!(CALLS.load(Ordering::SeqCst), 2);
            drop(cache);
        });
    });
}

#[test]
fn a_panic_in_a_destructor_loses_neither_slabs_nor_values() {
    ends(|| {
        for at in [0, 1, 3, 22, 40, 100] {
            with_arena(|arena| {
                let registry = Registry::new(arena, SingleCpu::new()).expect("room");
                let values = registry.objects::<Value>("value").expect("room");
                use_values(&values, 150);
                UNTIL_DESTRUCTOR.set(at);
                assert!(panics(|| registry.shrink_all()), "destructor {at}");
                registry.validate().expect("consistent");
                values.as_cache().shrink_all();
                assert_eq!((ALIVE.get(), values.as_cache().stats().slabs), (0, 0));
                use_values(&values, 50);
                values.destroy().expect("nothing is in use");
                assert_eq!(ALIVE.get(), 0);
            });
        }
    });
}

#[test]
fn a_panic_in_a_destructor_does_not_keep_a_cache_that_goes() {
    let goes: [fn(Values<'_>); 2] = [|values| _ = Some(values), |values| _ = values.destroy()];
    for (go, at) in goes.into_iter().flat_map(|go| [0, 5, 60].map(|at| (go, at))) {
        ends(move || {
            with_arena(|arena| {
                let registry = Registry::new(arena, SingleCpu::new()).expect("room");
                let values = registry.objects::<Value>("value").expect("room");
                use_values(&values, 150);
                UNTIL_DESTRUCTOR.set(at);
                assert!(panics(|| go(values)), "destructor {at}");
                registry.validate().expect("consistent");
                let mut names = Vec::new();
                registry.stats(|stats| names.push(stats.name.as_str().to_owned()));
                assert!(!names.iter().any(|name| name == "value"), "it has gone");
                assert_eq!(ALIVE.get(), 0);
            });
        });
    }
}

#[test]
fn a_panic_in_a_constructor_holds_nothing() {
    ends(|| {
        for at in (0..40).chain([100, 200, 300]) {
            with_arena(|arena| {
                let registry = Registry::new(arena, SingleCpu::new()).expect("room");
                let values = registry.objects::<Value>("value").expect("room");
                UNTIL_CONSTRUCTOR.set(at);
                assert!(panics(|| use_values(&values, 400)), "constructor {at}");
                assert!(UNTIL_CONSTRUCTOR.get() == usize::MAX);
                registry.validate().expect("consistent");
                // Also those that are made in advance.
                let made = ALIVE.get();
                UNTIL_CONSTRUCTOR.set(at);
                let in_advance = made as usize + at + 1;
                assert!(panics(|| values.as_cache().prefill(in_advance).map(drop)));
                registry.validate().expect("consistent");
                use_values(&values, 50);
                values.destroy().expect("nothing is in use");
                assert_eq!(ALIVE.get(), 0);
            });
        }
    });
}

#[test]
fn a_panic_in_reset_keeps_only_one_value() {
    ends(|| {
        let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
        let values = registry.objects::<Value>("value").expect("room");
        let value = values.allocate().expect("room");
        RESET_PANICS.set(true);
        assert!(panics(|| drop(value)));
        registry.validate().expect("consistent");
        use_values(&values, 100);
        assert_eq!(values.destroy().expect_err("the value is in use").objects, 1);
        registry.validate().expect("consistent");
    });
}

#[test]
fn a_panic_in_a_trace_leaves_everything_consistent() {
    fn trace(_: &CacheName, _: Event) {
        count_down(&UNTIL_EVENT);
    }
    ends(|| {
        for at in 0..300 {
            let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 20];
            let arena = Arena::new(&mut memory).expect("large enough");
            let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
            let layout = Layout::new::<Value>();
            let values = registry.cache("traced", layout).trace(&trace);
            let values = values.objects::<Value>().expect("room");
            UNTIL_EVENT.set(at);
            let _ = panics(|| {
                use_values(&values, 60);
                values.as_cache().shrink_all();
            });
            UNTIL_EVENT.set(usize::MAX);
            registry.validate().expect("consistent");
            use_values(&values, 60);
            values.as_cache().shrink_all();
            registry.validate().expect("consistent");
            // An object of a traced event may count as in use; all others are freed.
            let lost = values.destroy().map_or_else(|busy| busy.objects, |()| 0);
            assert!(lost <= 60, "event {at}: {lost} objects");
            ALIVE.set(0);
        }
    });
}

/// An aging pass runs traces. If one panics, the pass ends, and a later pass can run.
#[test]
fn a_panic_in_an_aging_pass_ends_the_pass() {
    static PANIC: AtomicBool = AtomicBool::new(false);
    static GONE: AtomicUsize = AtomicUsize::new(0);
    fn trace(_: &CacheName, event: Event) {
        if let Event::MagazineEmptied { .. } = event {
            GONE.fetch_add(1, Ordering::SeqCst);
            assert!(!PANIC.swap(false, Ordering::SeqCst), "on demand");
        }
    }
    ends(|| {
        let mut memory = vec![std::mem::MaybeUninit::uninit(); 4 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
        let idle = registry.cache("idle", Layout::new::<[u64; 8]>()).trace(&trace);
        let idle = idle.build().expect("room");
        let pages = registry.cache("pages", Layout::new::<[u8; 4096]>()).release_at_once();
        let pages = pages.build().expect("room");
        // Leaves full magazines in the depot of the idle cache.
        let fill = || {
            let objects: Vec<_> = (0..400).map(|_| idle.allocate().expect("room")).collect();
            // SAFETY: allocated above, and not used any more.
            objects.iter().for_each(|object| unsafe { idle.free(*object) });
        };
        let traffic = || {
            for _ in 0..4 {
                let all: Vec<_> = (0..200).map(|_| pages.allocate().expect("room")).collect();
                // SAFETY: allocated above, and not used any more.
                all.iter().for_each(|page| unsafe { pages.free(*page) });
                pages.shrink_all();
            }
        };
        fill();
        PANIC.store(true, Ordering::SeqCst);
        let _ = panics(traffic);
        assert!(!PANIC.load(Ordering::SeqCst), "a pass emptied a magazine");
        let gone = GONE.load(Ordering::SeqCst);
        fill();
        traffic();
        assert!(GONE.load(Ordering::SeqCst) > gone, "there was another pass");
        registry.validate().expect("consistent");
    });
}

/// An allocation grows the cache, and so an aging pass is due. If the pass panics, the allocation
/// frees its object.
///
/// Mutation that it catches: `age_holding` without its guard (an object counts as in use).
#[test]
fn an_allocation_loses_no_object_when_the_aging_pass_panics() {
    static PANIC: AtomicBool = AtomicBool::new(false);
    fn trace(_: &CacheName, event: Event) {
        if let Event::MagazineEmptied { .. } = event {
            assert!(!PANIC.swap(false, Ordering::SeqCst), "on demand");
        }
    }
    ends(|| {
        let mut memory = vec![std::mem::MaybeUninit::uninit(); 4 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
        let idle = registry.cache("idle", Layout::new::<[u64; 8]>()).trace(&trace);
        let idle = idle.build().expect("room");
        let pages = registry.cache("pages", Layout::new::<[u8; 4096]>()).build().expect("room");
        let objects: Vec<_> = (0..400).map(|_| idle.allocate().expect("room")).collect();
        // SAFETY: allocated above, and not used any more.
        objects.iter().for_each(|object| unsafe { idle.free(*object) });
        PANIC.store(true, Ordering::SeqCst);
        let taken = std::cell::RefCell::new(Vec::new());
        let _ = panics(|| {
            for _ in 0..600 {
                let page = pages.allocate().expect("room");
                taken.borrow_mut().push(page);
            }
        });
        assert!(!PANIC.load(Ordering::SeqCst), "an aging pass emptied a magazine");
        // SAFETY: allocated above, each once, and not used any more.
        taken.borrow().iter().for_each(|page| unsafe { pages.free(*page) });
        pages.destroy().expect("no object is lost");
        registry.validate().expect("consistent");
    });
}

#[test]
fn handles_go_in_any_order_and_guards_may_be_forgotten() {
    ends(|| {
        let mut memory = vec![std::mem::MaybeUninit::uninit(); 1 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
        let other = registry.clone();
        let mut values = registry.objects::<Value>("one").expect("room");
        let mut others = other.objects::<Value>("two").expect("room");
        std::mem::swap(&mut values, &mut others);
        drop(registry);
        let value = values.allocate().expect("room");
        let prefilled = values.as_cache().prefill(5).expect("room");
        let reserve = others.as_cache().mempool(5).expect("room");
        std::mem::forget(others.allocate().expect("room"));
        std::mem::forget((prefilled, reserve));
        assert_eq!(*value.0, 7);
        drop(value);
        other.validate().expect("consistent");
        drop(other);
        assert_eq!(values.destroy().expect_err("forgotten").objects, 5);
        assert_eq!(others.destroy().expect_err("forgotten").objects, 6);
    });
}
