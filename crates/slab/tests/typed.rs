//! Typed caches: values are constructed once, reset after each use, and dropped when their slabs
//! are released.
#![cfg(not(loom))]

use std::cell::Cell;
use std::marker::PhantomPinned;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use hosted::Threads;
use page_frame::{Arena, SingleCpu};
use slab::{Registry, Reset};

mod common;

const BYTES: usize = 1 << 20;

thread_local! {
    static CONSTRUCTED: Cell<usize> = const { Cell::new(0) };
    static DROPPED: Cell<usize> = const { Cell::new(0) };
}

fn count(counter: &'static std::thread::LocalKey<Cell<usize>>) {
    counter.with(|count| count.set(count.get() + 1));
}

/// Knows its own address, as a list head does; panics in `reset` on demand.
struct Pinned {
    own: *const Self,
    uses: usize,
    panics: bool,
    _pinned: PhantomPinned,
}

// SAFETY: the pointer is only compared.
unsafe impl Send for Pinned {}

impl Default for Pinned {
    fn default() -> Self {
        count(&CONSTRUCTED);
        Self { own: std::ptr::null(), uses: 0, panics: false, _pinned: PhantomPinned }
    }
}

impl Pinned {
    fn touch(self: Pin<&mut Self>) {
        // SAFETY: nothing is moved out.
        let this = unsafe { self.get_unchecked_mut() };
        let here: *const Self = this;
        assert!(this.own.is_null() || this.own == here, "a value never moves");
        this.own = here;
        this.uses += 1;
    }

    fn panic_next(self: Pin<&mut Self>) {
        // SAFETY: nothing is moved out.
        unsafe { self.get_unchecked_mut() }.panics = true;
    }
}

impl Reset for Pinned {
    fn reset(self: Pin<&mut Self>) {
        assert!(!self.panics, "on demand");
        // SAFETY: nothing is moved out.
        unsafe { self.get_unchecked_mut() }.uses = 0;
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        count(&DROPPED);
    }
}

/// Returns an arena that is never dropped, as pinned values require.
fn static_arena() -> &'static Arena<'static> {
    let memory = Vec::leak(vec![MaybeUninit::uninit(); BYTES]);
    Box::leak(Box::new(Arena::new(memory).expect("large enough")))
}

#[test]
fn values_are_constructed_once_reset_each_time_and_dropped_at_the_end() {
    let arena = static_arena();
    let pages = arena.free_pages();
    let registry = Registry::new(arena, SingleCpu::new()).expect("room");
    let values = registry.pinned_objects::<Pinned>("pinned").expect("room");
    let in_a_slab = values.as_cache().geometry().capacity();
    for _ in 0..5 {
        let mut used: Vec<_> = (0..10).map(|_| values.allocate().expect("room")).collect();
        for value in &mut used {
            assert_eq!(value.uses, 0, "reset");
            value.as_mut().touch();
        }
    }
    assert_eq!((CONSTRUCTED.get(), DROPPED.get()), (in_a_slab, 0));
    values.destroy().expect("nothing is in use");
    assert_eq!(DROPPED.get(), in_a_slab);
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
}

#[test]
fn a_panicking_reset_keeps_the_value_from_the_next_user() {
    let arena = static_arena();
    let registry = Registry::new(arena, SingleCpu::new()).expect("room");
    let values = registry.pinned_objects::<Pinned>("pinned").expect("room");
    let mut spoilt = values.allocate().expect("room");
    spoilt.as_mut().panic_next();
    let address = std::ptr::from_ref(&*spoilt);
    catch_unwind(AssertUnwindSafe(|| drop(spoilt))).expect_err("reset panics");
    let others: Vec<_> = (0..100).map(|_| values.allocate().expect("room")).collect();
    assert!(others.iter().all(|other| std::ptr::from_ref(&**other) != address));
    drop(others);
    assert_eq!(values.destroy().expect_err("the spoilt one is in use").objects, 1);
    registry.validate().expect("consistent");
}

/// A buffer that threads send to one another.
#[derive(Default)]
struct Buffer(Vec<u64>);

static LIVE_BUFFERS: AtomicUsize = AtomicUsize::new(0);

impl Reset for Buffer {
    fn reset(mut self: Pin<&mut Self>) {
        self.0.clear();
        LIVE_BUFFERS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn values_travel_between_threads() {
    let pages = common::OurBuddy::new(1024, Threads);
    let registry = Registry::new(&pages.buddy, Threads).expect("room");
    let buffers = registry.objects::<Buffer>("buffer").expect("room");
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(16);
        let buffers = &buffers;
        scope.spawn(move || {
            for number in 0..5_000_u64 {
                let mut buffer = buffers.allocate().expect("room");
                LIVE_BUFFERS.fetch_add(1, Ordering::Relaxed);
                assert!(buffer.0.is_empty(), "reset");
                buffer.0.extend([number; 3]);
                sender.send((number, buffer)).expect("somebody listens");
            }
        });
        for (number, buffer) in receiver {
            assert_eq!(buffer.0, [number; 3]);
        }
    });
    assert_eq!(LIVE_BUFFERS.load(Ordering::Relaxed), 0);
    registry.validate().expect("consistent");
    buffers.destroy().expect("nothing is in use");
}
