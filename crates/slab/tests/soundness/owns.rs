//! `Cache::owns`, `check` and `requested_size` accept any address, also that of an object whose
//! slab another thread releases during the call.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use hosted::Threads;
use page_frame::SingleCpu;
use slab::{Debugging, Hardening, Registry};

use crate::source::{HookedSource, with_arena};

/// A preset that records requested sizes and has no marks, so that a free object passes the checks.
struct KeepsSizes;

impl Hardening for KeepsSizes {
    const REQUESTED_SIZE: bool = true;
}

/// The call reads the tag of the page, and then another thread releases the slab. The rest of the
/// call must not read the header of that slab: it would say that the object is one of this cache.
#[test]
fn a_call_reads_no_header_of_a_slab_that_is_released_meanwhile() {
    with_arena(|arena| {
        let (asked, gone) = (Barrier::new(2), Barrier::new(2));
        let is_slow = AtomicBool::new(false);
        let mut source = HookedSource::new(arena);
        source.on_tag = Box::new(|| {
            if is_slow.swap(false, Ordering::SeqCst) {
                asked.wait();
                gone.wait();
            }
        });
        let registry = Registry::new(&source, Threads).expect("room");
        let builder = registry.cache("gone", Layout::new::<[u64; 20]>());
        let cache = builder.hardening::<KeepsSizes>().build().expect("room");
        let cache = &cache;
        let says_yes = |question, object| match question {
            0 => cache.owns(object),
            1 => cache.check(object).is_ok(),
            _ => cache.requested_size(object).is_ok(),
        };
        let says_yes = &says_yes;
        for question in 0..3 {
            let object = cache.allocate().expect("room");
            assert!(says_yes(question, object));
            // SAFETY: allocated above, and not used any more.
            unsafe { cache.free(object) };
            let address = object.addr();
            std::thread::scope(|scope| {
                is_slow.store(true, Ordering::SeqCst);
                let ask = move || says_yes(question, NonNull::without_provenance(address));
                let asking = scope.spawn(ask);
                asked.wait();
                assert!(cache.shrink_all() > 0, "the slab goes");
                gone.wait();
                assert!(!asking.join().expect("no panic"), "its slab is gone");
            });
        }
    });
}

#[test]
fn every_address_may_be_asked_for() {
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        let layout = Layout::new::<[u64; 5]>();
        let cache = registry
            .cache("own", layout)
            .hardening::<Debugging>()
            .keep_empty(99)
            .build()
            .expect("room");
        let other = registry.cache("other", layout).hardening::<Debugging>().build().expect("room");
        let objects: Vec<_> = (0..300).map(|_| cache.allocate().expect("room")).collect();
        let foreign = other.allocate().expect("room");
        for object in &objects {
            let beside = |bytes: usize| object.map_addr(|address| address.saturating_add(bytes));
            assert!(cache.owns(*object) && !other.owns(*object));
            assert!(!cache.owns(beside(1)) && !cache.owns(beside(8)));
        }
        let local = 0_u8;
        for address in [foreign, NonNull::from(&local), NonNull::dangling()] {
            assert!(!cache.owns(address));
        }
        assert!(
            !cache.owns(
                NonNull::new(std::ptr::without_provenance_mut(usize::MAX)).expect("not null")
            )
        );
        // SAFETY: allocated above, not used any more.
        unsafe { cache.free_many(&objects) };
        assert!(objects.iter().all(|object| cache.owns(*object)), "free ones too");
        // SAFETY: as above.
        unsafe { other.free(foreign) };
    });
}
