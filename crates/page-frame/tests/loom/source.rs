//! Models of lists that grow or shrink while others use them: shrinkers, and regions of memory.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use page_frame::sync::UnsafeCell;
use page_frame::{Order, PAGE_SIZE, PageSource, Regions, Shrink, ShrinkList};
use testkit::model;

use super::slots::OTHER;

/// The data that a shrinker reads during a call, and that its owner changes after it has
/// unregistered it.
struct Member(UnsafeCell<usize>);

// SAFETY: the model changes the cell only after `unregister` has returned `Ok`, which is what
// loom checks.
unsafe impl Send for Member {}
// SAFETY: as above.
unsafe impl Sync for Member {}

impl Shrink for Member {
    fn reclaimable(&self) -> usize {
        1
    }
    fn shrink(&self, _target_pages: usize) -> usize {
        // SAFETY: the list calls registered members only, which is what loom checks.
        self.0.with(|pages| unsafe { *pages })
    }
}

/// Mutations that it catches: the count decremented with Relaxed; `unregister` that ignores the
/// count; a call that counts itself after it has released the lock.
#[test]
fn calls_of_a_shrinker_against_unregister() {
    model("shrink list: calls against unregister", 8, || {
        let shared = Arc::new((ShrinkList::<1>::new(), Member(UnsafeCell::new(1))));
        let member: NonNull<dyn Shrink + '_> = NonNull::from(&shared.1 as &dyn Shrink);
        // SAFETY: clause 1: it lives as long as the list, which no call outlives. Clause 2: it
        // is the only one.
        unsafe { shared.0.register(member) }.expect("there is room for one");
        let theirs = Arc::clone(&shared);
        let caller = thread::spawn(move || theirs.0.shrink(1));
        while shared.0.unregister(member).is_err() {
            page_frame::sync::spin_hint();
        }
        // SAFETY: no call is inside and none begins, which is what loom checks.
        shared.1.0.with_mut(|pages| unsafe { *pages = 7 });
        let given = caller.join().expect("the caller does not panic");
        assert!(given <= 1, "a call after `unregister` would have seen the change");
    });
}

/// Two CPUs add a region each, while a third one allocates. Mutation: with a load and a store
/// in place of the exchange in `AppendList::append` a region is lost.
#[test]
fn regions_are_added_at_the_same_time() {
    model("regions", 100, || {
        let memory = Memory::new();
        let regions = Arc::new(Regions::new(OTHER));
        let adding = (0..2).map(|number| {
            let (regions, memory) = (Arc::clone(&regions), memory.part(number));
            thread::spawn(move || {
                // SAFETY: clause 1: a part for each thread, which outlives the model.
                unsafe { regions.add(memory.0, PART) }.expect("room for a page")
            })
        });
        let adding: Vec<_> = adding.collect();
        let block = regions.allocate(Order::ZERO).ok();
        let pages: usize = adding.into_iter().map(|one| one.join().expect("no panic")).sum();
        assert_eq!(regions.pages(), pages, "neither region is lost");
        assert_eq!(regions.free_pages(), pages - usize::from(block.is_some()));
        if let Some(block) = block {
            // SAFETY: clauses 1 and 2: the block came from `regions` and is not used.
            unsafe { regions.free(block) };
        }
    });
}

const PART: usize = 4 * PAGE_SIZE;

/// Memory of two regions.
struct Memory(NonNull<u8>);
struct Part(NonNull<u8>);
// SAFETY: each part goes to one thread.
unsafe impl Send for Part {}

impl Memory {
    const LAYOUT: Layout = match Layout::from_size_align(2 * PART, PAGE_SIZE) {
        Ok(layout) => layout,
        Err(_) => panic!("a multiple of the page size"),
    };

    fn new() -> Self {
        // SAFETY: the layout is not empty.
        Self(NonNull::new(unsafe { alloc(Self::LAYOUT) }).expect("room"))
    }

    fn part(&self, number: usize) -> Part {
        // SAFETY: one of two parts.
        Part(unsafe { self.0.add(number * PART) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: from `new`, and not used any more.
        unsafe { dealloc(self.0.as_ptr(), Self::LAYOUT) };
    }
}
