//! Figures of our caches alone, each a comparison of two of our own, or a count.

use std::alloc::Layout;

use crate::objects::Ours;
use crate::row::Row;
use crate::{Objects, colour, constructed};

/// Measures all of them.
pub fn measure(rounds: usize, mut each: impl FnMut(Row)) {
    let ratios = |ratio: fn() -> f64| (0..rounds).map(|_| ratio()).collect();
    each(Row::alone("constructed-488", "ratio", ratios(constructed::ratio)));
    each(Row::alone("colour-640x32", "ratio", ratios(|| colour::ratio(colour::FIRST_OBJECTS))));
    each(Row::alone("colour-1280x1024", "ratio", ratios(|| colour::ratio(colour::ALL_OBJECTS))));
    each(Row::alone("idle-pages", "pages", vec![idle_pages()]));
}

/// Returns the pages that a cache has after 100,000 objects came and went and all of it was shrunk.
///
/// # Panics
/// When there is no memory.
pub fn idle_pages() -> f64 {
    let layout = Layout::from_size_align(64, 8).expect("a small size");
    let ours = Ours::new(64 << 20, layout, |builder| builder);
    let objects: Vec<_> = (0..100_000).map(|_| ours.allocate()).collect();
    for object in objects {
        // SAFETY: allocated above, and not used.
        unsafe { ours.free(object) };
    }
    ours.cache.shrink();
    ours.cache.stats().pages() as f64
}
