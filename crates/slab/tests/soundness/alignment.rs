//! References to values are aligned, whatever the line size and the alignment are.

use std::pin::Pin;

use page_frame::SingleCpu;
use slab::{BuildError, GeometryError, Registry, Reset};

use crate::source::with_arena;

macro_rules! aligned {
    ($name:ident, $alignment:literal, $words:literal) => {
        #[expect(dead_code, reason = "its place alone matters")]
        #[derive(Debug)]
        #[repr(align($alignment))]
        struct $name([u64; $words]);

        impl Default for $name {
            fn default() -> Self {
                Self([0; $words])
            }
        }

        impl Reset for $name {
            fn reset(self: Pin<&mut Self>) {}
        }
    };
}

aligned!(Aligned32, 32, 20);
aligned!(Aligned128, 128, 40);
aligned!(Aligned2Mib, 2_097_152, 1);
aligned!(Aligned64Kib, 65_536, 1);

fn check<T: Default + Reset + Unpin + Send + 'static>(line: usize) {
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        let values = registry.cache("aligned", std::alloc::Layout::new::<()>()).line_bytes(line);
        let values = values.objects::<T>().expect("a slab");
        let all: Vec<_> = (0..60).map_while(|_| values.allocate().ok()).collect();
        let is_aligned = |value: &&T| std::ptr::from_ref(*value).is_aligned();
        let count = all.iter().map(|value| &**value).filter(is_aligned).count();
        assert_eq!(count, all.len(), "line of {line} bytes");
        drop(all);
        registry.validate().expect("consistent");
    });
}

#[test]
fn values_are_aligned_for_every_line_size() {
    for line in [1, 3, 24, 33, 48, 63, 64, 65, 96, 1000, 4096, 1 << 40, usize::MAX] {
        check::<Aligned32>(line);
        check::<Aligned128>(line);
        check::<Aligned64Kib>(line);
    }
}

#[test]
fn lines_of_every_size_align_objects_to_lines() {
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        for line in [1, 24, 33, 48, 100, 1 << 40, (1 << 63) + 1, usize::MAX] {
            let layout = std::alloc::Layout::new::<[u64; 20]>();
            let builder = registry.cache("lines", layout).line_bytes(line).line_aligned();
            let expected = line.checked_next_power_of_two().map_or(256, |line| line.min(256));
            let cache = builder.build().expect("a slab");
            let objects: Vec<_> = (0..50).map(|_| cache.allocate().expect("room")).collect();
            let bad = objects.iter().find(|object| object.addr().get() % expected != 0);
            assert_eq!(bad, None, "line of {line} bytes");
            // SAFETY: allocated above, not used any more, and without a constructor any content
            // will do.
            unsafe { cache.free_many(&objects) };
        }
    });
}

#[test]
fn alignments_beyond_a_block_and_types_without_size_are_errors() {
    #[derive(Debug, Default)]
    struct Nothing;
    impl Reset for Nothing {
        fn reset(self: Pin<&mut Self>) {}
    }
    with_arena(|arena| {
        let registry = Registry::new(arena, SingleCpu::new()).expect("room");
        let error = registry.objects::<Nothing>("nothing").expect_err("no size");
        assert_eq!(error, BuildError::Geometry(GeometryError::ZeroSize));
        // An arena of 1 MiB has no such block, which is found when a value is wanted.
        let huge = registry.objects::<Aligned2Mib>("huge").expect("a slab of one block");
        assert!(huge.allocate().is_err());
    });
}
