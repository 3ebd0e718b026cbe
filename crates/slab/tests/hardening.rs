//! Each check by itself. The tests make a mistake, which the check must report with its kind and
//! address, and which a cache without the check does not report. So each test fails when its check
//! is compiled out.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Mutex;

use page_frame::{Arena, Fault, FaultKind, PAGE_SIZE, SingleCpu};
use slab::{Cache, Debugging, Hardened, Hardening, Off, Registry};

struct Marks;
impl Hardening for Marks {
    const MARKS: bool = true;
}
struct Canary;
impl Hardening for Canary {
    const CANARY: bool = true;
}
struct RedZone;
impl Hardening for RedZone {
    const RED_ZONE: usize = 8;
}
struct Poison;
impl Hardening for Poison {
    const POISON: bool = true;
}
struct Shuffle;
impl Hardening for Shuffle {
    const SHUFFLE: bool = true;
}

type TestRegistry<'a> = Registry<(&'a Arena<'a>, SingleCpu)>;
type TestCache<'a, K> = Cache<(&'a Arena<'a>, SingleCpu), K>;

const SIZE: usize = 40;
/// Unused bytes behind an object in a cache without padding, so that a write of the test beyond the
/// object changes no other object.
const SPARE: usize = 24;

thread_local! {
    static FAULTS: RefCell<Vec<(FaultKind, usize)>> = const { RefCell::new(Vec::new()) };
}

fn note(fault: &Fault) {
    FAULTS.with_borrow_mut(|faults| faults.push((fault.kind, fault.address().expect("pointers"))));
}

fn with_registry(test: impl FnOnce(&TestRegistry<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); 200 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
    FAULTS.take();
    test(&registry);
}

/// Calls `plant`, which makes a mistake in a cache of the preset `K` and returns an address.
/// Returns the kinds of the faults that the cache reports; each must name that address.
fn kinds<K: Hardening>(plant: fn(&TestCache<'_, K>) -> NonNull<u8>) -> Vec<FaultKind> {
    let mut planted = 0;
    with_registry(|registry| {
        let layout = Layout::from_size_align(SIZE + SPARE, 8).expect("a layout");
        let cache = registry.cache("planted", layout).hardening::<K>().build().expect("room");
        planted = plant(&cache).addr().get();
        cache.validate().expect("nothing else is lost");
        // Objects that are not isolated are still allocated.
        let objects: Vec<_> = (0..200).map(|_| cache.allocate().expect("room")).collect();
        let distinct: std::collections::BTreeSet<_> = objects.iter().collect();
        assert_eq!(distinct.len(), objects.len());
        // SAFETY: the 200 allocated above.
        objects.into_iter().for_each(|object| unsafe { cache.free(object) });
    });
    let seen = FAULTS.take().into_iter();
    seen.map(|(kind, address)| {
        assert_eq!(address, planted, "{kind:?}");
        kind
    })
    .collect()
}

/// Writes a byte at `offset` from `object`.
fn write<K: Hardening>(_: &TestCache<'_, K>, object: NonNull<u8>, offset: isize) {
    // SAFETY: inside the slab, which is the test's memory.
    let place = unsafe { object.offset(offset) };
    // SAFETY: as above; padding is written.
    let before = unsafe { place.read() };
    // SAFETY: the same byte, which is the padding's.
    unsafe { place.write(!before) };
}

fn free_twice_with_another_between<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
    let (one, other) = (cache.allocate().expect("room"), cache.allocate().expect("room"));
    for object in [one, other] {
        // SAFETY: allocated above; what is wrong with it is the test.
        unsafe { cache.free(object) };
    }
    if K::MARKS {
        // SAFETY: not so: this is the fault. Marks keep it from doing harm.
        unsafe { cache.free(one) };
        assert_eq!(
            FAULTS.with_borrow(|faults| faults.last().copied()),
            Some((FaultKind::DoubleFree, one.addr().get()))
        );
    }
    one
}

#[test]
fn marks_see_any_double_free() {
    assert_eq!(kinds::<Marks>(free_twice_with_another_between), [FaultKind::DoubleFree]);
    assert_eq!(kinds::<Hardened>(free_twice_with_another_between), [FaultKind::DoubleFree]);
    assert_eq!(kinds::<Debugging>(free_twice_with_another_between), [FaultKind::DoubleFree]);
}

#[test]
fn marks_see_a_double_free_of_an_object_that_is_back_in_its_slab() {
    fn plant<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
        let keeper = cache.allocate().expect("room");
        let object = cache.allocate().expect("room");
        // SAFETY: allocated above, from this cache, and freed once.
        unsafe { cache.free(object) };
        cache.shrink_all();
        // SAFETY: not so: this is the fault.
        unsafe { cache.free(object) };
        // SAFETY: the one kept until here.
        unsafe { cache.free(keeper) };
        object
    }
    assert_eq!(kinds::<Marks>(plant), [FaultKind::DoubleFree]);
}

#[test]
fn racing_double_frees_are_credited_once() {
    use hosted::Threads;
    let memory = hosted::Mapped::reserve(64 * PAGE_SIZE).expect("address space");
    // SAFETY: fresh, ours, and alive until the end of the test.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(memory.start().cast().as_ptr(), 64 * PAGE_SIZE) };
    let arena = Arena::new(bytes).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, Threads, note).expect("room");
    let layout = Layout::new::<[u64; 5]>();
    let cache = registry.cache("raced", layout).hardening::<Hardened>().build().expect("room");
    for _ in 0..200 {
        let object = cache.allocate().expect("room").addr();
        let rounds = std::thread::scope(|scope| {
            let free = || {
                FAULTS.take();
                let object = NonNull::new(std::ptr::with_exposed_provenance_mut(object.get()));
                // SAFETY: true for one of the two; the other is the fault.
                unsafe { cache.free(object.expect("not null")) };
                FAULTS.take().len()
            };
            let (one, other) = (scope.spawn(free), scope.spawn(free));
            one.join().expect("no panic") + other.join().expect("no panic")
        });
        assert_eq!(rounds, 1, "one of the two frees is reported");
    }
}

#[test]
fn marks_see_pointers_that_are_no_objects() {
    fn interior<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
        let object = cache.allocate().expect("room");
        let inside = NonNull::new(object.as_ptr().wrapping_add(8)).expect("not null");
        // SAFETY: not so: this is the fault.
        unsafe { cache.free(inside) };
        let seen = FAULTS.with_borrow(|faults| faults.last().copied());
        assert_eq!(seen, Some((FaultKind::InteriorPointer, inside.addr().get())));
        // SAFETY: allocated above; the fault in its middle changed nothing.
        unsafe { cache.free(object) };
        inside
    }
    fn foreign<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
        let mut value = 0_u64;
        let foreign = NonNull::from(&mut value).cast();
        // SAFETY: not so: this is the fault.
        unsafe { cache.free(foreign) };
        foreign
    }
    assert_eq!(kinds::<Marks>(interior), [FaultKind::InteriorPointer]);
    assert_eq!(kinds::<Debugging>(interior), [FaultKind::InteriorPointer]);
    assert_eq!(kinds::<Marks>(foreign), [FaultKind::ForeignPointer]);
}

#[test]
fn marks_see_objects_of_other_caches() {
    with_registry(|registry| {
        let layout = Layout::new::<[u64; 5]>();
        let one = registry.cache("one", layout).hardening::<Marks>().build().expect("room");
        let other = registry.cache("other", layout).hardening::<Marks>().build().expect("room");
        let object = one.allocate().expect("room");
        // SAFETY: not so: this is the fault.
        unsafe { other.free(object) };
        assert_eq!(FAULTS.take(), [(FaultKind::WrongCache, object.addr().get())]);
        // SAFETY: from this one, as the fault changed nothing.
        unsafe { one.free(object) };
        one.destroy().expect("the object is still good for its own cache");
    });
    assert!(FAULTS.take().is_empty());
}

fn overflow_by_a_byte<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
    let object = cache.allocate().expect("room");
    write(cache, object, cache.object_size() as isize);
    // SAFETY: allocated above and not used again.
    unsafe { cache.free(object) };
    object
}

#[test]
fn canaries_see_a_write_of_one_byte_behind() {
    assert!(matches!(kinds::<Canary>(overflow_by_a_byte)[..], [FaultKind::Overflow { .. }]));
    assert!(matches!(kinds::<Hardened>(overflow_by_a_byte)[..], [FaultKind::Overflow { .. }]));
    assert!(matches!(kinds::<Debugging>(overflow_by_a_byte)[..], [FaultKind::Overflow { .. }]));
    assert!(kinds::<Marks>(overflow_by_a_byte).is_empty());
}

#[test]
fn a_canary_of_another_object_does_not_fit() {
    fn plant<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
        let (one, other) = (cache.allocate().expect("room"), cache.allocate().expect("room"));
        // SAFETY: the canaries of two objects, inside the test's memory.
        let (behind, from) = (
            one.as_ptr().wrapping_add(cache.object_size()),
            other.as_ptr().wrapping_add(cache.object_size()),
        );
        // SAFETY: the other canary, eight bytes inside the test's memory.
        unsafe { behind.copy_from(from, 8) };
        for object in [one, other] {
            // SAFETY: allocated above; only what lies behind one of them was written.
            unsafe { cache.free(object) };
        }
        one
    }
    assert!(matches!(kinds::<Canary>(plant)[..], [FaultKind::Overflow { .. }]));
}

#[test]
fn red_zones_see_writes_on_both_sides() {
    fn in_front<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
        // Not the slab's first object, for presets that have nothing in front.
        let (one, other) = (cache.allocate().expect("room"), cache.allocate().expect("room"));
        let spoilt = one.max(other);
        write(cache, spoilt, -1);
        for object in [one, other] {
            // SAFETY: allocated in this round.
            unsafe { cache.free(object) };
        }
        spoilt
    }
    assert!(matches!(kinds::<RedZone>(in_front)[..], [FaultKind::Overflow { .. }]));
    assert!(matches!(kinds::<RedZone>(overflow_by_a_byte)[..], [FaultKind::Overflow { .. }]));
    assert!(kinds::<Off>(in_front).is_empty());
}

#[test]
fn poison_sees_writes_after_the_free() {
    fn plant<K: Hardening>(cache: &TestCache<'_, K>) -> NonNull<u8> {
        let object = cache.allocate().expect("room");
        // SAFETY: the last one allocated.
        unsafe { cache.free(object) };
        write(cache, object, 17);
        object
    }
    assert!(matches!(kinds::<Poison>(plant)[..], [FaultKind::WriteAfterFree { .. }]));
    assert!(matches!(kinds::<Debugging>(plant)[..], [FaultKind::WriteAfterFree { .. }]));
    assert!(matches!(kinds::<Hardened>(plant)[..], [FaultKind::WriteAfterFree { .. }]));
}

#[test]
fn shuffled_slabs_hand_out_their_objects_in_another_order() {
    /// How many of 40 objects lie next to the one before.
    fn neighbours<K: Hardening>(cache: &TestCache<'_, K>) -> usize {
        let object = || cache.allocate().expect("room").addr().get();
        let objects: Vec<_> = std::iter::repeat_with(object).take(40).collect();
        objects.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 40).count()
    }
    with_registry(|registry| {
        let layout = Layout::new::<[u64; 5]>();
        let plain = registry.cache("plain", layout).build().expect("room");
        let shuffled = registry.cache("shuffled", layout).hardening::<Shuffle>();
        let shuffled = shuffled.secret(0x5eed).build().expect("room");
        let (plain, shuffled) = (neighbours(&plain), neighbours(&shuffled));
        assert!(plain >= 30, "in order: {plain}");
        assert!(shuffled <= 8, "by chance: {shuffled}");
    });
}

#[test]
fn checked_objects_keep_alignment_size_and_constructed_state() {
    unsafe fn construct(object: NonNull<u8>) {
        // SAFETY: the object is so large and aligned.
        unsafe { object.cast::<[u64; 16]>().write([7; 16]) };
    }
    with_registry(|registry| {
        let layout = Layout::from_size_align(128, 64).expect("a layout");
        let builder = registry.cache("state", layout).hardening::<Debugging>();
        // SAFETY: writes within the layout.
        let cache = unsafe { builder.constructor(construct) }.build().expect("room");
        for _ in 0..300 {
            let objects: Vec<_> = (0..9).map(|_| cache.allocate().expect("room")).collect();
            for object in objects {
                assert_eq!(object.addr().get() % 64, 0);
                // SAFETY: constructed, and so large.
                assert_eq!(unsafe { object.cast::<[u64; 16]>().read() }, [7; 16]);
                // SAFETY: from this cache, its state unchanged.
                unsafe { cache.free(object) };
            }
        }
        cache.destroy().expect("nothing is in use");
    });
    assert!(FAULTS.take().is_empty());
}

#[test]
fn off_costs_no_byte() {
    with_registry(|registry| {
        for size in [8, 20, 64, 488, 4096] {
            let layout = Layout::from_size_align(size, 4).expect("a layout");
            let off = registry.cache("off", layout).hardening::<Off>().geometry().expect("fits");
            let marks =
                registry.cache("marks", layout).hardening::<Marks>().geometry().expect("fits");
            assert_eq!(off, slab::Geometry::new(size, 4, 64).expect("fits"));
            assert_eq!(off, marks, "marks lie in the links");
        }
    });
}

/// A report of `Debugging` names the callers that allocated and freed the object. If a stray write
/// has changed the record of them, the report leaves them out, and follows no pointer of the
/// record.
///
/// Mutation that it catches: a record that is read without its checksum (SIGSEGV).
#[test]
fn reports_name_the_last_callers_and_survive_a_spoilt_record() {
    static REPORTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
    let note = |fault: &Fault| REPORTS.lock().expect("no panic").push(*fault);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
    let builder = registry.cache("named", Layout::new::<[u8; 40]>()).hardening::<Debugging>();
    let cache = builder.build().expect("fits");
    let object = cache.allocate().expect("room");
    let other = cache.allocate().expect("room");
    for freed in [object, other, object] {
        // SAFETY: not sound in general; the hook returns, and the second free changes nothing.
        unsafe { cache.free(freed) };
    }
    let fault = REPORTS.lock().expect("no panic").pop().expect("a double free");
    let text = fault.to_string();
    assert_eq!(fault.kind, FaultKind::DoubleFree, "{text}");
    for caller in [Some(fault.site), fault.allocated_by, fault.freed_by] {
        assert!(caller.expect("recorded").file().ends_with("hardening.rs"), "{text}");
    }
    assert!(text.contains("; cache named; allocated from "), "{text}");
    // Each byte up to the next object: the canary, the red zone and the record.
    let spoilt = cache.allocate().expect("room");
    for offset in 40..cache.geometry().stride() - 16 {
        write(&cache, spoilt, offset as isize);
    }
    // SAFETY: as above: the overflow is found, and nothing is freed.
    unsafe { cache.free(spoilt) };
    let fault = REPORTS.lock().expect("no panic").pop().expect("an overflow");
    let changed = spoilt.addr().get() + 40;
    assert!(matches!(fault.kind, FaultKind::Overflow { changed: at, .. } if at == changed));
    assert_eq!((fault.allocated_by, fault.freed_by), (None, None));
}

/// With canaries and no red zones, a changed byte may be an overflow of one object or an underflow
/// of the next, so the report names both. Red zones tell them apart.
///
/// Mutation that it catches: the neighbour is left out.
#[test]
fn reports_name_the_neighbour_where_either_object_may_be_the_cause() {
    fn report<K: Hardening>() -> (FaultKind, String, usize) {
        static REPORTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
        let note = |fault: &Fault| REPORTS.lock().expect("no panic").push(*fault);
        let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
        let builder = registry.cache("pairs", Layout::new::<[u64; 5]>()).hardening::<K>();
        let cache = builder.build().expect("fits");
        let stride = cache.geometry().stride();
        let objects: Vec<_> = (0..60).map(|_| cache.allocate().expect("room")).collect();
        let has_next = |one: &&NonNull<u8>| {
            let behind = NonNull::new(one.as_ptr().wrapping_add(stride)).expect("not null");
            objects.contains(&behind)
        };
        let first = objects.iter().find(has_next).expect("objects of a slab have neighbours");
        write(&cache, *first, stride as isize - 1 - cache_front::<K>());
        // SAFETY: clauses 1 and 2: allocated above, by the only thread.
        assert!(unsafe { cache.check_owned(*first) }.is_err(), "on demand");
        // SAFETY: from this cache.
        objects.iter().for_each(|object| unsafe { cache.free(*object) });
        let faults: Vec<_> = REPORTS.lock().expect("no panic").drain(..).collect();
        assert_eq!(faults.len(), 1, "{faults:?}");
        (faults[0].kind, faults[0].to_string(), first.addr().get() + stride)
    }
    /// The record behind the last red zone takes a write too.
    fn cache_front<K: Hardening>() -> isize {
        K::RED_ZONE as isize
    }
    let (kind, text, next) = report::<Hardened>();
    assert!(matches!(kind, FaultKind::Overflow { neighbour: Some(at), .. } if at.get() == next));
    assert!(text.ends_with(&format!("in front of {next:#x} did; cache pairs")), "{text}");
    let (kind, ..) = report::<RedZoneAndMarks>();
    assert!(matches!(kind, FaultKind::Overflow { neighbour: None, .. }));
}

struct RedZoneAndMarks;
impl Hardening for RedZoneAndMarks {
    const MARKS: bool = true;
    const RED_ZONE: usize = 8;
}

/// A write in front of the slab's first object, for objects of several sizes and alignments, and in
/// slabs of each order. The report says that the byte lies in front.
///
/// Mutations that it catches: a slab without a guard; a guard that is not checked, or checked for
/// another object than the first; one whose fault names the object behind.
#[test]
fn a_write_in_front_of_a_slabs_first_object_is_named() {
    static REPORTS: Mutex<Vec<Fault>> = Mutex::new(Vec::new());
    let note = |fault: &Fault| REPORTS.lock().expect("no panic").push(*fault);
    for (size, align) in [(1, 1), (40, 8), (56, 8), (100, 4), (64, 64), (1000, 16), (4088, 8)] {
        let mut memory = vec![MaybeUninit::uninit(); 4 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
        let layout = Layout::from_size_align(size, align).expect("a layout");
        let cache = registry.cache("first", layout).hardening::<Hardened>().build().expect("fits");
        let (geometry, mut slabs) = (cache.geometry(), std::collections::BTreeMap::new());
        let objects = (0..6 * geometry.capacity()).map(|_| cache.allocate().expect("room"));
        let objects: Vec<_> = objects.collect();
        for object in &objects {
            let slab = object.addr().get() / geometry.slab_bytes();
            let first: &mut NonNull<u8> = slabs.entry(slab).or_insert(*object);
            *first = (*first).min(*object);
        }
        let firsts: Vec<_> = slabs.into_values().collect();
        for (number, first) in firsts.iter().enumerate() {
            let offset = -1 - (number % size_of::<usize>()) as isize;
            write(&cache, *first, offset);
            // SAFETY: clauses 1 and 2: allocated above, by the only thread.
            let fault = unsafe { cache.check_owned(*first) }.expect_err("on demand");
            let changed = first.addr().get().wrapping_add_signed(offset);
            let is_it = |kind| match kind {
                FaultKind::Overflow { changed: at, offset: by, neighbour: None, .. } => {
                    at == changed && by as isize == offset
                }
                _ => false,
            };
            assert!(is_it(fault.kind), "{size} bytes aligned to {align}: {fault}");
            // SAFETY: as above; the object is isolated.
            unsafe { cache.free(*first) };
            let fault = REPORTS.lock().expect("no panic").pop().expect("a fault");
            assert!(is_it(fault.kind) && fault.address() == Some(first.addr().get()), "{fault}");
        }
        assert!(firsts.len() >= 6);
        for object in objects.iter().filter(|object| !firsts.contains(object)) {
            // SAFETY: from this cache.
            unsafe { cache.free(*object) };
        }
        assert!(REPORTS.lock().expect("no panic").is_empty(), "the others are whole");
        cache.validate().expect("consistent");
    }
}
