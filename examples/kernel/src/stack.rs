//! The maximum stack use of a call: the stack below the stack pointer is painted before the call
//! and inspected after it.
//!
//! Interrupts are off, and would run on stacks of their own. The count includes everything below
//! the caller: return address, saved registers, and all nested calls, the page source and its locks
//! among them.

use core::alloc::Layout;
use core::arch::asm;

use page_frame::{Order, PageSource};

use crate::console::print;
use crate::heap::{kmalloc, pages, zones};

/// How much is painted: more than any call takes, and less than the boot stack has left.
const BYTES: usize = 32 << 10;
const PAINT: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// Prints a line for each call.
pub(crate) fn run() {
    let heap = kmalloc();
    let registry = heap.registry();
    let mut start = None;
    print!("stack of a call, in bytes");
    // A class without a cache yet: the call builds the cache, and a slab from the zones.
    zones().for_each(|zone| _ = zone.drain());
    row("kmalloc-first", &mut || start = heap.kmalloc(1000).ok());
    // SAFETY: allocated just now.
    row("kfree-miss", &mut || unsafe { heap.kfree(start.take()) });
    for _ in 0..100 {
        start = heap.kmalloc(1000).ok();
        // SAFETY: allocated in this round.
        unsafe { heap.kfree(start.take()) };
    }
    row("kmalloc-hit", &mut || start = heap.kmalloc(1000).ok());
    // SAFETY: allocated by the hit.
    row("kfree-hit", &mut || unsafe { heap.kfree(start.take()) });
    row("kmalloc-large", &mut || start = heap.kmalloc(100_000).ok());
    // SAFETY: a run, allocated just now.
    row("kfree-large", &mut || unsafe { heap.kfree(start.take()) });
    zones().for_each(|zone| _ = zone.drain());
    let mut block = None;
    row("page-miss", &mut || block = pages().allocate(Order::ZERO).ok());
    row("page-free", &mut || {
        if let Some(block) = block.take() {
            // SAFETY: taken just now, from this source.
            unsafe { pages().free(block) };
        }
    });
    let layout = Layout::from_size_align(200, 8).expect("a layout");
    let mut cache = None;
    row("cache-build", &mut || cache = registry.cache("stack", layout).build().ok());
    row("cache-destroy", &mut || _ = cache.take().map(|cache| cache.destroy().is_ok()));
    row("shrink-all", &mut || _ = registry.shrink_all());
    row("drain", &mut || zones().for_each(|zone| _ = zone.drain()));
}

fn row(name: &str, call: &mut dyn FnMut()) {
    let used = used_by(call);
    assert!(used < BYTES, "{name} takes more stack than is looked at");
    print!("stack,{name},{used}");
}

/// Returns how many bytes of the stack `call` used.
#[inline(never)]
fn used_by(call: &mut dyn FnMut()) -> usize {
    let top: *const u64;
    // SAFETY: this paints the unused part of this stack. The kernel is built without a red zone,
    // and interrupts have stacks of their own. The boot stack is larger than the painted and the
    // used part together.
    unsafe {
        asm!(
            "lea rdi, [rsp - {bytes}]",
            "rep stosq",
            "mov {top}, rsp",
            bytes = const BYTES,
            top = lateout(reg) top,
            inout("rcx") BYTES / 8 => _,
            in("rax") PAINT,
            out("rdi") _,
        );
    }
    call();
    let words = (1..=BYTES / 8).rev();
    let deepest = words.into_iter().find(|below| {
        let word = top.wrapping_sub(*below);
        // SAFETY: painted above, on this stack; whoever wrote there has returned.
        unsafe { word.read_volatile() != PAINT }
    });
    deepest.unwrap_or(0) * 8
}
