//! The parts of `sync` that are no protocol: values that are set once, counters, and the defaults.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use page_frame::Once;
use page_frame::sync::{
    AppendList, AppendNode, AtomicPtr, AtomicUsize, Linked, Lock, ShardedCounter, TakeAll,
    UnsafeCell, Zeroable,
};

/// Mutation that it catches: `Drop` of `Once` without the drop of the value, or with one of a value
/// that was never set.
#[test]
fn a_value_is_set_once_and_dropped_once() {
    let value = Arc::new(());
    let once = Once::default();
    assert!(once.get().is_none());
    drop(Once::<Arc<()>>::new());
    assert!(Arc::ptr_eq(once.set(value.clone()).expect("empty"), &value));
    let refused = once.set(Arc::new(())).expect_err("set already");
    assert!(!Arc::ptr_eq(&refused, &value), "the caller gets its own value back");
    assert!(once.get().is_some_and(|kept| Arc::ptr_eq(kept, &value)));
    assert_eq!(Arc::strong_count(&value), 2);
    drop(once);
    assert_eq!(Arc::strong_count(&value), 1);
}

/// Mutation that it catches: `Once::set` that stores before it has changed the state (two threads
/// succeed).
#[test]
fn of_racing_threads_one_sets_the_value_and_all_see_it() {
    for _ in 0..50 {
        let once = Once::new();
        let winners: usize = thread::scope(|scope| {
            let set = |number: usize| {
                let once = &once;
                scope.spawn(move || usize::from(once.set(number).is_ok()))
            };
            let threads = [0, 1, 2].map(set);
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(winners, 1);
        assert!(once.get().is_some_and(|number| *number < 3));
    }
}

/// Mutation that it catches: `add` without `% SHARDS` (a panic), or `sum` of the first shard alone.
#[test]
fn a_sharded_counter_sums_all_shards() {
    let counter = ShardedCounter::<4>::default();
    for cpu in 0..9 {
        counter.add(cpu, 10);
        counter.add(cpu + 1, -1);
    }
    assert_eq!(counter.sum(), 9 * 9);
}

#[test]
fn zero_is_null_and_an_array_of_zeros() {
    assert!(AtomicPtr::<u8>::zero().load(Ordering::Relaxed).is_null());
    let words = <[AtomicUsize; 3]>::zero();
    assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    assert_eq!(UnsafeCell::new(7).into_inner(), 7);
}

struct Node(UnsafeCell<*mut Node>);

// SAFETY: clauses 1 and 2: always the same cell, and only the stack uses it.
unsafe impl Linked for Node {
    fn link(&self) -> &UnsafeCell<*mut Self> {
        &self.0
    }
}

/// Mutation that it catches: `AppendList::append` that puts a value in front of the others.
#[test]
fn lists_and_stacks_begin_empty_and_keep_their_orders() {
    let list = AppendList::default();
    let mut places = [const { std::mem::MaybeUninit::<AppendNode<u8>>::uninit() }; 2];
    for (number, place) in places.iter_mut().enumerate() {
        // SAFETY: the places outlive the list's last use below, and nothing else uses them.
        unsafe { list.append(NonNull::from(place).cast(), number as u8) };
    }
    assert_eq!(format!("{list:?}"), "[0, 1]");
    let stack = TakeAll::<Node>::default();
    assert!(stack.is_empty());
    let mut node = Node(UnsafeCell::new(std::ptr::null_mut()));
    // SAFETY: the node lives to the end of the test, and is pushed once.
    unsafe { stack.push(NonNull::from(&mut node)) };
    assert_eq!((stack.is_empty(), stack.take_all().count()), (false, 1));
    assert!(stack.is_empty());
}

/// A thread that finds the lock held waits until it is free.
///
/// Mutation that it catches: `Mutex::lock` that returns a guard after a failed exchange.
#[test]
fn a_thread_waits_for_a_held_lock() {
    let (lock, is_waiting) = (Lock::new(Cell::new(1)), AtomicBool::new(false));
    thread::scope(|scope| {
        let held = lock.lock();
        let waits = scope.spawn(|| {
            is_waiting.store(true, Ordering::SeqCst);
            lock.lock().get()
        });
        while !is_waiting.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_millis(20));
        assert!(lock.try_lock().is_none());
        held.set(2);
        drop(held);
        assert_eq!(waits.join().expect("no panic"), 2);
    });
    assert!(lock.try_lock().is_some());
}
