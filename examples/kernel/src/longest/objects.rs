//! Objects of caches.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::Limited;
use slab::{Cache, Debugging, Hardened, Hardening, Off, Registry, System};

use crate::cpus::KernelCpu;
use crate::heap::{kmalloc, pages};
use crate::longest::history::{Length, history};
use crate::longest::row::{Report, Row};

/// Objects of a bulk call.
const MANY: usize = 16;
/// Objects that are free when a cache is shrunk.
const SHRUNK: usize = 2_000;

pub(super) fn run(report: &mut Report) {
    one_by_one::<Off>(report, ["cache-allocate", "cache-free"], 192);
    one_by_one::<Off>(report, ["cache-8-allocate", "cache-8-free"], 8);
    one_by_one::<Off>(report, ["cache-2048-allocate", "cache-2048-free"], 2_048);
    one_by_one::<Hardened>(report, ["hardened-allocate", "hardened-free"], 192);
    one_by_one::<Debugging>(report, ["debugging-allocate", "debugging-free"], 192);
    bulk(report);
    builds_and_shrinks(report);
    failures(report);
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("a layout")
}

fn one_by_one<K: Hardening>(report: &mut Report, names: [&'static str; 2], bytes: usize) {
    let registry = kmalloc().registry();
    let cache = registry.cache(names[0], layout(bytes)).hardening::<K>().build().expect("room");
    let cache = &cache;
    let rows = history(
        names,
        Length { held: 10_000, rounds: 4 },
        || _ = registry.shrink_all(),
        |_| cache.allocate().ok(),
        // SAFETY: an object of this cache, freed once.
        |object: NonNull<u8>| unsafe { cache.free(object) },
    );
    report.add(rows);
}

fn bulk(report: &mut Report) {
    let registry = kmalloc().registry();
    let cache = registry.cache("many", layout(192)).build().expect("room");
    let cache = &cache;
    let rows = history(
        ["cache-many-allocate", "cache-many-free"],
        Length { held: 600, rounds: 4 },
        || _ = registry.shrink_all(),
        |_| {
            let mut objects = [NonNull::dangling(); MANY];
            (cache.allocate_many(&mut objects) == MANY).then_some(objects)
        },
        // SAFETY: objects of this cache, freed once.
        |objects: [NonNull<u8>; MANY]| unsafe { cache.free_many(&objects) },
    );
    report.add(rows);
}

/// Allocates and frees objects of `cache`, whose slot and depot then hold some of them.
fn use_objects<S: System>(cache: &Cache<S>, count: usize) {
    let objects: Vec<_> = (0..count).map(|_| cache.allocate().expect("room")).collect();
    for object in objects {
        // SAFETY: an object of this cache, freed once.
        unsafe { cache.free(object) };
    }
}

fn builds_and_shrinks(report: &mut Report) {
    const ROUNDS: usize = 100;
    let registry = kmalloc().registry();
    let [mut builds, mut shrinks, mut ends] =
        ["cache-build", "cache-shrink", "cache-destroy"].map(|name| Row::new(name, ROUNDS));
    for round in 0..ROUNDS {
        let builder = registry.cache("often", layout(8 + 8 * round)).depot_bytes(1 << 20);
        let cache = builds.count(|| builder.build()).expect("room");
        use_objects(&cache, SHRUNK);
        let pages = shrinks.count(|| cache.shrink_all());
        assert!(pages > 0, "the objects lay in slabs");
        let ended = ends.count(|| cache.destroy());
        ended.expect("every object was freed");
    }
    report.add([builds, shrinks, ends]);
}

fn failures(report: &mut Report) {
    const FAILURES: usize = 1_000;
    let mut row = Row::new("cache-fail", FAILURES);
    let source = Limited::new(pages()).with_quota(64);
    let registry = Registry::new(source, KernelCpu).expect("room");
    let cache = registry.cache("short", layout(192)).build().expect("room");
    let mut objects = Vec::new();
    while let Ok(object) = cache.allocate() {
        objects.push(object);
    }
    for _ in 0..FAILURES {
        row.count(|| cache.allocate()).expect_err("no page is left");
    }
    for object in objects {
        // SAFETY: an object of this cache, freed once.
        unsafe { cache.free(object) };
    }
    report.add([row]);
}
