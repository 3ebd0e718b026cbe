//! Allocations and frees on top of whatever a CPU was doing: at each single instruction, and in
//! interrupts that no mask keeps away.

use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use page_frame::{Order, PAGE_SIZE, PageSource};

use crate::console::print;
use crate::heap::{kmalloc, pages, zones};
use crate::private::cache;
use crate::step;

/// Interrupts that could not be masked.
static UNMASKED: AtomicUsize = AtomicUsize::new(0);

/// Handles an interrupt that no mask keeps away.
pub(crate) fn on_unmaskable() {
    // Relaxed: a number to look at, and to vary sizes by.
    let count = UNMASKED.fetch_add(1, Ordering::Relaxed);
    use_every_layer(count as u64);
}

/// Returns how many interrupts came that no mask keeps away.
pub(crate) fn unmaskable_interrupts() -> usize {
    UNMASKED.load(Ordering::Relaxed)
}

/// Interrupts every instruction of every path with an allocation and a free: nothing hangs, nothing
/// is lost.
pub(crate) fn interrupt_every_step() {
    let cache = cache();
    let mut objects = [None; 70];
    let mut blocks = [const { None }; 70];
    let steps = step::interrupt_each(use_every_layer, || {
        for _ in 0..2 {
            objects.iter_mut().for_each(|place| *place = cache.allocate().ok());
            for object in objects.iter_mut().filter_map(Option::take) {
                // SAFETY: what this interrupt allocated before.
                unsafe { cache.free(object) };
            }
        }
        blocks.iter_mut().for_each(|place| *place = pages().allocate(Order::ZERO).ok());
        for block in blocks.iter_mut().filter_map(Option::take) {
            // SAFETY: a block that this interrupt took.
            unsafe { pages().free(block) };
        }
        let large = kmalloc().kzalloc(10 * PAGE_SIZE);
        // SAFETY: the ten pages, or nothing.
        unsafe { kmalloc().kfree(large.ok()) };
        let mut many = [NonNull::dangling(); 40];
        let had = cache.allocate_many(&mut many);
        // SAFETY: the first `had` places hold objects allocated just now.
        unsafe { cache.free_many(&many[..had]) };
        cache.shrink_all();
        let registry = kmalloc().registry();
        registry.shrink(1);
        registry.shrink(usize::MAX);
        registry.validate().expect("consistent");
        _ = (registry.pages_held(), registry.totals(), cache.stats());
        make_and_destroy_a_cache();
        zones().for_each(|zone| _ = zone.drain());
    });
    cache.validate().expect("consistent");
    print!("steps: interrupted at each of {} instructions", steps.instructions);
}

/// Makes a cache, keeps and prepares objects of it, and destroys it, as far as there is memory.
fn make_and_destroy_a_cache() {
    let Ok(cache) = kmalloc().registry().cache("interrupted", Layout::new::<[u64; 5]>()).build()
    else {
        return;
    };
    let reserve = cache.mempool(3);
    let mut prefilled = cache.prefill(3).ok();
    if let Some(object) = prefilled.as_mut().and_then(|prefilled| prefilled.allocate()) {
        // SAFETY: from this cache, which was filled for it.
        unsafe { cache.free(object) };
    }
    drop((reserve, prefilled));
    cache.destroy().expect("nothing is in use");
}

/// Allocates and frees through kmalloc, a private cache and pages.
fn use_every_layer(step: u64) {
    // Nothing else runs on this CPU meanwhile, so whatever waits for a lock that this CPU holds
    // would wait for ever.
    let start = kmalloc().kmalloc([64, 192, 40_000][step as usize % 3]);
    let object = cache().allocate();
    let block = pages().allocate(Order::ZERO);
    // Statistics take the locks of the cache, whatever it holds.
    _ = cache().stats();
    if let Ok(block) = block {
        // SAFETY: a block of this handler's.
        unsafe { pages().free(block) };
    }
    if let Ok(object) = object {
        // SAFETY: an object of this handler's.
        unsafe { cache().free(object) };
    }
    // SAFETY: what this interrupt took first, or nothing.
    unsafe { kmalloc().kfree(start.ok()) };
}
