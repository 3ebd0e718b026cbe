//! A page source may run code of the user, as shrinkers are, so a request for pages may panic. The
//! call of the cache that made the request must not lose a page or an object by that.

use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use page_frame::SingleCpu;
use slab::Registry;

use crate::panics::{ALIVE, UNTIL_CONSTRUCTOR, Value, ends, panics};
use crate::source::{HookedSource, with_arena};

#[test]
fn a_panic_in_the_page_source_loses_no_page() {
    ends(|| {
        for (at, size) in (0..30).flat_map(|at| [40, 200, 1500, 3000, 9000].map(|size| (at, size)))
        {
            with_arena(|arena| {
                // The request with number `at` panics, and no other: the count wraps around then.
                let left = AtomicUsize::new(usize::MAX);
                let mut source = HookedSource::new(arena);
                source.on_allocate = Box::new(|| {
                    assert_ne!(left.fetch_sub(1, Ordering::Relaxed), 0, "on demand");
                });
                let registry = Registry::new(&source, SingleCpu::new()).expect("room");
                left.store(at, Ordering::Relaxed);
                let layout = Layout::from_size_align(size, 8).expect("a layout");
                let objects = std::cell::RefCell::new(Vec::new());
                let cache = panicking_cache(&registry, layout);
                let _ = panics(|| {
                    while objects.borrow().len() < 60 {
                        let object = cache.allocate().expect("room");
                        objects.borrow_mut().push(object);
                    }
                });
                left.store(usize::MAX, Ordering::Relaxed);
                registry.validate().expect("consistent");
                for object in objects.into_inner() {
                    // SAFETY: allocated above, each once, and without a constructor any content
                    // will do.
                    unsafe { cache.free(object) };
                }
                let Err(refused) = cache.destroy() else { return };
                panic!("{at}, {size}: {} objects lost", refused.objects);
            });
        }
    });
}

/// A free may need a new magazine, and so a page. If the source panics, the object has been freed
/// all the same, and the caller must not free it again.
#[test]
fn a_free_in_which_the_page_source_panics_frees_its_object() {
    ends(|| {
        with_arena(|arena| {
            let is_armed = AtomicBool::new(false);
            let mut source = HookedSource::new(arena);
            source.on_allocate =
                Box::new(|| assert!(!is_armed.load(Ordering::Relaxed), "on demand"));
            let registry = Registry::new(&source, SingleCpu::new()).expect("room");
            let layout = Layout::new::<[u64; 8]>();
            let cache = registry.cache("freed", layout).build().expect("room");
            let objects: Vec<_> = (0..300).map(|_| cache.allocate().expect("room")).collect();
            // Takes all magazines, so that a new one is wanted after some frees.
            registry.shrink_all();
            is_armed.store(true, Ordering::Relaxed);
            // SAFETY: clauses 1 and 2: allocated above, each freed once. Clause 3: the cache has no
            // constructor, so an object need not be in a constructed state.
            let free = |object: &std::ptr::NonNull<u8>| panics(|| unsafe { cache.free(*object) });
            assert!(
                objects.iter().filter(|object| free(object)).count() > 0,
                "some free asks for a page"
            );
            is_armed.store(false, Ordering::Relaxed);
            registry.validate().expect("consistent");
            cache.destroy().expect("all were freed");
        });
    });
}

#[test]
fn a_panic_in_the_middle_of_many_loses_none() {
    ends(|| {
        for at in [0, 5, 30, 90, 200] {
            with_arena(|arena| {
                let is_armed = AtomicBool::new(false);
                let mut source = HookedSource::new(arena);
                source.on_allocate =
                    Box::new(|| assert!(!is_armed.swap(false, Ordering::Relaxed), "once"));
                let registry = Registry::new(&source, SingleCpu::new()).expect("room");
                let values = registry.objects::<Value>("value").expect("room");
                let cache = values.as_cache();
                let mut many = [std::ptr::NonNull::dangling(); 300];
                UNTIL_CONSTRUCTOR.set(at);
                assert!(panics(|| cache.allocate_many(&mut many)), "constructor {at}");
                assert_eq!(cache.allocate_many(&mut many), 300);
                registry.shrink_all();
                is_armed.store(true, Ordering::Relaxed);
                // SAFETY: allocated above and not changed since, each once.
                let one =
                    catch_unwind(AssertUnwindSafe(|| unsafe { cache.free_many(&many[..70]) }));
                assert!(one.is_err(), "70 objects need a new magazine");
                // SAFETY: as above: the rest of them. All 70 count as freed.
                unsafe { cache.free_many(&many[70..]) };
                registry.validate().expect("consistent");
                values.destroy().expect("all were freed");
                assert_eq!(ALIVE.get(), 0);
            });
        }
    });
}

/// Builds a cache. If the page source panics meanwhile, builds it a second time.
fn panicking_cache<'s, 'a>(
    registry: &Registry<(&'s HookedSource<'a>, SingleCpu)>,
    layout: Layout,
) -> slab::Cache<(&'s HookedSource<'a>, SingleCpu)> {
    let build = || registry.cache("panicking", layout).build().expect("room");
    catch_unwind(AssertUnwindSafe(build)).unwrap_or_else(|_| build())
}
