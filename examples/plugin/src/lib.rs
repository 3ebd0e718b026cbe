//! A shared library whose global allocator is a heap of its own, as a plugin of a program in
//! another language has it. The program may close it while its threads still run.

#[global_allocator]
static HEAP: hosted::Heap = hosted::Heap::new();

/// Allocates `count` vectors of different lengths, and frees them. Returns the sum of the lengths.
#[unsafe(no_mangle)]
pub extern "C" fn work(count: usize) -> usize {
    let vectors: Vec<_> = (0..count).map(|number| vec![1_u8; number % 3000]).collect();
    vectors.iter().map(Vec::len).sum()
}

/// Returns how many bytes the library's heap holds.
#[unsafe(no_mangle)]
pub extern "C" fn held_bytes() -> usize {
    HEAP.stats().held_bytes
}
