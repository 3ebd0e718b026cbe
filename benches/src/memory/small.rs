//! Small heaps: which share of the memory serves requests, and how long an operation takes.
//!
//! Each contestant gets the same number of bytes, from a page boundary on, and keeps its own data
//! in them.

use std::alloc::{GlobalAlloc, Layout, alloc, dealloc};
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::time::Instant;

use kmalloc::{Heap, Kmalloc};
use page_frame::{Arena, OneContext, PAGE_SIZE};
use slab::Registry;
use talc::TalcLock;
use talc::source::Manual;
use testkit::Random;

use crate::memory::requests::{free, layout};

/// The largest request in bytes.
const LARGEST: usize = 512;
/// Replaced allocations of a timed run.
const OPERATIONS: usize = 200_000;

/// A figure of a small heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Small {
    /// The bytes that random requests of 1 to 512 bytes get until the first one fails, over the
    /// bytes of the heap of this many KiB.
    Share(usize),
    /// A heap of 64 KiB of which such requests have half: the time in which a random one is freed
    /// and another allocated.
    Time,
}

impl Small {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Share(8),
        Self::Share(16),
        Self::Share(32),
        Self::Share(100),
        Self::Share(256),
        Self::Share(1 << 10),
        Self::Share(8 << 10),
        Self::Time,
    ];

    /// Returns the name in tables and JSON.
    pub fn name(self) -> String {
        match self {
            Self::Share(kib) if kib % 1024 == 0 => format!("heap-{}m", kib / 1024),
            Self::Share(kib) => format!("heap-{kib}k"),
            Self::Time => "heap-64k-time".into(),
        }
    }

    /// Returns the unit of the figure.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Share(_) => "%",
            Self::Time => "ns",
        }
    }

    /// Returns the figure of `round` on the allocator that `kind` makes.
    pub fn run(self, kind: Kind, round: usize) -> f64 {
        let random = Random::new(round as u64 + 1);
        match self {
            Self::Share(kib) => kind.with_heap(kib << 10, |heap| share(heap, kib << 10, random)),
            Self::Time => kind.with_heap(64 << 10, |heap| time(heap, 32 << 10, random)),
        }
    }
}

/// An allocator for small heaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Heap`] over one region.
    Heap,
    /// [`Kmalloc`] over an [`Arena`].
    Arena,
    /// `linked_list_allocator::LockedHeap`.
    LinkedList,
    /// `talc::TalcLock`.
    Talc,
}

impl Kind {
    /// The rivals, by name.
    pub const RIVALS: [(&'static str, Self); 2] =
        [("linked_list_allocator", Self::LinkedList), ("talc", Self::Talc)];

    /// Calls `test` with a new heap over `bytes` bytes, which are freed afterwards.
    fn with_heap<R>(self, bytes: usize, test: impl FnOnce(&dyn GlobalAlloc) -> R) -> R {
        let memory = Memory::new(bytes);
        let start = memory.start.as_ptr();
        match self {
            Self::Heap => {
                // SAFETY: clause 1: this thread alone uses it.
                let heap = unsafe { Heap::for_one_context() };
                // SAFETY: clause 1: `memory` outlives the heap.
                unsafe { heap.add_region(start, bytes) }.expect("large enough");
                test(&heap)
            }
            Self::Arena => {
                // SAFETY: `memory` outlives the arena, and no other code uses it.
                let arena = unsafe { Arena::from_raw(memory.start, bytes) }.expect("large enough");
                // SAFETY: clause 1: this thread alone uses it.
                let cpu = unsafe { OneContext::new() };
                let registry = Registry::new(&arena, cpu).expect("large enough");
                test(&OverArena(Kmalloc::new(registry)))
            }
            Self::LinkedList => {
                // SAFETY: `memory` outlives the heap.
                test(&unsafe { linked_list_allocator::LockedHeap::new(start, bytes) })
            }
            Self::Talc => {
                let talc = TalcLock::<spinning_top::RawSpinlock, _>::new(Manual);
                // SAFETY: `memory` outlives the heap.
                unsafe { talc.lock().claim(start, bytes) }.expect("large enough");
                test(&talc)
            }
        }
    }
}

/// Memory from a page boundary on.
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_SIZE).expect("a small size");
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc(layout) }).expect("there is memory");
        // SAFETY: just allocated. The pages are touched before anything is timed.
        unsafe { start.cast::<MaybeUninit<u8>>().write_bytes(0, bytes) };
        Self { start, layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; the heap over it has gone.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// A [`Kmalloc`] over an arena as a global allocator.
struct OverArena<'a>(Kmalloc<(&'a Arena<'a>, OneContext)>);

// SAFETY: `Kmalloc` returns memory of the layout that no other code uses until it is freed.
unsafe impl GlobalAlloc for OverArena<'_> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.0.allocate(layout).map_or(null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let start = NonNull::new(start).expect("it was allocated");
        // SAFETY: clauses 1 and 2: the caller's.
        unsafe { self.0.free_sized(start, layout) };
    }
}

/// Allocates, or returns `None` when memory has run out.
fn request(heap: &dyn GlobalAlloc, random: &mut Random) -> Option<(*mut u8, Layout)> {
    let layout = layout(1 + random.below(LARGEST), 8);
    // SAFETY: not empty.
    let start = unsafe { heap.alloc(layout) };
    (!start.is_null()).then_some((start, layout))
}

fn share(heap: &dyn GlobalAlloc, bytes: usize, mut random: Random) -> f64 {
    let mut served = 0;
    while let Some((start, layout)) = request(heap, &mut random) {
        // SAFETY: just allocated, of that many bytes.
        unsafe { start.write_bytes(1, layout.size()) };
        served += layout.size();
    }
    served as f64 / bytes as f64 * 100.0
}

fn time(heap: &dyn GlobalAlloc, bytes: usize, mut random: Random) -> f64 {
    let (mut live, mut served) = (Vec::new(), 0);
    while served < bytes {
        let one = request(heap, &mut random).expect("half of the heap");
        served += one.1.size();
        live.push(one);
    }
    let start = Instant::now();
    for _ in 0..OPERATIONS {
        let index = random.below(live.len());
        let (start, layout) = live[index];
        free(heap, start, layout);
        live[index] = black_box(request(heap, &mut random).expect("about half of the heap"));
    }
    start.elapsed().as_nanos() as f64 / OPERATIONS as f64
}
