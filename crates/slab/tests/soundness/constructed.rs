//! Objects of a cache with a constructor are in constructed state whenever they are free.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;

use page_frame::SingleCpu;
use slab::linux::{kmem_cache_create, kmem_cache_zalloc};
use slab::{Registry, Reset};

use crate::source::with_arena;

struct Boxed(Box<u64>);

impl Default for Boxed {
    fn default() -> Self {
        Self(Box::new(42))
    }
}

impl Reset for Boxed {
    fn reset(self: Pin<&mut Self>) {}
}

#[test]
fn values_are_not_overwritten_with_zeros() {
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        let values = registry.objects::<Boxed>("boxed").expect("room");
        let per_slab = values.as_cache().geometry().capacity();
        for _ in 0..2 * per_slab {
            let zeroed = catch_unwind(AssertUnwindSafe(|| values.as_cache().allocate_zeroed()));
            assert!(zeroed.is_err(), "zeros are no value of the type");
        }
        let all: Vec<_> = (0..2 * per_slab).map(|_| values.allocate().expect("room")).collect();
        assert!(all.iter().all(|value| *value.0 == 42));
        drop(all);
        values.destroy().expect("nothing was taken by the attempts");
    });
}

#[test]
fn an_unchanged_object_is_in_constructed_state() {
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        let values = registry.objects::<Boxed>("boxed").expect("room");
        let raw = values.as_cache().allocate().expect("room");
        // SAFETY: clauses 1 and 2: allocated above, and not used. Clause 3: not changed since.
        unsafe { values.as_cache().free(raw) };
        assert_eq!(*values.allocate().expect("room").0, 42);
    });
}

#[test]
fn the_names_of_the_kernel_refuse_zeros_too() {
    unsafe fn construct(object: std::ptr::NonNull<u8>) {
        // SAFETY: memory of the cache's layout, the callee's.
        unsafe { object.write_bytes(0x5a, 64) };
    }
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        // SAFETY: the constructor writes 64 bytes to memory of 64 bytes.
        let cache = unsafe { kmem_cache_create(&registry, "constructed", 64, 8, Some(construct)) };
        let cache = cache.expect("room");
        assert!(catch_unwind(AssertUnwindSafe(|| kmem_cache_zalloc(&cache))).is_err());
        // SAFETY: no constructor.
        let plain = unsafe { kmem_cache_create(&registry, "plain", 64, 8, None) }.expect("room");
        let zeros = kmem_cache_zalloc(&plain).expect("room");
        // SAFETY: 64 bytes, ours, just written.
        assert_eq!(unsafe { zeros.cast::<[u8; 64]>().read() }, [0; 64]);
        // SAFETY: allocated above, and not used any more.
        unsafe { plain.free(zeros) };
    });
}
