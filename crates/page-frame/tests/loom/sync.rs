//! Models of the take-all stack and of `Once`, and litmus tests of the functions that fix an order.

use std::ptr::NonNull;

use loom::sync::Arc;
use loom::thread;
use page_frame::Once;
use page_frame::sync::{Linked, SeqCstU8, SeqCstUsize, TakeAll, UnsafeCell, Zeroable};
use testkit::model;

struct Node {
    link: UnsafeCell<*mut Node>,
    payload: UnsafeCell<u32>,
}

// SAFETY: clause 1: always the same field.
unsafe impl Linked for Node {
    fn link(&self) -> &UnsafeCell<*mut Self> {
        &self.link
    }
}
// SAFETY: the models touch a node's cells only before the push and after the take; loom checks
// it.
unsafe impl Send for Node {}
// SAFETY: shared nodes are reached by the stack's protocol alone.
unsafe impl Sync for Node {}

fn node(payload: u32) -> Node {
    Node { link: UnsafeCell::new(std::ptr::null_mut()), payload: UnsafeCell::new(payload) }
}

/// Mutation seen to fail: the push's Release made Relaxed ("causality violation").
#[test]
fn pushes_against_take_all() {
    model("stack: pushes against take-all", 100, || {
        let shared = Arc::new((TakeAll::<Node>::new(), [node(1), node(2), node(4)]));
        let push = |shared: &(TakeAll<Node>, [Node; 3]), index: usize| {
            // SAFETY: the nodes live as long as the stack, and each is pushed once.
            unsafe { shared.0.push(NonNull::from(&shared.1[index])) };
        };
        let pushers = [0, 1].map(|index| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || push(&shared, index))
        });
        push(&shared, 2);
        let sum = || -> u32 {
            // SAFETY: a taken node is ours; its payload was written before the push.
            let payload =
                |node: NonNull<Node>| unsafe { node.as_ref() }.payload.with(|p| unsafe { *p });
            shared.0.take_all().map(payload).sum()
        };
        let early = sum();
        for pusher in pushers {
            pusher.join().expect("pushers do not panic");
        }
        assert_eq!(early + sum(), 7, "each node is taken exactly once");
    });
}

/// Two CPUs set a value, while a third one reads it. Mutation: with a Relaxed store of `FULL`
/// in `Once::set` the third reads a value that is being written.
#[test]
fn a_value_is_set_once() {
    model("once", 20, || {
        let once = Arc::new(Once::new());
        let setting = (0..2).map(|number| {
            let once = Arc::clone(&once);
            thread::spawn(move || once.set(UnsafeCell::new(number)).is_ok())
        });
        let setting: Vec<_> = setting.collect();
        // SAFETY: nobody writes the value after it is set, which is what loom checks.
        let read = |cell: &UnsafeCell<_>| cell.with(|value| unsafe { *value });
        let early = once.get().map(read);
        let set: Vec<_> = setting.into_iter().map(|one| one.join().expect("no panic")).collect();
        let value = once.get().map(read).expect("one of them has set it");
        assert_eq!(set, [value == 0, value == 1]);
        assert!(early.is_none_or(|early| early == value));
    });
}

/// A thread writes a cell and then changes `A` by `change`; the other one reads the cell if
/// `sees` finds the change.
fn hands_over<A: Zeroable + Send + Sync + 'static>(change: fn(&A), sees: fn(&A) -> bool) {
    model("litmus: a cell is handed over", 2, move || {
        let shared = Arc::new((UnsafeCell::new(0), A::zero()));
        let theirs = Arc::clone(&shared);
        let writer = thread::spawn(move || {
            // SAFETY: the reader has not seen the change yet, which is what loom checks.
            theirs.0.with_mut(|cell| unsafe { *cell = 1 });
            change(&theirs.1);
        });
        if sees(&shared.1) {
            // SAFETY: the writer changes the cell no more, which is what loom checks.
            assert_eq!(shared.0.with(|cell| unsafe { *cell }), 1);
        }
        writer.join().expect("no panic");
    });
}

/// The litmus test for each change of a word, against each access that sees it. Mutations seen
/// to fail: each access of `SeqCstUsize` made Relaxed ("causality violation").
#[test]
fn each_change_of_a_word_hands_over() {
    let changes: [fn(&SeqCstUsize); 4] = [
        |word| _ = word.set_bits(6),
        |word| _ = word.swap(6),
        |word| _ = word.exchange(0, 6),
        |word| {
            word.store_unpublished(14);
            _ = word.clear_bits(8);
        },
    ];
    let seers: [fn(&SeqCstUsize) -> bool; 5] = [
        |word| word.load() == 6,
        |word| word.set_bits(16) == 6,
        |word| word.clear_bits(16) == 6,
        |word| word.swap(6) == 6,
        |word| word.exchange(6, 7).is_ok(),
    ];
    for change in changes {
        seers.into_iter().for_each(|sees| hands_over(change, sees));
    }
}

/// The same for a byte. Mutations seen to fail: each access of `SeqCstU8` made Relaxed
/// ("causality violation").
#[test]
fn each_change_of_a_byte_hands_over() {
    let changes: [fn(&SeqCstU8); 3] =
        [|byte| byte.store(6), |byte| byte.release(6), |byte| _ = byte.exchange(0, 6)];
    let seers: [fn(&SeqCstU8) -> bool; 2] =
        [|byte| byte.load() == 6, |byte| byte.exchange(6, 7).is_ok()];
    for change in changes {
        seers.into_iter().for_each(|sees| hands_over(change, sees));
    }
}
