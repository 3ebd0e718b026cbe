//! Texts of errors and values, the functions of Linux, and options with visible effects.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::mem::MaybeUninit;

use page_frame::{Arena, OneContext, Order, Shrink, SingleCpu};
use slab::linux::{
    kmem_cache_alloc, kmem_cache_alloc_bulk, kmem_cache_create, kmem_cache_destroy,
    kmem_cache_free, kmem_cache_free_bulk, kmem_cache_shrink,
};
use slab::{BuildError, Debugging, GeometryError, LARGEST_SIZE, Registry};

type TestRegistry<'a> = Registry<(&'a Arena<'a>, SingleCpu)>;

fn with_registry(test: impl FnOnce(&TestRegistry<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    test(&Registry::new(&arena, SingleCpu::new()).expect("room"));
}

#[test]
fn errors_say_the_numbers_concerned() {
    let order = |order| Order::new(order).expect("small");
    let (size, alignment) = (LARGEST_SIZE + 1, 8);
    let texts = [
        (GeometryError::ZeroSize.to_string(), "objects of zero bytes need no memory"),
        (
            GeometryError::NotPowerOfTwo { alignment: 12 }.to_string(),
            "the alignment 12 is not a power of two",
        ),
        (
            BuildError::Geometry(GeometryError::TooLarge { size, alignment }).to_string(),
            "4194305 bytes aligned to 8 exceed 4194304 bytes",
        ),
        (
            BuildError::OrderTooSmall { needed: order(3), allowed: order(1) }.to_string(),
            "an object needs a slab of order 3, order 1 is allowed",
        ),
        (BuildError::OutOfMemory.to_string(), "out of memory"),
    ];
    for (text, expected) in texts {
        assert_eq!(text, expected);
    }
}

/// Mutation that it catches: `Debug` of a cache prints its secret, which would help an attacker.
#[test]
fn values_can_be_printed_and_show_no_secret() {
    with_registry(|registry| {
        const SECRET: usize = 0x1234_5678_9abc_def1;
        let builder = registry.cache("inode", Layout::new::<[u64; 9]>()).secret(SECRET);
        let text = format!("{builder:?}");
        assert!(text.starts_with("CacheBuilder { name: \"inode\", layout: "), "{text}");
        let cache = builder.build().expect("room");
        assert_eq!(format!("{cache:?}"), "Cache { name: \"inode\", .. }");
        let held = registry.pages_held();
        assert_eq!(format!("{registry:?}"), format!("Registry {{ pages_held: {held} }}"));
        let frozen = registry.freeze_slots(None);
        assert_eq!(format!("{frozen:?}"), "FrozenSlots { .. }");
        drop(frozen);
        let object = cache.allocate().expect("room");
        let busy = cache.destroy().expect_err("an object is in use");
        assert_eq!(busy.to_string(), "cache inode has 1 objects in use");
        assert_eq!(format!("{busy:?}"), "Busy { name: \"inode\", objects: 1, .. }");
        assert!(![format!("{busy:?}"), text].iter().any(|text| text.contains("1311768467")));
        // SAFETY: allocated above.
        unsafe { busy.cache.free(object) };
    });
}

/// Mutation that it catches: a function of Linux calls the wrong operation.
#[test]
fn the_functions_of_linux_do_their_operations() {
    with_registry(|registry| {
        // SAFETY: there is no constructor.
        let wrong = unsafe { kmem_cache_create(registry, "wrong", 8, 12, None) };
        let expected = GeometryError::NotPowerOfTwo { alignment: 12 };
        assert_eq!(wrong.err(), Some(BuildError::Geometry(expected)));
        // SAFETY: as above.
        let wrong = unsafe { kmem_cache_create(registry, "wrong", usize::MAX, 8, None) };
        assert!(matches!(wrong, Err(BuildError::Geometry(GeometryError::TooLarge { .. }))));
        // SAFETY: as above.
        let cache = unsafe { kmem_cache_create(registry, "filp", 100, 0, None) }.expect("room");
        let one = kmem_cache_alloc(&cache).expect("room");
        let mut many = [one; 40];
        assert_eq!(kmem_cache_alloc_bulk(&cache, &mut many), 40);
        let busy = kmem_cache_destroy(cache).expect_err("objects are in use");
        assert_eq!(busy.objects, 41);
        let cache = busy.cache;
        // SAFETY: allocated above.
        unsafe { kmem_cache_free(&cache, one) };
        // SAFETY: as above.
        unsafe { kmem_cache_free_bulk(&cache, &many) };
        assert!(kmem_cache_shrink(&cache) > 0);
        assert!(kmem_cache_destroy(cache).is_ok());
    });
}

/// Mutation that it catches: `uncoloured` that does nothing, or that is the default.
#[test]
fn the_first_objects_of_uncoloured_slabs_lie_at_their_starts() {
    with_registry(|registry| {
        let firsts = |coloured: bool| {
            let builder = registry.cache("colours", Layout::new::<[u8; 600]>());
            let builder = if coloured { builder } else { builder.uncoloured() };
            let cache = builder.build().expect("room");
            assert!(cache.geometry().colours() > 1);
            let objects = 6 * cache.geometry().capacity();
            let objects: Vec<_> = (0..objects).map(|_| cache.allocate().expect("room")).collect();
            let bytes = cache.geometry().slab_bytes();
            let mut firsts = std::collections::BTreeMap::new();
            for object in &objects {
                let (slab, offset) = (object.addr().get() / bytes, object.addr().get() % bytes);
                let first = firsts.entry(slab).or_insert(offset);
                *first = offset.min(*first);
            }
            // SAFETY: allocated above.
            objects.iter().for_each(|object| unsafe { cache.free(*object) });
            let firsts: std::collections::BTreeSet<_> = firsts.into_values().collect();
            firsts.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(firsts(false), [0]);
        assert!(firsts(true).len() > 1);
    });
}

/// Mutation that it catches: a history dated by another clock, or by none.
#[test]
fn histories_are_dated_by_the_clock_of_the_cache() {
    with_registry(|registry| {
        let builder = registry.cache("dated", Layout::new::<[u64; 5]>()).hardening::<Debugging>();
        let mut cache = builder.clock(|| 77).build().expect("room");
        let object = cache.allocate().expect("room");
        let mut dates = Vec::new();
        cache.for_each_live(|live| dates.push(format!("{:?}", live.history)));
        assert_eq!(dates.len(), 1);
        assert!(dates[0].contains("77"), "{dates:?}");
        // SAFETY: allocated above.
        unsafe { cache.free(object) };
    });
}

/// Mutation that it catches: the registry as a shrinker that shrinks nothing.
#[test]
fn a_registry_is_a_shrinker_over_a_machine_of_its_own() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    // SAFETY: clause 1: the test is the only context.
    let cpu = unsafe { OneContext::new() };
    let hook = page_frame::panic_on_fault;
    let registry = Registry::<(&Arena<'_>, OneContext)>::for_system(&arena, cpu, hook);
    let registry = registry.expect("room");
    let cache = registry.cache("shrunk", Layout::new::<[u64; 30]>()).build().expect("room");
    let objects: Vec<_> = (0..200).map(|_| cache.allocate().expect("room")).collect();
    for object in objects {
        // SAFETY: allocated above.
        unsafe { cache.free(object) };
    }
    let held = registry.pages_held();
    let (reclaimable, given) = (registry.reclaimable(), Shrink::shrink(&registry, usize::MAX));
    assert!(given > 0 && reclaimable <= given, "{reclaimable} of {given}");
    assert_eq!(registry.pages_held() + given, held);
    let needed = Registry::<(&Arena<'_>, OneContext)>::needed_bytes;
    assert!(needed(1, true) > needed(1, false) && needed(usize::MAX, false).is_none());
}
