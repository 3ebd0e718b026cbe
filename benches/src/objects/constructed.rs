//! The benefit of constructed state: objects that are reused as constructed, against objects that
//! are initialised each time.
//!
//! The object resembles a vnode of 488 bytes: a lock, a condition, eight list heads that point to
//! themselves, and a header of 256 bytes computed from a seed. A use takes the lock, writes two
//! fields, and restores the constructed state.

use std::alloc::Layout;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::measure::mean;
use crate::objects::allocator::{Objects, Ours};

const USES: usize = 500_000;

#[repr(C)]
struct Vnode {
    lock: AtomicU32,
    waiters: AtomicU32,
    lists: [[*mut u8; 2]; 8],
    header: [u64; 32],
    fields: [u64; 12],
}

const _: () = assert!(size_of::<Vnode>() == 488);

/// Returns the time of a use that initialises over that of one that finds constructed state.
pub fn ratio() -> f64 {
    initialised_ns() / kept_ns()
}

/// Returns the time of a use of an object that the cache keeps constructed, in nanoseconds.
///
/// # Panics
/// When there is no memory.
pub fn kept_ns() -> f64 {
    let ours = Ours::new(16 << 20, Layout::new::<Vnode>(), |builder| {
        // SAFETY: `construct` asks for memory of a vnode, which is the layout.
        unsafe { builder.constructor(construct) }
    });
    let (mean_ns, _) = mean(USES, |number| {
        let object = ours.allocate();
        // SAFETY: constructed, and ours.
        unsafe { use_once(object, number) };
        // SAFETY: as allocated, and in constructed state.
        unsafe { ours.free(object) };
    });
    mean_ns
}

/// Returns the time of a use of an object that is set up for it, in nanoseconds.
///
/// # Panics
/// When there is no memory.
pub fn initialised_ns() -> f64 {
    let ours = Ours::new(16 << 20, Layout::new::<Vnode>(), |builder| builder);
    let (mean_ns, _) = mean(USES, |number| {
        let object = ours.allocate();
        // SAFETY: of a vnode's layout, and ours.
        unsafe { construct(object) };
        // SAFETY: constructed above.
        unsafe { use_once(object, number) };
        // SAFETY: initialised just before.
        unsafe { check(object) };
        // SAFETY: as allocated, and not used any more.
        unsafe { ours.free(object) };
    });
    mean_ns
}

/// # Safety
/// 1. `object` is valid for writes of a `Vnode` and the callee's.
unsafe fn construct(object: NonNull<u8>) {
    let lists = object.as_ptr().wrapping_add(std::mem::offset_of!(Vnode, lists));
    let list = |index: usize| [lists.wrapping_add(16 * index); 2];
    let mut state = black_box(0x9e37_79b9_7f4a_7c15_u64);
    let header = std::array::from_fn(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state
    });
    let made = Vnode {
        lock: AtomicU32::new(0),
        waiters: AtomicU32::new(0),
        lists: std::array::from_fn(list),
        header,
        fields: [0; 12],
    };
    // SAFETY: clause 1: room for a vnode.
    unsafe { object.cast::<Vnode>().write(made) };
}

/// # Safety
/// 1. `object` is a constructed vnode and the callee's.
unsafe fn use_once(object: NonNull<u8>, number: usize) {
    // SAFETY: clause 1: the caller owns the object.
    let vnode = unsafe { object.cast::<Vnode>().as_mut() };
    // Relaxed: one thread.
    vnode.lock.store(1, Ordering::Relaxed);
    vnode.fields[0] = number as u64;
    vnode.fields[1] = black_box(vnode.header[number % 32]);
    vnode.lock.store(0, Ordering::Relaxed);
}

/// The destructor of such an object: checks that no waiter is left and that it is on no list.
///
/// # Safety
/// 1. `object` is a constructed vnode that the callee owns.
unsafe fn check(object: NonNull<u8>) {
    // SAFETY: clause 1: constructed, and nobody changes it meanwhile.
    let vnode = unsafe { object.cast::<Vnode>().as_ref() };
    // Relaxed: one thread.
    assert_eq!(vnode.waiters.load(Ordering::Relaxed), 0);
    assert!(vnode.lists.iter().all(|list| list[0] == list[1]));
}
