//! Caches on several memory nodes: where objects come from, and where they go.
#![cfg(not(loom))]

use std::alloc::Layout;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::ptr::NonNull;

use page_frame::{Arena, CpuId, PAGE_SIZE, SwitchedCpu};
use slab::{GracePeriods, NumaCache, NumaNodes, Registry};
use testkit::{Pattern, Random, steps};

const NODES: usize = 3;
const PAGES: usize = 120;

/// CPU n is nearest to node n, and node 1 to neither of the others: from node 0 the next is 2.
struct Machine<'a> {
    cpus: &'a SwitchedCpu,
    here: Cell<usize>,
    ranges: Vec<Range<usize>>,
    registries: Vec<Registry<(&'a Arena<'a>, &'a SwitchedCpu)>>,
}

impl Machine<'_> {
    fn run_on(&self, node: usize) {
        self.here.set(node);
        self.cpus.switch_to(Some(CpuId::new(node as u32)));
    }
}

// SAFETY: clause 1: the arenas are apart, and each registry has the arena of its number; clause 2:
// they never change.
unsafe impl<'a> NumaNodes for Machine<'a> {
    type System = (&'a Arena<'a>, &'a SwitchedCpu);

    fn registries(&self) -> &[Registry<(&'a Arena<'a>, &'a SwitchedCpu)>] {
        &self.registries
    }

    fn here(&self) -> usize {
        self.here.get()
    }

    fn node_of(&self, address: usize) -> usize {
        self.ranges.iter().position(|range| range.contains(&address)).expect("memory of a node")
    }

    fn nearest(&self, node: usize, closer: usize) -> usize {
        [[0, 2, 1], [1, 0, 2], [2, 0, 1]][node][closer]
    }
}

type Objects<'m, 'a> = NumaCache<&'m Machine<'a>, 4>;

/// Runs `test` on three nodes; afterwards the source has every page.
fn with_nodes(test: impl FnOnce(&Machine<'_>)) {
    let mut memory: Vec<_> =
        (0..NODES).map(|_| vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE]).collect();
    let range = |memory: &Vec<MaybeUninit<u8>>| {
        memory.as_ptr().addr()..memory.as_ptr().addr() + memory.len()
    };
    let ranges = memory.iter().map(range).collect();
    let arenas: Vec<_> =
        memory.iter_mut().map(|memory| Arena::new(memory).expect("large enough")).collect();
    let pages: Vec<_> = arenas.iter().map(Arena::free_pages).collect();
    let cpus = SwitchedCpu::new(NODES);
    let registry = |arena| Registry::new(arena, &cpus).expect("room");
    let registries = arenas.iter().map(registry).collect();
    let machine = Machine { cpus: &cpus, here: Cell::new(0), ranges, registries };
    test(&machine);
    drop(machine);
    assert_eq!(arenas.iter().map(Arena::free_pages).collect::<Vec<_>>(), pages);
}

fn open<'m, 'a>(machine: &'m Machine<'a>, size: usize) -> Objects<'m, 'a> {
    let layout = Layout::from_size_align(size, 8).expect("a layout");
    NumaCache::new(machine, |registry| registry.cache("noded", layout).build()).expect("room")
}

#[test]
fn objects_come_from_the_node_of_the_caller_and_go_back_to_their_own() {
    with_nodes(|machine| {
        let cache = open(machine, 200);
        let objects: Vec<_> = (0..NODES)
            .flat_map(|node| {
                machine.run_on(node);
                (0..100).map(|_| (node, cache.allocate().expect("room"))).collect::<Vec<_>>()
            })
            .collect();
        for &(node, object) in &objects {
            assert_eq!(machine.node_of(object.addr().get()), node);
        }
        // One CPU frees all of them. It must not allocate objects of another node from them.
        machine.run_on(1);
        for (_, object) in objects {
            // SAFETY: allocated above, freed once.
            unsafe { cache.free(object) };
        }
        cache.validate().expect("consistent");
        let again: Vec<_> = (0..300).map(|_| cache.allocate().expect("room")).collect();
        for object in again {
            assert_eq!(machine.node_of(object.addr().get()), 1);
            // SAFETY: allocated above, freed once.
            unsafe { cache.free(object) };
        }
    });
}

#[test]
fn a_node_without_memory_is_helped_by_the_nearest_that_has_some() {
    with_nodes(|machine| {
        let cache = open(machine, 2000);
        machine.run_on(0);
        let mut seen = Vec::new();
        let objects: Vec<_> = std::iter::from_fn(|| cache.allocate().ok()).collect();
        for object in &objects {
            seen.push(machine.node_of(object.addr().get()));
        }
        seen.dedup();
        assert_eq!(seen, [0, 2, 1], "nearest first, each until its memory runs out");
        assert!(cache.on(1).allocate().is_err());
        // A node can allocate the memory again that was freed to it.
        for &object in objects.iter().filter(|object| machine.node_of(object.addr().get()) == 0) {
            // SAFETY: allocated above, freed once.
            unsafe { cache.free(object) };
        }
        let object = cache.allocate().expect("freed on this node");
        assert_eq!(machine.node_of(object.addr().get()), 0);
        let away = objects.into_iter().filter(|object| machine.node_of(object.addr().get()) != 0);
        for object in away.chain([object]) {
            // SAFETY: allocated above, freed once.
            unsafe { cache.free(object) };
        }
        assert!(cache.shrink_all() > 0);
        assert!(cache.caches().all(|cache| cache.stats().slabs == 0));
    });
}

#[test]
fn slabs_of_each_node_take_the_colours_in_turn() {
    with_nodes(|machine| {
        let cache = open(machine, 640);
        let mut colours = [const { Vec::new() }; NODES];
        let mut live = Vec::new();
        for (node, colours) in colours.iter_mut().enumerate() {
            machine.run_on(node);
            live.extend((0..48).map(|_| cache.allocate().expect("room")));
            cache.on(node).for_each_slab(|slab| colours.push(slab.colour_offset));
            colours.sort_unstable();
            colours.dedup();
        }
        assert_eq!(colours, [[0, 64, 128, 192], [0, 64, 128, 192], [0, 64, 128, 192]]);
        // SAFETY: allocated above, freed once.
        live.into_iter().for_each(|object| unsafe { cache.free(object) });
    });
}

#[test]
#[should_panic = "other objects than the first"]
fn nodes_of_one_cache_have_the_same_objects() {
    with_nodes(|machine| {
        let mut size = 64;
        let _: Result<Objects<'_, '_>, _> = NumaCache::new(machine, |registry| {
            size += 64;
            registry.cache("odd", Layout::from_size_align(size, 8).expect("a layout")).build()
        });
    });
}

/// Grace periods that end at once.
struct NoReaders(u8);

// SAFETY: clause 1: nobody reads.
unsafe impl GracePeriods for NoReaders {
    fn start(&self) -> u64 {
        self.0.into()
    }
    fn has_ended(&self, token: u64) -> bool {
        token == u64::from(self.0)
    }
}

/// Mutation that it catches: grace objects of which only the presence is compared. A slab of one
/// node would then wait for other readers than a slab of the next.
#[test]
#[should_panic = "other objects than the first"]
fn nodes_of_one_cache_have_the_same_grace_periods() {
    static EACH: [NoReaders; NODES] = [const { NoReaders(0) }; NODES];
    with_nodes(|machine| {
        let mut graces = EACH.iter();
        let _: Result<Objects<'_, '_>, _> = NumaCache::new(machine, |registry| {
            let grace = graces.next().expect("one for each node");
            registry.cache("read", Layout::new::<u64>()).type_stable(grace).build()
        });
    });
}

#[test]
fn random_histories_keep_each_object_on_its_node() {
    for seed in 0..20 {
        with_nodes(|machine| play(machine, seed));
    }
}

fn play(machine: &Machine<'_>, seed: u64) {
    let mut random = Random::new(seed);
    let size = [24, 200, 1000][seed as usize % 3];
    let cache = open(machine, size);
    let mut live: Vec<(NonNull<u8>, u64)> = Vec::new();
    for step in 0..steps(3000) {
        machine.run_on(random.below(NODES));
        if random.below(100) < if step < 1500 { 60 } else { 40 } {
            let Ok(object) = cache.allocate() else { continue };
            let number = random.number();
            // SAFETY: an object of that many bytes, ours.
            unsafe { Pattern(number).fill(object, size) };
            live.push((object, number));
        } else if !live.is_empty() {
            let (object, number) = live.swap_remove(random.below(live.len()));
            // SAFETY: ours until it is freed below.
            assert!(unsafe { Pattern(number).is_in(object, size) });
            // SAFETY: taken off the list of live ones, so freed once.
            unsafe { cache.free(object) };
        }
        if step % 200 == 0 {
            cache.validate().expect("consistent");
            for (node, cache) in cache.caches().enumerate() {
                cache.for_each_slab(|slab| assert_eq!(machine.node_of(slab.start), node));
            }
        }
        if step % 500 == 0 {
            cache.shrink_all();
        }
    }
    for (object, _) in live {
        // SAFETY: what was live at the end of the history.
        unsafe { cache.free(object) };
    }
    for cache in cache.into_caches().into_iter().flatten() {
        cache.destroy().expect("nothing is in use");
    }
}
