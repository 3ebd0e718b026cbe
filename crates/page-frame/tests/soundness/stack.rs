//! The take-all stack: nodes live only until the iterator has returned them.

use std::ptr::NonNull;

use page_frame::sync::{Linked, TakeAll, UnsafeCell};

struct Node(u32, UnsafeCell<*mut Node>);

// SAFETY: clauses 1 and 2: always the same cell, and only the stack uses it.
unsafe impl Linked for Node {
    fn link(&self) -> &UnsafeCell<*mut Self> {
        &self.1
    }
}

/// Each node is freed as soon as it is returned, which clause 2 of `push` allows. AddressSanitizer
/// and Miri would report a link that is read later.
#[test]
fn a_node_may_be_freed_as_soon_as_it_is_returned() {
    let stack = TakeAll::new();
    for number in 0..3 {
        let node = Box::new(Node(number, UnsafeCell::new(std::ptr::null_mut())));
        let node = NonNull::new(Box::into_raw(node)).expect("a box is not null");
        // SAFETY: clause 1: a fresh node. Clause 2: freed below, after it was returned.
        unsafe { stack.push(node) };
    }
    let numbers = stack.take_all().map(|node| {
        // SAFETY: from `into_raw`, and returned, so the box is ours again.
        unsafe { Box::from_raw(node.as_ptr()) }.0
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [2, 1, 0]);
}
