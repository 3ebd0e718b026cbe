//! The events of a trace agree with the state of the cache.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;

use page_frame::{Arena, CpuId, PAGE_SIZE, SingleCpu, SwitchedCpu};
use slab::{CacheName, Debugging, Event, Registry};
use testkit::{Random, steps};

/// The state of a cache, reconstructed from its events.
#[derive(Default)]
struct State {
    /// Slabs, with their pages, by address.
    slabs: BTreeMap<usize, usize>,
    /// Objects outside their slabs, by address, and whether a user has them.
    out: BTreeMap<usize, bool>,
    /// Objects in full magazines of the depot.
    at_depot: usize,
    loads: usize,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

fn apply(cache: &CacheName, event: Event) {
    assert_eq!(cache.as_str(), "traced");
    STATE.with_borrow_mut(|state| match event {
        Event::SlabMade { start, pages, colour_offset } => {
            assert_eq!(colour_offset % 64, 0);
            assert_eq!(state.slabs.insert(start.addr().get(), pages), None);
        }
        Event::SlabReleased { start, pages } => {
            let start = start.addr().get();
            assert_eq!(state.slabs.remove(&start), Some(pages));
            let inside = start..start + pages * PAGE_SIZE;
            assert_eq!(state.out.range(inside).count(), 0, "objects of it are out");
        }
        Event::MagazineStored { objects } => state.at_depot += objects,
        Event::MagazineLoaded { objects } => {
            state.at_depot -= objects;
            state.loads += 1;
        }
        Event::MagazineEmptied { objects } => state.at_depot -= objects,
        Event::ObjectTaken { object } => {
            let address = object.addr().get();
            let (start, pages) = state.slabs.range(..=address).next_back().expect("of a slab");
            assert!(address < start + pages * PAGE_SIZE);
            assert_eq!(state.out.insert(address, false), None, "out twice");
        }
        Event::ObjectReturned { object } => {
            let had = state.out.remove(&object.addr().get());
            assert_eq!(had, Some(false), "back without having been out, or in use");
        }
    });
}

fn set_in_use(address: usize, is_used: bool) {
    STATE.with_borrow_mut(|state| {
        let was = state.out.insert(address, is_used);
        assert_eq!(was, Some(!is_used), "a user has an object whose event is missing");
    });
}

#[test]
fn events_of_a_random_history_add_up() {
    let mut memory = vec![MaybeUninit::uninit(); 400 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let cpus = SwitchedCpu::new(2);
    let registry = Registry::new(&arena, &cpus).expect("room");
    let cache = registry
        .cache("traced", Layout::from_size_align(200, 8).expect("a layout"))
        .hardening::<Debugging>()
        .trace(&apply)
        .build()
        .expect("fits");
    let mut random = Random::new(5);
    let mut live = Vec::new();
    for step in 0..steps(20_000) {
        cpus.switch_to([Some(CpuId::new(0)), Some(CpuId::new(1)), None][random.below(5).min(2)]);
        let wants_more = if step % 4000 < 2000 { 65 } else { 35 };
        if random.below(100) < wants_more {
            let Ok(object) = cache.allocate() else { continue };
            set_in_use(object.addr().get(), true);
            live.push(object);
        } else if !live.is_empty() {
            let object = live.swap_remove(random.below(live.len()));
            set_in_use(object.addr().get(), false);
            // SAFETY: taken off the list of live ones, so freed once.
            unsafe { cache.free(object) };
        }
        if step % 5000 == 4999 {
            cache.shrink_all();
        }
        if step % 500 == 0 {
            let mut slabs = BTreeMap::new();
            cache.for_each_slab(|slab| _ = slabs.insert(slab.start, slab.order.pages()));
            STATE.with_borrow(|state| assert_eq!(state.slabs, slabs));
        }
    }
    for object in live {
        set_in_use(object.addr().get(), false);
        // SAFETY: what was live at the end of the history.
        unsafe { cache.free(object) };
    }
    STATE.with_borrow(|state| assert!(state.loads > 10, "{} loads from the depot", state.loads));
    cache.destroy().expect("nothing is in use");
    STATE.with_borrow(|state| {
        assert_eq!((state.slabs.len(), state.out.len(), state.at_depot), (0, 0, 0));
    });
}

thread_local! {
    /// Objects that left their slabs.
    static OUT: Cell<usize> = const { Cell::new(0) };
}

fn count_out(_: &CacheName, event: Event) {
    if matches!(event, Event::ObjectTaken { .. }) {
        OUT.set(OUT.get() + 1);
    }
}

#[test]
fn objects_that_come_back_again_and_again_stay_at_the_depot_and_go_under_pressure() {
    const OBJECTS: usize = 4000;
    let mut memory = vec![MaybeUninit::uninit(); 400 * PAGE_SIZE];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    let cache = registry.cache("again", Layout::new::<[u64; 25]>()).trace(&count_out);
    let cache = cache.build().expect("fits");
    let mut outs = Vec::new();
    for _ in 0..5 {
        OUT.set(0);
        let objects: Vec<_> = (0..OBJECTS).map(|_| cache.allocate().expect("room")).collect();
        // SAFETY: objects of this round.
        objects.into_iter().for_each(|object| unsafe { cache.free(object) });
        outs.push(OUT.get());
    }
    assert!(outs[1] > OBJECTS / 2, "at first there is little room: {outs:?}");
    assert!(outs[4] < OBJECTS / 50, "what was missed has room: {outs:?}");
    let pages = cache.stats().pages();
    assert!(registry.shrink(pages) >= pages, "all of it goes when it is wanted");
}
