//! Interrupt handlers that allocate and free memory of the heap that they interrupt, runs of pages
//! among it. In one test an interrupt arrives at each fifth call of the [`Cpu`], while the heap
//! grows from small to large; in the other one after each instruction. No handler may need a lock
//! that the interrupted code holds: it would spin for ever.
#![cfg(all(target_os = "linux", target_arch = "x86_64", not(any(loom, miri))))]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use kmalloc::Heap;
use page_frame::{Cpu, CpuId, InterruptState};
use testkit::{Pattern, Random, interrupt_each};

static HEAP: Heap<Interrupted> = Heap::empty();

/// A piece of memory, filled with the pattern of its address.
type Piece = (NonNull<u8>, Layout);

thread_local! {
    static MASKED: Cell<usize> = const { Cell::new(0) };
    static STEPS: Cell<usize> = const { Cell::new(0) };
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
    static HANDLER: RefCell<Handler> = RefCell::new(Handler::new());
}

/// The state of the interrupt handler.
struct Handler {
    random: Random,
    pieces: Vec<Piece>,
    served: usize,
}

impl Handler {
    fn new() -> Self {
        Self { random: Random::new(9), pieces: Vec::new(), served: 0 }
    }
}

/// A machine of one CPU. Each method call is a step, at which an interrupt may arrive unless
/// interrupts are masked.
#[derive(Clone, Default)]
struct Interrupted;

impl Interrupted {
    /// Runs the interrupt handler at each fifth step, unless interrupts are masked.
    fn step() {
        if MASKED.get() > 0 || IS_INSIDE.get() {
            return;
        }
        STEPS.set(STEPS.get() + 1);
        if STEPS.get() % 5 == 0 {
            IS_INSIDE.set(true);
            HANDLER.with_borrow_mut(|handler| {
                let Handler { random, pieces, served } = handler;
                *served += usize::from(play(pieces, random, 20));
            });
            IS_INSIDE.set(false);
        }
    }
}

// SAFETY: clauses 1 to 3: one thread uses the heap, and a handler ends before the interrupted code
// goes on. Clause 4: while `MASKED` is not zero no handler runs; the count accepts any order.
// Clauses 5 and 6: the id is always 0 of 1. Clause 7: zero.
unsafe impl Cpu for Interrupted {
    fn slots(&self) -> usize {
        1
    }
    fn pin(&self) -> Option<CpuId> {
        Self::step();
        Some(CpuId::new(0))
    }
    unsafe fn unpin(&self) {
        Self::step();
    }
    fn light_fence(&self) {
        Self::step();
    }
    fn fence_all(&self) -> bool {
        Self::step();
        true
    }
    fn wait(&self, round: usize) {
        assert!(round < 1000, "a deadlock");
    }
    fn mask_interrupts(&self) -> InterruptState {
        Self::step();
        MASKED.set(MASKED.get() + 1);
        InterruptState(0)
    }
    unsafe fn restore_interrupts(&self, _: InterruptState) {
        MASKED.set(MASKED.get() - 1);
        Self::step();
    }
}

fn check_and_free((start, layout): Piece) {
    let pattern = Pattern(start.addr().get() as u64);
    // SAFETY: the piece is ours and was filled.
    assert!(unsafe { pattern.is_in(start, layout.size()) }, "another owner wrote into {layout:?}");
    // SAFETY: allocated with this layout, and not used any more.
    unsafe { HEAP.dealloc(start.as_ptr(), layout) };
}

/// Allocates a piece or frees one, at random. Returns whether it allocated one.
fn play(pieces: &mut Vec<Piece>, random: &mut Random, most: usize) -> bool {
    if pieces.len() < most && random.below(2) == 0 {
        let bytes = [30, 300, 9_000, 60_000][random.below(4)];
        let layout = Layout::from_size_align(1 + random.below(bytes), 8).expect("small");
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { HEAP.alloc(layout) }) else { return false };
        // SAFETY: just allocated, of that many bytes.
        unsafe { Pattern(start.addr().get() as u64).fill(start, layout.size()) };
        pieces.push((start, layout));
        return true;
    }
    if !pieces.is_empty() {
        check_and_free(pieces.swap_remove(random.below(pieces.len())));
    }
    false
}

#[test]
fn handlers_allocate_on_top_of_every_step() {
    let (mut random, mut pieces) = (Random::new(4), Vec::new());
    let mut served = 0;
    for number in 0..20_000 {
        if number % 5_000 == 0 {
            let memory = vec![0_u8; 512 << 10].leak();
            // SAFETY: clause 1: leaked, and used by no other code.
            unsafe { HEAP.add_region(memory.as_mut_ptr(), memory.len()) }.expect("large enough");
        }
        served += usize::from(play(&mut pieces, &mut random, 60));
        let kmalloc = HEAP.kmalloc().expect("there is a region");
        if number % 1_000 == 999 {
            kmalloc.shrink_all();
        }
    }
    IS_INSIDE.set(true); // no interrupts from here on
    pieces.into_iter().for_each(check_and_free);
    let handler = HANDLER.replace(Handler::new());
    assert!(served > 5_000 && handler.served > 5_000, "{served} and {}", handler.served);
    handler.pieces.into_iter().for_each(check_and_free);
    let kmalloc = HEAP.kmalloc().expect("there is a region");
    kmalloc.shrink_all();
    kmalloc.validate().expect("consistent");
    kmalloc.registry().source().validate().expect("consistent");
    assert_eq!((kmalloc.large_pages(), MASKED.get()), (0, 0));
}

/// Runs after each instruction of the interrupted code, unless it has masked interrupts.
fn interrupt(step: u64) {
    if MASKED.get() > 0 {
        return;
    }
    let bytes = if step % 2 == 0 { 40_000 } else { 1 + step as usize % 700 };
    let layout = Layout::from_size_align(bytes, 8).expect("small");
    // SAFETY: the layout is not empty.
    if let Some(start) = NonNull::new(unsafe { STEPPED.alloc(layout) }) {
        let pattern = Pattern(step);
        // SAFETY: just allocated, of that many bytes.
        unsafe { pattern.fill(start, bytes) };
        // SAFETY: just filled.
        assert!(unsafe { pattern.is_in(start, bytes) });
        // SAFETY: allocated with this layout, and not used any more.
        unsafe { STEPPED.dealloc(start.as_ptr(), layout) };
    }
}

static STEPPED: Heap<Interrupted> = Heap::empty();

/// Mutation that it catches: `Regions` does not mask interrupts while it holds the lock of an arena
/// (a handler spins on that lock for ever).
#[test]
fn handlers_allocate_after_every_instruction() {
    // So that the method calls of the machine run no handler.
    IS_INSIDE.set(true);
    let memory = vec![0_u8; 512 << 10].leak();
    // SAFETY: clause 1: leaked, and used by no other code.
    unsafe { STEPPED.add_region(memory.as_mut_ptr(), memory.len()) }.expect("large enough");
    let layout = |bytes| Layout::from_size_align(bytes, 8).expect("small");
    let steps = interrupt_each(interrupt, || {
        for bytes in [20, 3000, 50_000] {
            // SAFETY: the layout is not empty.
            let start = unsafe { STEPPED.alloc(layout(bytes)) };
            // SAFETY: allocated with this layout; only the new address is used.
            let start = unsafe { STEPPED.realloc(start, layout(bytes), bytes + 9_000) };
            // SAFETY: allocated with the new size, and not used any more.
            unsafe { STEPPED.dealloc(start, layout(bytes + 9_000)) };
        }
        STEPPED.kmalloc().map(|kmalloc| kmalloc.shrink_all());
    });
    assert!(steps > 5_000, "{steps} steps");
    let kmalloc = STEPPED.kmalloc().expect("there is a region");
    kmalloc.validate().expect("consistent");
    kmalloc.registry().source().validate().expect("consistent");
    kmalloc.shrink_all();
    assert_eq!((kmalloc.large_pages(), MASKED.get()), (0, 0));
}
