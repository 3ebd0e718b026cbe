//! Models of the free word: frees from other CPUs against the holder of the slab set's lock.
//!
//! A slab is **known** to the slab set if it is in a list of slabs with free objects, or on the
//! pending stack.

use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use page_frame::sync::{Linked, TakeAll, UnsafeCell};
use slab::internals::{FreeWord, Popped, Pushed};
use testkit::model;

const OBJECTS: usize = 2;

/// The parts of a slab that the protocol uses: the free word, the links, the content of the
/// objects, and the link of the pending stack.
struct Slab {
    word: FreeWord,
    links: [UnsafeCell<usize>; OBJECTS],
    content: [UnsafeCell<u32>; OBJECTS],
    pending: UnsafeCell<*mut Slab>,
}

// SAFETY: clause 1: always the same field.
unsafe impl Linked for Slab {
    fn link(&self) -> &UnsafeCell<*mut Self> {
        &self.pending
    }
}
// SAFETY: the protocol orders all access to the cells; loom checks it.
unsafe impl Send for Slab {}
// SAFETY: the same protocol hands each cell from thread to thread.
unsafe impl Sync for Slab {}

struct World {
    slab: Slab,
    stack: TakeAll<Slab>,
}

/// Returns a full slab: every object is taken, and the slab is not known to the set.
fn full() -> Arc<World> {
    let slab = Slab {
        word: FreeWord::new(0, OBJECTS),
        links: [UnsafeCell::new(1), UnsafeCell::new(0)],
        content: [UnsafeCell::new(0), UnsafeCell::new(0)],
        pending: UnsafeCell::new(std::ptr::null_mut()),
    };
    let world = World { slab, stack: TakeAll::new() };
    assert_eq!(world.pop(), Some(Popped { index: 0, is_last: false }));
    assert_eq!(world.pop(), Some(Popped { index: 1, is_last: true }));
    Arc::new(world)
}

impl World {
    /// Writes to the object as its owner, then frees it.
    fn free(&self, index: usize) {
        // SAFETY: the caller owns the object until the push; loom checks it.
        self.slab.content[index].with_mut(|content| unsafe { *content += 1 });
        let link = |next: usize| {
            // SAFETY: only the pusher uses the link until its exchange succeeds; loom checks it.
            self.slab.links[index].with_mut(|link| unsafe { *link = next });
        };
        if self.slab.word.push(index, link) == Pushed::First {
            // SAFETY: the slab outlives the stack, and `First` is returned to only one push.
            unsafe { self.stack.push(NonNull::from(&self.slab)) };
        }
    }

    /// Pops as the holder of the set lock, and writes to the object as its new owner.
    fn pop(&self) -> Option<Popped> {
        let next = |index: usize| {
            // SAFETY: the push that made this the head has published the link.
            self.slab.links[index].with(|link| unsafe { *link })
        };
        let popped = self.slab.word.pop(next)?;
        // SAFETY: the caller owns the object now; loom checks it.
        self.slab.content[popped.index].with_mut(|content| unsafe { *content += 1 });
        Some(popped)
    }

    /// Takes the pending slabs as the holder of the set lock. Returns how often the slab was among
    /// them.
    fn take_pending(&self) -> usize {
        self.stack.take_all().count()
    }
}

/// Two CPUs free the objects of a full slab: the slab becomes known once, and both objects are
/// free. Mutation seen to fail: `push` returning `First` always (the slab is pending twice).
#[test]
fn a_full_slab_becomes_known_exactly_once() {
    model("slab: two frees of a full slab", 6, || {
        let world = full();
        let theirs = Arc::clone(&world);
        let other = thread::spawn(move || theirs.free(0));
        world.free(1);
        other.join().expect("no panic");
        assert_eq!(world.take_pending(), 1);
        assert_eq!(world.slab.word.load().free, OBJECTS);
        assert!(world.pop().is_some() && world.pop().is_some() && world.pop().is_none());
    });
}

/// Frees against refills: no object is allocated twice, no object is lost, and a slab with free
/// objects is known. Mutations that it catches: the push's Release made Relaxed ("causality
/// violation"); `pop` keeping `known` when it takes the last object (the slab is lost).
#[test]
fn frees_against_refill() {
    model("slab: free, free, refill", 20, || {
        let world = full();
        let theirs = Arc::clone(&world);
        let other = thread::spawn(move || theirs.free(0));
        world.free(1);
        // This thread holds the set lock from here on.
        let mut listed = world.take_pending() > 0;
        let popped = if listed { world.pop() } else { None };
        listed &= !popped.is_some_and(|popped| popped.is_last);
        other.join().expect("no panic");
        let free = world.slab.word.load().free;
        assert_eq!(free + usize::from(popped.is_some()), OBJECTS, "no object is lost");
        assert_eq!(usize::from(listed) + world.take_pending(), 1, "in sight, exactly once");
    });
}

/// A refill takes all free objects in one exchange while another CPU frees: the chain has no gap,
/// and no object is lost. Mutation seen to fail: the pop's loads made Relaxed ("causality
/// violation").
#[test]
fn a_chain_is_taken_against_a_free() {
    model("slab: chain against free", 10, || {
        let world = full();
        let theirs = Arc::clone(&world);
        let other = thread::spawn(move || theirs.free(0));
        world.free(1);
        // This thread holds the set lock from here on.
        let next = |index: usize| {
            // SAFETY: the push that made this reachable has published the link.
            world.slab.links[index].with(|link| unsafe { *link })
        };
        let mut taken = 0;
        if world.take_pending() > 0 {
            let chain = world
                .slab
                .word
                .pop_chain(OBJECTS, next, |_, _| ())
                .expect("what is pending has some");
            let mut index = chain.head;
            for left in (0..chain.count).rev() {
                // SAFETY: the object is ours now; loom checks it.
                world.slab.content[index].with_mut(|content| unsafe { *content += 1 });
                taken += 1;
                if left > 0 {
                    index = next(index);
                }
            }
        }
        other.join().expect("no panic");
        assert_eq!(taken + world.slab.word.load().free, OBJECTS, "no object is lost");
    });
}

/// The lock holder releases the slab if it has taken the slab from the pending stack and all
/// objects are free. No other code uses the slab afterwards. Mutation seen to fail: a release
/// without having taken the slab from the pending stack ("concurrent" accesses).
#[test]
fn release_comes_after_the_last_pusher() {
    model("slab: release against late push", 10, || {
        let world = full();
        let theirs = Arc::clone(&world);
        let other = thread::spawn(move || theirs.free(0));
        world.free(1);
        // This thread holds the set lock from here on.
        let in_sight = world.take_pending() == 1;
        if in_sight && world.slab.word.load().free == OBJECTS {
            // The pages are released: any later access to the slab would race with these writes.
            let wipe = |cell: &UnsafeCell<usize>| {
                cell.with_mut(|link| {
                    // SAFETY: no other code is left; loom checks it.
                    unsafe { *link = usize::MAX }
                })
            };
            world.slab.links.iter().for_each(wipe);
            world.slab.pending.with_mut(|link| {
                // SAFETY: the last pusher is done, as the assertion above says.
                unsafe { *link = std::ptr::null_mut() }
            });
        }
        other.join().expect("no panic");
    });
}

/// The holder of the lock finds a broken link and forgets the free objects, while another CPU frees
/// one. Its push came before, and the object is forgotten too, or it came after: then it gets
/// `First`, and makes the slab pending once.
///
/// Mutation that it catches: `forget_all` that leaves the slab known (the object freed later is
/// never found).
#[test]
fn forgetting_all_objects_against_a_free() {
    model("slab: forget all against a free", 5, || {
        let slab = Slab {
            word: FreeWord::new(0, 1),
            links: [UnsafeCell::new(0), UnsafeCell::new(0)],
            content: [UnsafeCell::new(0), UnsafeCell::new(0)],
            pending: UnsafeCell::new(std::ptr::null_mut()),
        };
        let world = Arc::new(World { slab, stack: TakeAll::new() });
        let other = Arc::clone(&world);
        let free = thread::spawn(move || other.free(1));
        world.slab.word.forget_all();
        free.join().expect("no panic");
        let (seen, pending) = (world.slab.word.load(), world.stack.take_all().count());
        assert_eq!((seen.is_known, pending), (seen.free == 1, seen.free));
        assert_eq!(world.pop(), (seen.free == 1).then_some(Popped { index: 1, is_last: true }));
    });
}
