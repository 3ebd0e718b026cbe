//! `validate` and `validate_quiet` find each planted corruption, and name the invariant.

extern crate std;

use core::alloc::Layout;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::vec;
use std::vec::Vec;

use page_frame::{Arena, PAGE_SIZE, PageMap, SingleCpu, Tag};

use crate::patience::Patience;
use crate::percpu::slot::{CpuSlot, Push};
use crate::slabs::layout::header::{ListName, Neighbours, SlabHeader};
use crate::slabs::layout::links::{Links, MARK_ALLOCATED};
use crate::slabs::set::SlabSet;
use crate::{Cache, Hardened, Registry};

/// Objects whose slabs have several pages.
type Object = [u8; 600];
type TestCache<'a, 'm> = Cache<(&'a Arena<'m>, SingleCpu), Hardened>;

/// A cache with objects in use, in magazines, in the depot, and free in slabs.
struct Machine<'a, 'm> {
    arena: &'a Arena<'m>,
    cache: TestCache<'a, 'm>,
}

impl Machine<'_, '_> {
    /// Calls `change` with the slab set.
    fn with_set<R>(&self, change: impl FnOnce(&mut SlabSet) -> R) -> R {
        let token = self.cache.inner().environment().lock_token();
        let set =
            self.cache.inner().slabs().lock::<(&Arena<'_>, SingleCpu)>(&token, Patience::Wait);
        change(&mut set.expect("no code holds it"))
    }

    /// Returns the header of a slab in list `name`.
    fn slab_in(&self, name: ListName) -> NonNull<SlabHeader> {
        self.with_set(|set| set.list(name).first()).expect("there is such a slab")
    }

    /// Returns a slab of which several objects are free, and others not.
    fn partial(&self) -> NonNull<SlabHeader> {
        // SAFETY: no code releases a slab during the test.
        let is_such =
            |header: &NonNull<SlabHeader>| unsafe { header.as_ref() }.word.load().free > 1;
        let of_list = |set: &SlabSet, name: &ListName| set.list(*name).iter().find(is_such);
        let found =
            self.with_set(|set| ListName::KNOWN[..4].iter().find_map(|name| of_list(set, name)));
        found.expect("there is such a slab")
    }

    fn links(&self, header: NonNull<SlabHeader>) -> Links {
        // SAFETY: no code releases a slab during the test.
        let geometry = unsafe { header.as_ref() }.geometry(&self.cache.geometry());
        // SAFETY: as above.
        unsafe { SlabHeader::links(header, &geometry) }
    }

    /// Calls `change` with the header of a slab that has free objects.
    fn with_header(&self, change: impl FnOnce(&mut SlabHeader)) {
        // SAFETY: no code releases a slab or uses the header during the test.
        change(unsafe { self.partial().as_mut() });
    }

    fn with_slot<R>(&self, change: impl FnOnce(&mut CpuSlot) -> R) -> R {
        let mut slot = self.cache.inner().percpu.slots.enter().expect("there is one CPU");
        change(&mut slot)
    }

    /// Pushes the object in `place` to the CPU's magazine.
    fn push(&self, place: NonNull<u8>) {
        self.with_slot(|slot| {
            slot.pop().expect("the magazine has objects");
            assert_eq!(slot.push(place), Push::Done);
        });
    }

    fn cached(&self) -> Vec<NonNull<u8>> {
        self.with_slot(|slot| slot.objects().collect())
    }

    fn change_depot(&self, by: i16) {
        let token = self.cache.inner().environment().lock_token();
        let depot = token.lock(&self.cache.inner().percpu.depot);
        depot.expect("no code holds it").corrupt_count(by);
    }

    /// Sets tag and owner of the second page of a slab.
    fn set_owner(&self, tag: Tag, owner: NonNull<()>) {
        self.with_header(|slab| {
            // SAFETY: the slab has more pages than one.
            let second = unsafe { slab.start.add(PAGE_SIZE) };
            // SAFETY: clause 1: the page belongs to the cache; this is the corruption.
            unsafe { self.arena.set_owner(second, 1, tag, owner) };
        });
    }
}

type Corruption = (&'static str, fn(&Machine<'_, '_>));

const LINKS_NAME_OBJECTS: &str = "free word I1: links name objects of the slab";
const LENGTH: &str = "slab list I1: a list is as long as it says";
const NOT_OURS: &str = "magazine I2: a magazine holds objects of its cache";
const COUNTS: &str = "depot: the counts of a stack are those of its magazines";
const KNOWN: &str = "slab set I2: slabs with free objects, and no others, are in sight";

/// Slabs, and the depot.
const SLABS: &[Corruption] = &[
    (LINKS_NAME_OBJECTS, |machine| {
        let header = machine.partial();
        // SAFETY: no code releases a slab during the test.
        let head = unsafe { header.as_ref() }.word.load().head;
        // SAFETY: clause 1: an object of the slab; this is the corruption.
        unsafe { machine.links(header).write(head, 200) };
    }),
    (LINKS_NAME_OBJECTS, |machine| {
        let header = machine.partial();
        // SAFETY: no code releases a slab during the test.
        let head = unsafe { header.as_ref() }.word.load().head;
        // SAFETY: clause 1: as above.
        unsafe { machine.links(header).set_mark(head, MARK_ALLOCATED) };
    }),
    ("free word I1: each free object is linked once", |machine| {
        let header = machine.partial();
        // SAFETY: no code releases a slab during the test.
        let head = unsafe { header.as_ref() }.word.load().head;
        // SAFETY: clause 1: as above.
        unsafe { machine.links(header).write(head, head) };
    }),
    ("free word I1: the last link is zero", |machine| {
        let header = machine.partial();
        // SAFETY: no code releases a slab during the test.
        let seen = unsafe { header.as_ref() }.word.load();
        let links = machine.links(header);
        // SAFETY: clauses 1 and 2: a link of an object, and no other code uses the slab.
        let last = (1..seen.free).fold(seen.head, |index, _| unsafe { links.read(index) });
        // SAFETY: clause 1: as above.
        unsafe { links.set_mark(last, MARK_ALLOCATED) };
    }),
    ("slab set I1: a slab is in the list that its header names", |machine| {
        // SAFETY: clause 1 of `set_list`: no other code uses the header.
        machine.with_header(|slab| unsafe { slab.set_list(ListName::Full) });
    }),
    ("slab list I1: neighbours name each other", |machine| {
        machine.with_header(|slab| {
            let previous = core::ptr::from_mut(slab);
            // SAFETY: clause 1: no other code uses the header.
            let next = unsafe { slab.neighbours() }.next;
            // SAFETY: clause 1: as above.
            unsafe { slab.set_neighbours(Neighbours { next, previous }) };
        });
    }),
    (LENGTH, |machine| machine.with_set(|set| set.corrupt(ListName::Full, 1, 0, 0))),
    (LENGTH, |machine| machine.with_set(|set| set.corrupt(ListName::Full, -1, 0, 0))),
    ("slab set: the missing pages are those of all slabs of lower orders", |machine| {
        machine.with_set(|set| set.corrupt(ListName::Full, 0, 1, 0));
    }),
    ("slab set: the minimum number of empty slabs is at most their number", |machine| {
        machine.with_set(|set| set.corrupt(ListName::Full, 0, 0, 100));
    }),
    (KNOWN, |machine| {
        let (header, links) = (machine.partial(), machine.links(machine.partial()));
        // SAFETY: clauses 1 and 2 of `read`: the word's indices, and no other code uses the slab.
        let next = |index| unsafe { links.read(index) };
        // SAFETY: no code releases a slab during the test.
        while unsafe { header.as_ref() }.word.pop(next).is_some() {}
    }),
    ("slab set I3: the objects of an empty slab are all free", |machine| {
        let header = machine.slab_in(ListName::Empty);
        let links = machine.links(header);
        // SAFETY: clauses 1 and 2 of `read`: as above.
        let next = |index| unsafe { links.read(index) };
        // SAFETY: no code releases a slab during the test.
        unsafe { header.as_ref() }.word.pop(next).expect("all objects are free");
    }),
    ("header: a slab names its cache", |machine| {
        machine.with_header(|slab| slab.cache = NonNull::dangling());
    }),
    ("header: the colour is one of the geometry's", |machine| {
        machine.with_header(|slab| slab.colour = u16::MAX);
    }),
    ("header: the cache cuts slabs of its order", |machine| {
        let order = machine.cache.geometry().order().get();
        machine.with_header(|slab| slab.corrupt_order(order + 1));
    }),
    ("page map: the owner of no other page is a slab's header", |machine| {
        let order = machine.cache.geometry().order().get();
        machine.with_header(|slab| {
            slab.colour = 0;
            slab.corrupt_order(order - 1);
        });
    }),
    ("page map: every page of a slab has its cache's tag", |machine| {
        machine.set_owner(Tag::NONE, machine.partial().cast());
    }),
    ("page map: the owner of every page of a slab is its header", |machine| {
        machine.set_owner(Tag::SLAB, machine.slab_in(ListName::Full).cast());
    }),
    (COUNTS, |machine| machine.change_depot(-1)),
    (COUNTS, |machine| machine.change_depot(1)),
];

/// Magazines.
const MAGAZINES: &[Corruption] = &[
    ("CPU slot I1: the loaded magazine has its places in order", |machine| {
        machine.with_slot(CpuSlot::corrupt_end);
    }),
    ("magazine I2: an object is in one magazine, once", |machine| {
        machine.push(machine.cached()[0]);
    }),
    ("magazine I2: an object is in one magazine, once", |machine| {
        let token = machine.cache.inner().environment().lock_token();
        let depot = token.lock(&machine.cache.inner().percpu.depot).expect("no code holds it");
        let object = depot.objects().next().expect("the depot has objects");
        drop(depot);
        machine.push(object);
    }),
    ("magazine I2: an object in a magazine is not free", |machine| {
        machine.with_header(|slab| {
            let geometry = slab.geometry(&machine.cache.geometry());
            let head = slab.word.load().head;
            // SAFETY: clause 1: the word holds indices of objects.
            machine.push(unsafe { slab.object(&geometry, head) });
        });
    }),
    (NOT_OURS, |machine| machine.push(NonNull::dangling())),
    (NOT_OURS, |machine| {
        let place = machine.cached()[0];
        // SAFETY: an object has more bytes than one.
        machine.push(unsafe { place.add(1) });
    }),
    ("mark: an object in a magazine is marked so", |machine| {
        let address = machine.cached()[0].addr().get();
        let inner = machine.cache.inner();
        let (header, index) = inner.slabs().find(inner.environment(), address).expect("ours");
        // SAFETY: clause 1: an object of the slab; this is the corruption.
        unsafe { machine.links(header).set_mark(index, MARK_ALLOCATED) };
    }),
];

/// Plants each corruption and calls `validate`.
fn finds_each(
    corruptions: &[Corruption],
    validate: fn(&TestCache<'_, '_>) -> Result<(), page_frame::Violation>,
) {
    for (number, (invariant, plant)) in corruptions.iter().enumerate() {
        let mut memory = vec![MaybeUninit::uninit(); 2 << 20];
        let arena = Arena::new(&mut memory).expect("large enough");
        let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
        let cache = registry.cache("objects", Layout::new::<Object>());
        let cache = cache
            .hardening::<Hardened>()
            .keep_at_least(2)
            .magazine_bytes(3 << 10)
            .build()
            .expect("room");
        let objects: Vec<_> = (0..400).map(|_| cache.allocate().expect("room")).collect();
        let free = |index: usize| {
            // SAFETY: clauses 1 and 2: allocated above, freed once, and not used.
            unsafe { cache.free(objects[index]) };
        };
        (0..80).for_each(&free);
        (80..160).step_by(2).for_each(free);
        cache.shrink_all();
        // An allocation that misses ends the time after a shrink in which frees fill no magazine.
        cache.allocate().expect("room");
        (161..260).step_by(2).for_each(free);
        let loaded = || cache.magazines()[0].unwrap_or(0);
        (160..260).step_by(2).take_while(|_| loaded() < 3).for_each(free);
        let machine = Machine { arena: &arena, cache };
        machine.cache.validate_quiet().expect("consistent before");
        plant(&machine);
        let found = validate(&machine.cache).err().map(|violation| violation.invariant);
        assert_eq!(found, Some(*invariant), "corruption {number}");
        // The cache is damaged: dropping it would use the damaged parts.
        core::mem::forget(machine);
        core::mem::forget(registry);
    }
}

#[test]
fn each_wrong_slab_and_depot_is_found() {
    finds_each(SLABS, |cache| cache.validate());
}

#[test]
fn each_wrong_magazine_is_found() {
    finds_each(MAGAZINES, |cache| cache.validate_quiet());
}
