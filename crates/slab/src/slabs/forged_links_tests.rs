//! Links that stray writes have changed: under a preset with marks no object is handed out twice,
//! none that is in use, and the fault is reported.

extern crate std;

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec;
use std::vec::Vec;

use page_frame::{Arena, Fault, FaultKind, SingleCpu, panic_on_fault};

use crate::patience::Patience;
use crate::slabs::layout::header::SlabHeader;
use crate::slabs::layout::links::Links;
use crate::{Cache, Hardened, Registry};

type TestSystem<'a> = (&'a Arena<'a>, SingleCpu);
type TestCache<'a> = Cache<TestSystem<'a>, Hardened>;

std::thread_local! {
    static FAULTS: RefCell<Vec<FaultKind>> = const { RefCell::new(Vec::new()) };
}

fn note(fault: &Fault) {
    assert!(fault.cache.is_some_and(|cache| cache.as_str() == "forged"));
    FAULTS.with_borrow_mut(|faults| faults.push(fault.kind));
}

/// A slab with free objects: its links, its first free objects in their order, one of its objects
/// that is in use, and how many it has.
struct Slab {
    links: Links,
    free: Vec<usize>,
    used: usize,
    capacity: usize,
}

impl Slab {
    fn write(&self, index: usize, link: usize) {
        // SAFETY: clause 1: an object of the slab. It is not the caller's, which is the mistake.
        unsafe { self.links.write(index, link) };
    }
}

/// Returns a slab of `cache` that has free objects and others.
fn partial(cache: &TestCache<'_>) -> Slab {
    let token = cache.inner().environment().lock_token();
    let set = cache.inner().slabs().lock::<TestSystem<'_>>(&token, Patience::Wait);
    let set = set.expect("no code holds it");
    let headers = set.iter().map(|header| {
        // SAFETY: no code releases a slab during the test.
        let slab = unsafe { header.as_ref() };
        (header, slab.word.load(), slab.geometry(&cache.geometry()))
    });
    let mut headers = headers.filter(|(_, seen, cut)| seen.free > 3 && seen.free < cut.capacity());
    let (header, seen, geometry) = headers.next().expect("a slab is in use in part");
    // SAFETY: clause 1: the geometry of this slab.
    let links = unsafe { SlabHeader::links(header, &geometry) };
    // SAFETY: clauses 1 and 2: an object of the slab, and the lock is held.
    let read = |index| unsafe { links.read(index) };
    let next = |index: &usize| Some(read(*index));
    let free: Vec<_> = std::iter::successors(Some(seen.head), next).take(seen.free).collect();
    let capacity = geometry.capacity();
    let used = (0..capacity).find(|index| read(*index) >= capacity).expect("one is in use");
    Slab { links, free, used, capacity }
}

type Forgery = (&'static str, fn(&Slab));

const FORGERIES: &[Forgery] = &[
    ("a ring of one", |slab| slab.write(slab.free[0], slab.free[0])),
    ("a ring of two", |slab| slab.write(slab.free[1], slab.free[0])),
    ("a ring behind others", |slab| slab.write(slab.free[3], slab.free[2])),
    ("an object in use", |slab| slab.write(slab.free[1], slab.used)),
    ("behind the last object", |slab| slab.write(slab.free[1], slab.capacity)),
    ("the mark of an object in use", |slab| slab.write(slab.free[2], usize::MAX)),
    ("the mark of a cached object", |slab| {
        // SAFETY: clause 1: an object of the slab. It is not the caller's, which is the mistake.
        unsafe { slab.links.set_mark(slab.free[2], crate::slabs::layout::links::MARK_CACHED) };
    }),
    ("one link for all", |slab| {
        slab.free.iter().for_each(|index| slab.write(*index, slab.capacity - 1));
    }),
];

/// Runs `test` for each forgery, and for links of each kind: in the header, of one byte, of two.
fn for_each_forgery(
    hook: page_frame::FaultHook,
    test: impl Fn(&TestCache<'_>, Vec<NonNull<u8>>, &str),
) {
    for size in [800, 40, 8] {
        for (name, forge) in FORGERIES {
            let mut memory = vec![MaybeUninit::uninit(); 4 << 20];
            let arena = Arena::new(&mut memory).expect("large enough");
            let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), hook);
            let registry = registry.expect("room");
            let layout = Layout::from_size_align(size, 8).expect("a layout");
            let builder = registry.cache("forged", layout).hardening::<Hardened>();
            let builder = if size == 8 { builder.min_objects(1000) } else { builder };
            let cache = builder.build().expect("room");
            let per_slab = cache.geometry().capacity();
            let kinds = [per_slab <= 12, (13..=254).contains(&per_slab), per_slab > 254];
            assert_eq!(kinds, [size == 800, size == 40, size == 8], "{per_slab}");
            let mut held: Vec<_> =
                (0..5 * per_slab / 2).map(|_| cache.allocate().expect("room")).collect();
            // Most of the last slab is free: its objects go back from the magazines.
            for object in held.split_off(2 * per_slab + per_slab / 4) {
                // SAFETY: allocated above.
                unsafe { cache.free(object) };
            }
            cache.shrink_all();
            FAULTS.take();
            forge(&partial(&cache));
            test(&cache, held, name);
            // The slab is damaged: destroying the cache would look at it.
            core::mem::forget((cache, registry));
        }
    }
}

/// Mutations that it catches: `SlabSet::take` that follows a link without a look at it (an object
/// twice, one in use, or a read beyond the links); one that keeps the objects behind a broken link
/// (more faults follow); a fault that is not reported.
#[test]
fn forged_links_hand_out_no_object_twice_and_are_reported() {
    for_each_forgery(note, |cache, held, name| {
        let mut live: BTreeSet<_> = held.iter().copied().collect();
        assert_eq!(live.len(), held.len());
        let per_slab = cache.geometry().capacity();
        for _ in 0..3 {
            let mut fresh = Vec::new();
            for _ in 0..2 * per_slab {
                let object = cache.allocate().expect("room for more slabs");
                assert!(live.insert(object), "{name}: {object:p} has two owners");
                // SAFETY: the object is ours, and as large.
                unsafe { object.write_bytes(0x11, cache.object_size()) };
                fresh.push(object);
            }
            for object in fresh {
                live.remove(&object);
                // SAFETY: allocated in this round.
                unsafe { cache.free(object) };
            }
            cache.shrink_all();
        }
        let faults = FAULTS.take();
        assert_eq!(faults, [FaultKind::Corrupted], "{name}: the slab has no free object then");
        for object in held {
            // SAFETY: allocated before the forgery.
            unsafe { cache.free(object) };
        }
        assert!(FAULTS.take().is_empty(), "{name}: the objects in use are as they were");
    });
}

/// The default hook panics. The call that finds the fault holds nothing then.
///
/// Mutation that it catches: a report under the lock of the slab set (the next call hangs), or in
/// front of the guard that owns the objects taken (they are lost).
#[test]
fn a_hook_that_panics_loses_no_object_and_no_lock() {
    for_each_forgery(panic_on_fault, |cache, held, name| {
        let wanted = 2 * cache.geometry().capacity();
        let mut live: BTreeSet<_> = held.into_iter().collect();
        let (before, mut panics) = (live.len(), 0);
        while live.len() < before + wanted {
            match catch_unwind(AssertUnwindSafe(|| cache.allocate())) {
                Ok(object) => assert!(live.insert(object.expect("room")), "{name}"),
                Err(_) => panics += 1,
            }
            assert!(panics < 3, "{name}: one slab is broken");
        }
        assert!(panics > 0, "{name}");
        for object in live {
            // SAFETY: allocated above.
            unsafe { cache.free(object) };
        }
    });
}
