//! The allocators that are compared: ours, the floor, and the rivals. The trait is the standard
//! library's.
//!
//! Each exists once in the program, for all rounds, as it would as a program's global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use hosted::Mapped;
use talc::TalcLock;
use talc::source::Manual;

use crate::memory::contestant::Make;
use crate::row::{FLOOR, OURS};

/// Address space of each allocator that is given a range.
const RANGE_BYTES: usize = 1 << 30;

/// Returns ours, the harness's floor, and the rivals, by name.
pub fn contestants() -> Vec<(&'static str, Make)> {
    let mut all: Vec<(&'static str, Make)> = vec![
        (OURS, || &HEAP),
        (FLOOR, || &NOTHING),
        ("talc", || TALC.get_or_init(new_talc)),
        ("rlsf", || &RLSF),
        ("linked_list_allocator", || LINKED_LIST.get_or_init(new_linked_list)),
        ("buddy_system_allocator", || BUDDY_SYSTEM.get_or_init(new_buddy_system)),
        ("system", || &System),
    ];
    #[cfg(feature = "c-rivals")]
    all.extend([
        ("mimalloc", (|| &mimalloc::MiMalloc) as Make),
        ("snmalloc", || &snmalloc_rs::SnMalloc),
        ("jemalloc", || &tikv_jemallocator::Jemalloc),
        ("rpmalloc", || &rpmalloc::RpMalloc),
    ]);
    all.shrink_to_fit();
    all
}

/// Our allocator, as a program has it.
pub static HEAP: hosted::Heap = hosted::Heap::new();

static TALC: OnceLock<TalcLock<spinning_top::RawSpinlock, Manual>> = OnceLock::new();
static RLSF: rlsf::GlobalTlsf = rlsf::GlobalTlsf::new();
static LINKED_LIST: OnceLock<linked_list_allocator::LockedHeap> = OnceLock::new();
static BUDDY_SYSTEM: OnceLock<buddy_system_allocator::LockedHeap<32>> = OnceLock::new();

/// Returns the start of fresh memory that is never unmapped.
fn range() -> *mut u8 {
    let memory = Mapped::reserve(RANGE_BYTES).expect("address space");
    let start = memory.start().as_ptr();
    std::mem::forget(memory);
    start
}

fn new_talc() -> TalcLock<spinning_top::RawSpinlock, Manual> {
    let talc = TalcLock::new(Manual);
    // SAFETY: fresh memory that stays.
    unsafe { talc.lock().claim(range(), RANGE_BYTES) }.expect("a large range");
    talc
}

fn new_linked_list() -> linked_list_allocator::LockedHeap {
    // SAFETY: fresh memory that stays.
    unsafe { linked_list_allocator::LockedHeap::new(range(), RANGE_BYTES) }
}

fn new_buddy_system() -> buddy_system_allocator::LockedHeap<32> {
    let heap = buddy_system_allocator::LockedHeap::new();
    // SAFETY: fresh memory that stays.
    unsafe { heap.lock().init(range().expose_provenance(), RANGE_BYTES) };
    heap
}

static NOTHING: Nothing = Nothing { next: AtomicUsize::new(0), start: OnceLock::new() };

/// The harness without an allocator: addresses of a small range, handed out again and again. The
/// workloads that run on it write no more than the first word of an allocation.
struct Nothing {
    next: AtomicUsize,
    start: OnceLock<Range>,
}

struct Range(*mut u8);

// SAFETY: a base for addresses.
unsafe impl Send for Range {}
// SAFETY: no method changes it.
unsafe impl Sync for Range {}

/// The largest request in bytes, alignment included, and the size of the floor's address range.
const LARGEST: usize = 64 << 10;

// SAFETY: not what a global allocator promises: memory is handed out again and again. It is
// private, and given only to workloads that never hold anything in it, see `Workload::has_floor`.
unsafe impl GlobalAlloc for Nothing {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.start.get_or_init(|| Range(range()));
        if layout.size() > LARGEST || layout.align() > LARGEST {
            return null_mut();
        }
        // Relaxed: a number.
        let next = self.next.load(Ordering::Relaxed);
        self.next.store((next + 64) % LARGEST, Ordering::Relaxed);
        start.0.wrapping_add(next.next_multiple_of(layout.align()))
    }

    #[inline]
    unsafe fn dealloc(&self, start: *mut u8, _: Layout) {
        std::hint::black_box(start);
    }
}
