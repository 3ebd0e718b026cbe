//! The exports of the WebAssembly module, its heap, and what happens at a panic.
//!
//! # Protocol
//! 1. The page calls [`input`] with the length of a command, and writes the command at the address
//!    that it returns.
//! 2. It calls [`run`], which returns the length of the answer.
//! 3. It reads the answer at the address that [`output`] returns.
//!
//! All text is UTF-8. After a trap the page reads the panic's message at [`message`], drops the
//! instance, and makes another.
//!
//! # Heap
//! The heap is a `kmalloc::Heap` over memory that the browser adds: the page runs on the allocators
//! that it shows.

use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::RefCell;
use core::fmt::Write;

use kmalloc::Heap;
use page_frame::OneContext;

use crate::Engine;

/// Bytes of a page of WebAssembly.
const WASM_PAGE: usize = 64 << 10;
/// Pages of WebAssembly that the heap grows by at least.
const MIN_GROWTH: usize = 32;
/// Bytes of a new region beyond a request, for its metadata and for alignment.
const SLACK: usize = 256 << 10;

/// A heap that grows.
struct GrowingHeap(Heap<OneContext>);

// SAFETY: the module has one thread, and no interrupt handler: each call ends before the next.
#[global_allocator]
static HEAP: GrowingHeap = GrowingHeap(unsafe { Heap::for_one_context() });

// SAFETY: every block comes from the heap inside, and returns to it.
unsafe impl GlobalAlloc for GrowingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout is not empty.
        let block = unsafe { self.0.alloc(layout) };
        if !block.is_null() || !self.grow(layout.size().max(layout.align())) {
            return block;
        }
        // SAFETY: as above.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller got the block here with this layout, so the heap gave it.
        unsafe { self.0.dealloc(block, layout) }
    }
}

impl GrowingHeap {
    /// Adds a region with room for a block of `bytes`; returns whether there is one.
    fn grow(&self, bytes: usize) -> bool {
        let pages = (bytes.saturating_mul(2).saturating_add(SLACK) / WASM_PAGE).max(MIN_GROWTH);
        let first = core::arch::wasm32::memory_grow(0, pages);
        if first == usize::MAX {
            return false;
        }
        let start = core::ptr::with_exposed_provenance_mut(first * WASM_PAGE);
        // SAFETY: clause 1: `memory_grow` has just added these pages, and nothing else uses them.
        unsafe { self.0.add_region(start, pages * WASM_PAGE) }.is_ok()
    }
}

/// A value for the only thread.
struct OneThread<T>(RefCell<T>);

// SAFETY: the module has one thread.
unsafe impl<T> Sync for OneThread<T> {}

static ENGINE: OneThread<Engine> = OneThread(RefCell::new(Engine::new()));
static INPUT: OneThread<Vec<u8>> = OneThread(RefCell::new(Vec::new()));
static OUTPUT: OneThread<String> = OneThread(RefCell::new(String::new()));
static MESSAGE: OneThread<Message> = OneThread(RefCell::new(Message { bytes: [0; 256], len: 0 }));

/// Makes room for a command of `len` bytes; returns its address.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn input(len: usize) -> *mut u8 {
    let mut input = INPUT.0.borrow_mut();
    input.clear();
    input.resize(len, 0);
    input.as_mut_ptr()
}

/// Performs the command; returns the length of the answer.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn run() -> usize {
    let input = INPUT.0.take();
    let answer = ENGINE.0.borrow_mut().answer(&String::from_utf8_lossy(&input));
    let len = answer.len();
    *OUTPUT.0.borrow_mut() = answer;
    len
}

/// Returns the address of the answer.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn output() -> *const u8 {
    OUTPUT.0.borrow().as_ptr()
}

/// Returns the bytes that the heap holds of the memory that it has, in KiB, as `held << 16 | all`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn heap() -> u32 {
    let kib = |bytes: usize| (bytes >> 10).min(0xffff) as u32;
    let (all, free) = (HEAP.0.bytes(), HEAP.0.free_bytes());
    kib(all - free) << 16 | kib(all)
}

/// Returns the address of the panic's message, which ends with a zero byte.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn message() -> *const u8 {
    MESSAGE.0.borrow().bytes.as_ptr()
}

/// The message of a panic, cut to its room. It allocates nothing.
struct Message {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.len() - 1 - self.len;
        let taken = text.len().min(room);
        self.bytes[self.len..self.len + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.len += taken;
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    if let Ok(mut message) = MESSAGE.0.try_borrow_mut() {
        // The message is cut instead of refused.
        let _ = write!(message, "{info}");
    }
    core::arch::wasm32::unreachable()
}
