//! The memory of a value that may be pinned stays until its destructor has run.

use std::marker::PhantomPinned;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use page_frame::SingleCpu;
use slab::{Registry, Reset};

use crate::source::{HookedSource, static_arena};

/// A node that others may point to until it is dropped.
struct Node {
    value: AtomicU64,
    _pinned: PhantomPinned,
}

static DROPPED: AtomicUsize = AtomicUsize::new(0);

impl Default for Node {
    fn default() -> Self {
        Self { value: AtomicU64::new(7), _pinned: PhantomPinned }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

impl Reset for Node {
    fn reset(self: Pin<&mut Self>) {}
}

/// Runs `forget` with a value in use and its cache, then drops the registry; returns whether the
/// source was dropped, and the pages that did not come back to it.
fn pages_kept(
    forget: impl FnOnce(slab::ObjectCache<Node, (HookedSource<'static>, SingleCpu)>),
) -> (bool, usize) {
    let arena = static_arena();
    let pages = arena.free_pages();
    let source = HookedSource::new(arena);
    let dropped = source.dropped();
    let registry = Registry::new(source, SingleCpu::new()).expect("room");
    forget(registry.pinned_objects::<Node>("node").expect("room"));
    drop(registry);
    (dropped.load(Ordering::SeqCst), pages - arena.free_pages())
}

#[test]
fn a_forgotten_value_keeps_the_source_its_slab_and_its_content() {
    let before = DROPPED.load(Ordering::SeqCst);
    let mut address = std::ptr::null();
    let (dropped, kept) = pages_kept(|cache| {
        let mut node = cache.allocate().expect("room");
        address = &raw const *node.as_mut().as_ref();
        std::mem::forget(node);
        assert_eq!(cache.destroy().expect_err("the node is in use").objects, 1);
    });
    assert!(!dropped && kept > 0);
    // SAFETY: pinned and not dropped, so `Pin` promises that it is still there.
    assert_eq!(unsafe { &*address }.value.load(Ordering::SeqCst), 7);

    // The same if the cache is dropped or forgotten. Then a cache with no value forgotten.
    let (dropped, kept) = pages_kept(|cache| {
        std::mem::forget(cache.allocate().expect("room"));
        drop(cache);
    });
    assert!(!dropped && kept > 0);
    let (dropped, kept) = pages_kept(|cache| {
        drop(cache.allocate().expect("room"));
        std::mem::forget(cache);
    });
    assert!(!dropped && kept > 0);
    assert_eq!(DROPPED.load(Ordering::SeqCst), before, "no destructor has run");
    let (dropped, kept) = pages_kept(|cache| drop(cache.allocate().expect("room")));
    assert!(dropped && kept == 0);
    assert!(DROPPED.load(Ordering::SeqCst) > before);
}
