//! Constructors, destructors and page sources that use the cache that calls them, or panic.
#![cfg(not(loom))]

mod common;

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use common::CallingBack;
use page_frame::{Arena, CpuId, Order, PAGE_SIZE, SingleCpu, SwitchedCpu};
use slab::{Cache, Registry};

const PAGES: usize = 300;

fn arena(memory: &mut Vec<MaybeUninit<u8>>) -> Arena<'_> {
    memory.resize(PAGES * PAGE_SIZE, MaybeUninit::uninit());
    Arena::new(memory).expect("large enough")
}

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
    static PANIC_AT: Cell<usize> = const { Cell::new(usize::MAX) };
    static DESTROYED: Cell<usize> = const { Cell::new(0) };
    /// A cache that a constructor allocates from, as a pointer to the handle on the test's stack.
    static INNER: Cell<Option<NonNull<Inner>>> = const { Cell::new(None) };
}

type Inner = Cache<(NonNullArena, SingleCpu)>;
type NonNullArena = &'static Arena<'static>;

unsafe fn count_and_panic(_: NonNull<u8>) {
    CALLS.set(CALLS.get() + 1);
    assert!(CALLS.get() != PANIC_AT.get(), "the constructor was told to panic");
}

unsafe fn count_destroyed(_: NonNull<u8>) {
    DESTROYED.set(DESTROYED.get() + 1);
}

#[test]
fn objects_keep_their_constructed_state_and_are_constructed_once() {
    let mut memory = Vec::new();
    let arena = arena(&mut memory);
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    let layout = Layout::new::<[u64; 12]>();
    // SAFETY: the hooks only count.
    let builder = unsafe { registry.cache("counted", layout).constructor(count_and_panic) };
    // SAFETY: counting is sound for any object.
    let cache = unsafe { builder.destructor(count_destroyed) }.build().expect("room");
    let per_slab = cache.geometry().capacity();
    for _ in 0..5 * per_slab {
        let object = cache.allocate().expect("room");
        // SAFETY: constructed again as far as the test looks.
        unsafe { cache.free(object) };
    }
    assert_eq!((CALLS.get(), DESTROYED.get()), (per_slab, 0), "one slab, constructed once");
    cache.destroy().expect("nothing is in use");
    assert_eq!(DESTROYED.get(), per_slab);
}

#[test]
fn a_panic_in_a_constructor_destroys_the_constructed_objects_and_frees_the_slab() {
    let mut memory = Vec::new();
    let arena = arena(&mut memory);
    let registry = Registry::new(&arena, SingleCpu::new()).expect("room");
    let layout = Layout::new::<[u64; 12]>();
    // SAFETY: the hooks only count.
    let builder = unsafe { registry.cache("panicking", layout).constructor(count_and_panic) };
    // SAFETY: counting is sound for any constructed object.
    let cache = unsafe { builder.destructor(count_destroyed) }.build().expect("room");
    let free = arena.free_pages();
    PANIC_AT.set(7);
    assert!(catch_unwind(AssertUnwindSafe(|| cache.allocate())).is_err());
    assert_eq!(DESTROYED.get(), 6, "the six before the one that panicked");
    assert_eq!(arena.free_pages(), free);
    registry.validate().expect("consistent");
    let object = cache.allocate().expect("the next time the constructor does not panic");
    // SAFETY: the only object, not used any more.
    unsafe { cache.free(object) };
}

unsafe fn allocate_inside(object: NonNull<u8>) {
    let inner = INNER.get().expect("the test has set it");
    // SAFETY: the test keeps the cache alive while constructors run.
    let inner = unsafe { inner.as_ref() };
    let part = inner.allocate().expect("room");
    // SAFETY: an object of 16 bytes, aligned to eight.
    unsafe { object.cast::<NonNull<u8>>().write(part) };
}

unsafe fn free_inside(object: NonNull<u8>) {
    let inner = INNER.get().expect("the test has set it");
    // SAFETY: constructed, so its words are written, and ours.
    let inner = unsafe { inner.as_ref() };
    // SAFETY: written by the constructor.
    let part = unsafe { object.cast::<NonNull<u8>>().read() };
    // SAFETY: the constructor allocated it there, for this object.
    unsafe { inner.free(part) };
}

#[test]
fn constructors_may_allocate_and_destructors_free() {
    let memory: &'static mut [MaybeUninit<u8>] =
        Vec::leak(vec![MaybeUninit::uninit(); PAGES * PAGE_SIZE]);
    let arena: &'static Arena<'static> =
        Box::leak(Box::new(Arena::new(memory).expect("large enough")));
    let free = arena.free_pages();
    {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        let inner = registry.cache("inner", Layout::new::<[u8; 700]>()).build().expect("room");
        INNER.set(Some(NonNull::from(&inner)));
        let layout = Layout::new::<[u64; 2]>();
        // SAFETY: the hooks use the inner cache, which outlives this one.
        let builder = unsafe { registry.cache("outer", layout).constructor(allocate_inside) };
        // SAFETY: the destructor frees what the constructor allocated, inside, where both still
        // are.
        let outer = unsafe { builder.destructor(free_inside) }.build().expect("room");
        let object = outer.allocate().expect("room");
        assert!(inner.stats().objects_active >= outer.geometry().capacity());
        // SAFETY: from the outer cache, whose destructor frees the inner one.
        unsafe { outer.free(object) };
        outer.destroy().expect("nothing is in use");
        inner.destroy().expect("the destructors freed everything");
    }
    assert_eq!(arena.free_pages(), free);
}

/// At each call of the page source a callback allocates and frees in the same cache, as an
/// interrupt might.
#[test]
fn nothing_is_held_while_the_page_source_is_called() {
    let mut memory = Vec::new();
    let arena = arena(&mut memory);
    let free = arena.free_pages();
    let cpus = SwitchedCpu::new(2);
    let source = CallingBack { source: &arena, called: RefCell::new(None) };
    {
        let registry = Registry::new(&source, &cpus).expect("room");
        let layout = Layout::new::<[u64; 60]>();
        let order = Order::ZERO;
        let cache = registry.cache("nested", layout).max_order(order).build().expect("room");
        let nested = RefCell::new(Vec::new());
        let interrupts = Cell::new(0);
        let cache = &cache;
        let (nested_ref, interrupts_ref) = (&nested, &interrupts);
        let interrupt = move || {
            interrupts_ref.set(interrupts_ref.get() + 1);
            let mut held = nested_ref.borrow_mut();
            if held.len() > 30 {
                for object in held.drain(..) {
                    // SAFETY: the callback allocated it, and removes it from its list.
                    unsafe { cache.free(object) };
                }
            }
            held.extend(cache.allocate().ok());
        };
        // The closure borrows from this scope, and is taken out again at its end.
        let interrupt: Box<dyn FnMut()> = Box::new(interrupt);
        // SAFETY: only the lifetime changes; see above.
        let interrupt: Box<dyn FnMut()> = unsafe { std::mem::transmute(interrupt) };
        *source.called.borrow_mut() = Some(interrupt);
        let mut random = testkit::Random::new(5);
        for round in 0..400 {
            let mut switch = || cpus.switch_to(Some(CpuId::new(random.below(2) as u32)));
            let mut live = Vec::new();
            for _ in 0..round {
                switch();
                live.extend(cache.allocate().ok());
            }
            for object in live {
                switch();
                // SAFETY: one of this round's.
                unsafe { cache.free(object) };
            }
            cache.shrink_all();
            cache.validate().expect("consistent");
        }
        registry.validate().expect("consistent");
        *source.called.borrow_mut() = None;
        for object in nested.into_inner() {
            // SAFETY: the callback allocated it, and runs no more.
            unsafe { cache.free(object) };
        }
        assert!(interrupts.get() > 500, "{} interrupts", interrupts.get());
        registry.validate().expect("consistent");
    }
    assert_eq!(arena.free_pages(), free);
}
