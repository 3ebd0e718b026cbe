//! A heap for users of `linked_list_allocator` and `talc`. Only the `use` line and the call of
//! `init` change:
//!
//! ```text
//! use linked_list_allocator::LockedHeap;          ->  use kmalloc::Heap;
//! static HEAP: LockedHeap = LockedHeap::empty();  ->  static HEAP: Heap = Heap::empty();
//! unsafe { HEAP.lock().init(start, size) };       ->  unsafe { HEAP.add_region(start, size) }?;
//! ```
//!
//! The heap gets more regions at any time. With the feature `critical-section` of `kmalloc` it is
//! correct in interrupts; a kernel with several CPUs names its machine: `Heap<MyCpu>`.

use std::alloc::{GlobalAlloc, Layout};

use hosted::Threads;
use kmalloc::{Heap, RegionError};

/// In a kernel this is the `#[global_allocator]`. A hosted program allocates before `main`, when no
/// region has been added; so here it is asked directly.
static HEAP: Heap<Threads> = Heap::empty();

fn layout(number: usize) -> Layout {
    Layout::from_size_align(1 + number * 7 % 900, 8).expect("a layout")
}

/// Allocates objects of many sizes until the heap is full.
fn fill(objects: &mut Vec<*mut u8>) {
    loop {
        // SAFETY: the layout is not empty.
        let object = unsafe { HEAP.alloc(layout(objects.len())) };
        if object.is_null() {
            break;
        }
        objects.push(object);
    }
    let used = HEAP.bytes() - HEAP.free_bytes();
    println!("{} objects: {} of {} KiB used", objects.len(), used >> 10, HEAP.bytes() >> 10);
}

fn main() -> Result<(), RegionError> {
    // The machine's memory: in a kernel, what the boot loader found.
    let [first, second] = [4 << 20, 8 << 20].map(|bytes| vec![0_u8; bytes].leak());
    let mut objects = Vec::new();
    // SAFETY: the memory is leaked, and no other code uses it.
    unsafe { HEAP.add_region(first.as_mut_ptr(), first.len()) }?;
    fill(&mut objects);
    let in_first = objects.len();
    // SAFETY: as above.
    unsafe { HEAP.add_region(second.as_mut_ptr(), second.len()) }?;
    fill(&mut objects);
    assert!(objects.len() > 2 * in_first, "the second region is larger");
    for (number, object) in objects.into_iter().enumerate() {
        // SAFETY: allocated above with this layout.
        unsafe { HEAP.dealloc(object, layout(number)) };
    }
    let released = HEAP.kmalloc().map_or(0, |kmalloc| kmalloc.shrink_all());
    println!("all freed: {released} pages returned, {} KiB free", HEAP.free_bytes() >> 10);
    Ok(())
}
