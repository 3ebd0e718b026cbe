//! Memory runs short, and is not short any more, without anybody asking for it; then it runs out.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use buddy::Pressure;
use page_frame::{Order, PAGE_SIZE, PageBlock, PageSource};

use crate::console::print;
use crate::cpus;
use crate::heap::{kmalloc, pages, pressure as how_short, reserve, shortages_and_reliefs};

/// Fills memory. When memory becomes short, an idle cache returns its empty slabs without a
/// request, and memory is no longer short. At the end only the reserve is left.
pub(crate) fn fill_memory() {
    let layout = Layout::from_size_align(1024, 8).expect("a layout");
    let registry = kmalloc().registry();
    let idle = registry.cache("idle", layout).keep_empty(usize::MAX).build().expect("room");
    let objects: Vec<_> = (0..20_000).map(|_| idle.allocate().expect("room")).collect();
    for object in objects {
        // SAFETY: the idle cache's, allocated above.
        unsafe { idle.free(object) };
    }
    let before = idle.stats().pages();
    let order = Order::ZERO;
    let (shortages_before, reliefs_before) = shortages_and_reliefs();
    // Linked through their first words: a list of the blocks would itself need memory.
    let mut first: Option<NonNull<u8>> = None;
    let mut count = 0_usize;
    let mut take = |source: &dyn PageSource| {
        let Ok(block) = source.allocate(order) else { return false };
        let (start, _) = block.into_raw();
        // SAFETY: the block is ours.
        unsafe { start.cast::<Option<NonNull<u8>>>().write(first) };
        first = Some(start);
        count += 1;
        true
    };
    // Without `Reclaiming`: only the watermarks and the timers stand between us and the end of
    // memory.
    while how_short() == Pressure::None && take(pages()) {}
    let own = cpus::of(cpus::number());
    let ticks = own.ticks.load(Ordering::Acquire);
    while own.ticks.load(Ordering::Acquire) < ticks + 400 {
        core::hint::spin_loop();
    }
    let after = idle.stats().pages();
    let (shortages, reliefs) = shortages_and_reliefs();
    assert!(shortages > shortages_before && after < before, "the idle cache gave its slabs home");
    assert!(reliefs > reliefs_before, "and that helped");
    while take(pages()) {}
    // Shrinks the caches completely, as a request would.
    while registry.shrink_all() > 0 {
        while take(pages()) {}
    }
    let refused = kmalloc().kmalloc(500 * PAGE_SIZE);
    assert!(refused.is_err(), "running out is an error the caller sees");
    let last = reserve().allocate(order).expect("who may not wait has the reserve");
    // SAFETY: the last page of the reserve.
    unsafe { reserve().free(last) };
    while let Some(start) = first {
        // SAFETY: written above.
        first = unsafe { start.cast::<Option<NonNull<u8>>>().read() };
        // SAFETY: the parts of a block of ours.
        let block = unsafe { PageBlock::from_raw(start, order, false) };
        // SAFETY: from this source.
        unsafe { pages().free(block) };
    }
    let grown = idle.allocate().expect("memory is there again");
    // SAFETY: allocated after the caches had given way.
    unsafe { idle.free(grown) };
    idle.destroy().expect("every object was freed");
    print!(
        "pressure: {count} pages taken; before a request was refused, {} times memory was short and {} times no longer; the idle cache went from {before} pages to {after}",
        shortages - shortages_before,
        reliefs - reliefs_before,
    );
}
