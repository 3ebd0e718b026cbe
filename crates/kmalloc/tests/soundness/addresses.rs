//! Safe functions accept any address, also while another thread frees the memory there.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use hosted::Threads;
use kmalloc::{ClassIndex, Kmalloc, LARGEST};
use page_frame::{Arena, PAGE_SIZE};
use slab::{Debugging, Registry};
use testkit::steps;

#[test]
fn the_size_at_an_address_that_is_freed_meanwhile_is_that_of_a_class_or_a_run() {
    let mut memory = vec![MaybeUninit::uninit(); 8 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let kmalloc = Kmalloc::new(Registry::new(&arena, Threads).expect("room"));
    let (address, stop) = (AtomicPtr::new(std::ptr::dangling_mut::<u8>()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let start = NonNull::new(address.load(Ordering::Relaxed)).expect("never null");
                let bytes = kmalloc.ksize(start);
                let is_class = ClassIndex::all().any(|class| class.size() == bytes);
                let is_run = bytes % PAGE_SIZE == 0 && bytes <= 8 << 20;
                assert!(is_class || is_run, "{bytes} bytes");
            }
        });
        for round in 0..steps(20_000) {
            let bytes = [20, 300, 3000, LARGEST + 1, 100_000][round % 5];
            let layout = Layout::from_size_align(bytes, 8).expect("a layout");
            let start = kmalloc.allocate(layout).expect("room");
            address.store(start.as_ptr(), Ordering::Relaxed);
            // SAFETY: allocated above, and not used any more.
            unsafe { kmalloc.free(start) };
            if round % 64 == 0 {
                kmalloc.shrink_all();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    kmalloc.validate().expect("consistent");
}

/// The same under a preset that records the requested size beside each object.
#[test]
fn sizes_and_checks_of_objects_that_others_resize_and_free_are_of_the_class_or_of_a_request() {
    let mut memory = vec![MaybeUninit::uninit(); 8 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::new(&arena, Threads).expect("room");
    let kmalloc = Kmalloc::<_, Debugging>::with_hardening(registry);
    let (address, stop) = (AtomicPtr::new(std::ptr::dangling_mut::<u8>()), AtomicBool::new(false));
    let is_known = |bytes: usize| {
        let is_class = ClassIndex::all().any(|class| class.size() == bytes);
        is_class || (97..=112).contains(&bytes) || (290..=300).contains(&bytes)
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let start = NonNull::new(address.load(Ordering::Relaxed)).expect("never null");
                let bytes = kmalloc.usable_size(start);
                assert!(bytes.is_none_or(is_known), "{bytes:?} bytes");
                let checked = kmalloc.check(start);
                assert!(checked.is_err() || checked.is_ok_and(is_known));
            }
        });
        for round in 0..steps(20_000) {
            let (bytes, others) = if round % 2 == 0 { (100, 97..113) } else { (300, 290..301) };
            let mut start = kmalloc.kmalloc(bytes).expect("room");
            address.store(start.as_ptr(), Ordering::Relaxed);
            for new_bytes in others.step_by(5) {
                // SAFETY: allocated above; the address that it returns is used from now on.
                start = unsafe { kmalloc.krealloc(Some(start), new_bytes) }.expect("room");
            }
            // SAFETY: allocated above, and not used any more.
            unsafe { kmalloc.free(start) };
            if round % 64 == 0 {
                kmalloc.shrink_all();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    kmalloc.validate().expect("consistent");
}

#[test]
#[should_panic = "a magazine holds something"]
fn magazines_of_no_bytes_are_refused_before_the_first_request() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let _ = Kmalloc::new(Registry::new(&arena, Threads).expect("room")).with_magazine_bytes(0);
}
