//! Uses of freed memory, found by AddressSanitizer. It knows nothing of the free memory inside an
//! arena, so this test **poisons** free bytes: the sanitizer ends a program that reads or writes
//! them. `.ci/sanitizers` sets the `cfg`.
#![cfg(address_sanitizer)]

use std::alloc::Layout;
use std::env;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::process::Command;
use std::ptr::NonNull;

use kmalloc::Kmalloc;
use page_frame::{
    Arena, CpuId, ForwardPageMap, Order, OutOfMemory, PAGE_SIZE, PageBlock, PageMap, PageResize,
    PageRun, PageSource, SwitchedCpu,
};
use slab::Registry;
use testkit::{Pattern, Random};

unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const c_void, bytes: usize);
    fn __asan_unpoison_memory_region(start: *const c_void, bytes: usize);
}

fn poison(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the sanitizer only records the bytes, and does not access them.
    unsafe { __asan_poison_memory_region(start.as_ptr().cast(), bytes) };
}

fn unpoison(start: NonNull<u8>, bytes: usize) {
    // SAFETY: as above.
    unsafe { __asan_unpoison_memory_region(start.as_ptr().cast(), bytes) };
}

/// An arena whose free pages are poisoned.
struct Poisoned<'a>(Arena<'a>);

// SAFETY: clauses 1 and 2: the arena allocates and frees every block.
unsafe impl PageSource for Poisoned<'_> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.0.allocate(order).inspect(|block| unpoison(block.start(), block.bytes()))
    }
    unsafe fn free(&self, block: PageBlock) {
        poison(block.start(), block.bytes());
        // SAFETY: the clauses are the caller's.
        unsafe { self.0.free(block) }
    }
}

// SAFETY: clause 1: always the arena's map.
unsafe impl ForwardPageMap for Poisoned<'_> {
    fn page_map(&self) -> &impl PageMap {
        &self.0
    }
}

// SAFETY: clauses 1 and 2: the arena allocates and frees every run, and resizes none.
unsafe impl PageResize for Poisoned<'_> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        let run = self.0.allocate_run(pages, alignment)?;
        unpoison(run.start(), run.pages() * PAGE_SIZE);
        Ok(run)
    }
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        poison(start, pages * PAGE_SIZE);
        // SAFETY: the clauses are the caller's.
        unsafe { self.0.free_run(start, pages) }
    }
}

type Heap<'a> = Kmalloc<(&'a Poisoned<'a>, &'a SwitchedCpu)>;

fn with_heap(test: impl FnOnce(&Heap<'_>, &SwitchedCpu)) {
    let mut memory = vec![MaybeUninit::uninit(); 4096 * PAGE_SIZE];
    let (start, bytes) = (NonNull::from(&mut memory[0]).cast(), memory.len());
    let arena = Arena::new(&mut memory).expect("large enough");
    // Takes all pages and frees them, which poisons them. The metadata of the arena stays readable.
    let (pages, cpus) = (Poisoned(arena), SwitchedCpu::new(2));
    let all: Vec<_> = std::iter::from_fn(|| pages.allocate(Order::ZERO).ok()).collect();
    // SAFETY: allocated just now.
    all.into_iter().for_each(|block| unsafe { pages.free(block) });
    test(&Kmalloc::new(Registry::new(&pages, &cpus).expect("room")), &cpus);
    unpoison(start, bytes);
}

/// Allocates. The bytes of the object beyond the request stay poisoned.
fn allocate(heap: &Heap<'_>, layout: Layout) -> Option<NonNull<u8>> {
    let start = heap.allocate(layout).ok()?;
    unpoison(start, layout.size());
    Some(start)
}

fn free(heap: &Heap<'_>, start: NonNull<u8>, layout: Layout) {
    poison(start, layout.size());
    // SAFETY: allocated with this layout, and not used any more.
    unsafe { heap.free_sized(start, layout) };
}

/// The allocator never reads or writes a free object, a freed run, or a page that it has returned.
#[test]
fn the_allocator_touches_no_byte_of_its_users() {
    with_heap(|heap, cpus| {
        let (mut random, mut live) = (Random::new(3), Vec::new());
        for step in 0..20_000 {
            cpus.switch_to([None, Some(CpuId::new(0)), Some(CpuId::new(1))][random.below(3)]);
            let number = step as u64;
            if random.one_in(2) && live.len() < 400 {
                let most = [64, 300, 5000, 70_000][random.below(4)];
                let size = random.below(most);
                let layout = Layout::from_size_align(size, 16).expect("small");
                let Some(start) = allocate(heap, layout) else { continue };
                // SAFETY: ours.
                unsafe { Pattern(number).fill(start, size) };
                live.push((start, layout, number));
            } else if random.one_in(100) {
                heap.shrink_all();
            } else if !live.is_empty() {
                let (start, layout, number) = live.swap_remove(random.below(live.len()));
                // SAFETY: ours, filled before.
                assert!(unsafe { Pattern(number).is_in(start, layout.size()) });
                free(heap, start, layout);
            }
        }
        live.into_iter().for_each(|(start, layout, _)| free(heap, start, layout));
        heap.validate().expect("consistent");
    });
}

/// The mistakes, by name. The sanitizer must end the program for each of them.
const MISTAKES: [&str; 4] = ["object", "run", "page", "overflow"];

/// Makes one mistake: reads a byte that is poisoned.
fn make(mistake: &str) {
    with_heap(|heap, _| {
        // A multiple of eight, as the sanitizer records the state of eight bytes at a time, and
        // less than the size of the class, so that the object has bytes beyond the request.
        let size = if mistake == "run" { 100_000 } else { 104 };
        let layout = Layout::from_size_align(size, 16).expect("small");
        let start = allocate(heap, layout).expect("room");
        let offset = if mistake == "overflow" { size } else { 0 };
        if offset == 0 {
            free(heap, start, layout);
        } else {
            poison(NonNull::new(start.as_ptr().wrapping_add(size)).expect("not null"), 8);
        }
        if mistake == "page" {
            heap.shrink_all();
        }
        // SAFETY: not sound: this is the mistake, and the sanitizer ends the program.
        let byte = unsafe { start.add(offset).read_volatile() };
        println!("{mistake}: {byte} was read");
    });
}

/// Makes each mistake in a process of its own.
///
/// Mutation that it catches: a `free` that poisons nothing (the process does not end).
#[test]
fn a_use_after_free_inside_the_arena_is_seen() {
    const NAME: &str = "KMALLOC_MISTAKE";
    if let Ok(mistake) = env::var(NAME) {
        return make(&mistake);
    }
    for mistake in MISTAKES {
        let program = env::current_exe().expect("this test");
        let mut command = Command::new(program);
        command.args(["--exact", "a_use_after_free_inside_the_arena_is_seen", "--nocapture"]);
        let output = command.env(NAME, mistake).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{mistake}: {text}");
        assert!(text.contains("use-after-poison"), "{mistake}: {text}");
    }
}
