//! The life of the kernel: all CPUs allocate, free, hand over and shrink, and their timers do the same on top of them.
//!
//! The first CPU leads through phases; the others follow. Each phase ends when every CPU has done its part. What is allocated
//! carries content of its own, checked when it is freed.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::NonNull;

use buddy::Pressure;
use page_frame::sync::{AtomicBool, AtomicPtr, AtomicUsize, Lock, Ordering};
use page_frame::{Order, PAGE_SIZE, PageBlock, PageSource};
use slab::Cache;

use crate::console::{Raw, print};
use crate::cpus::{self, KernelCpu, MOST_CPUS};
use crate::heap::{
    Source, kmalloc, pages, pressure as how_short, relieve, reserve, shortages_and_reliefs, zones,
};
use crate::machine::{mask_interrupts, unmask_interrupts, wait};
use crate::{apic, step};

/// Timer interrupts come so often: 10,000 a second.
const TIMER_NANOSECONDS: u32 = 100_000;
/// Rounds of the mixed phase on each CPU.
const ROUNDS: usize = 30_000;
/// What a CPU holds at most in the mixed phase.
const MOST_HELD: usize = 400;

type ObjectCache = Cache<Source, KernelCpu>;

/// What the constructor leaves in the first word of an object of the private cache.
const CONSTRUCTED: u64 = 0xc057_0c7e_d0b1_ec75;
/// Bytes of such an object.
const OBJECT_BYTES: usize = 192;

/// What the CPUs do together.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Phase {
    Idle,
    Mixed,
    /// The last CPU fills its magazines and goes offline.
    Leave,
    End,
}

static PHASE: AtomicUsize = AtomicUsize::new(Phase::Idle as usize);
static DONE: AtomicUsize = AtomicUsize::new(0);
static TIMERS_ALLOCATE: AtomicBool = AtomicBool::new(false);
/// The private cache, while there is one.
static CACHE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// What other CPUs left for a CPU to free.
static MAIL: [Lock<Mailbox>; MOST_CPUS] = [const { Lock::new(Mailbox::new()) }; MOST_CPUS];

/// Leads all `count` CPUs through the phases.
pub(crate) fn run(count: usize) {
    come_online();
    let baseline = settle();
    make_cache();
    TIMERS_ALLOCATE.store(true, Ordering::Release);

    together(Phase::Mixed, count, || mixed(count));
    print!("mixed: {count} CPUs, {} rounds each, {} timer interrupts", ROUNDS, all_ticks());
    pressure();
    interrupt_every_step();
    // The private cache goes and comes again while nobody uses it.
    TIMERS_ALLOCATE.store(false, Ordering::Release);
    quiet_timers(count);
    destroy_cache();
    make_cache();
    TIMERS_ALLOCATE.store(true, Ordering::Release);
    together(Phase::Mixed, count, || mixed(count));
    print!("mixed again, with a new cache");

    if count > 1 {
        together(Phase::Leave, count, || ());
        TIMERS_ALLOCATE.store(false, Ordering::Release);
        quiet_timers(count - 1);
        take_over();
    } else {
        TIMERS_ALLOCATE.store(false, Ordering::Release);
        quiet_timers(count);
    }
    destroy_cache();
    PHASE.store(Phase::End as usize, Ordering::Release);
    finish(baseline);
}

/// What every CPU but the first does.
pub(crate) fn follow() -> ! {
    come_online();
    let mut seen = Phase::Idle as usize;
    loop {
        let phase = PHASE.load(Ordering::Acquire);
        if phase == seen {
            core::hint::spin_loop();
            continue;
        }
        seen = phase;
        let count = DONE_OF.load(Ordering::Acquire);
        match phase {
            phase if phase == Phase::Mixed as usize => mixed(count),
            phase if phase == Phase::Leave as usize && cpus::number() == count - 1 => leave(),
            phase if phase == Phase::End as usize => stop(),
            _ => {}
        }
        if phase != Phase::Idle as usize {
            DONE.fetch_add(1, Ordering::AcqRel);
        }
    }
}

/// How many CPUs take part.
static DONE_OF: AtomicUsize = AtomicUsize::new(0);

/// Sends all CPUs into `phase`, does this CPU's `part`, and waits until all have done theirs.
fn together(phase: Phase, count: usize, part: impl FnOnce()) {
    DONE_OF.store(count, Ordering::Release);
    DONE.store(0, Ordering::Release);
    PHASE.store(phase as usize, Ordering::Release);
    part();
    while DONE.load(Ordering::Acquire) < count - 1 {
        core::hint::spin_loop();
    }
    PHASE.store(Phase::Idle as usize, Ordering::Release);
}

fn come_online() {
    cpus::set_online(true);
    apic::start_timer(TIMER_NANOSECONDS);
    // SAFETY: gates, stacks and controller are set up.
    unsafe { unmask_interrupts() };
}

fn stop() -> ! {
    mask_interrupts();
    apic::stop_timer();
    cpus::set_online(false);
    loop {
        wait();
        mask_interrupts();
    }
}

/// Fills this CPU's magazines and leaves for good; whoever is left takes its slots over.
fn leave() {
    TIMERS_LEFT.store(cpus::number(), Ordering::Release);
    free_held_by_timer();
    let cache = cache();
    let objects: Vec<_> = (0..100).map(|_| cache.allocate().expect("room")).collect();
    for object in objects {
        // SAFETY: from this cache, in constructed state.
        unsafe { cache.free(object) };
    }
    DONE.fetch_add(1, Ordering::AcqRel);
    stop();
}

/// The CPU whose timer no longer allocates.
static TIMERS_LEFT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Builds every class once and shrinks; returns the pages that stay held from then on.
fn settle() -> usize {
    let all: Vec<_> = (0..16).map(|shift| kmalloc().kmalloc(1 << shift)).collect();
    for size in (8..=kmalloc::LARGEST).step_by(8) {
        let start = kmalloc().kmalloc(size).expect("room for one of each");
        // SAFETY: allocated above.
        unsafe { kmalloc().kfree(Some(start)) };
    }
    for start in all {
        // SAFETY: allocated above.
        unsafe { kmalloc().kfree(start.ok()) };
    }
    kmalloc().shrink_all();
    pages().held_pages()
}

unsafe fn construct(object: NonNull<u8>) {
    // SAFETY: an object of the private cache, aligned to eight.
    unsafe { object.cast::<u64>().write(CONSTRUCTED) };
}

fn make_cache() {
    let layout = Layout::from_size_align(OBJECT_BYTES, 8).expect("a layout");
    let builder = kmalloc().registry().cache("private", layout);
    // SAFETY: users leave the first word as it is.
    let cache: ObjectCache = unsafe { builder.constructor(construct) }.build().expect("room");
    CACHE.store(cache.into_raw().as_ptr(), Ordering::Release);
}

fn destroy_cache() {
    let raw = NonNull::new(CACHE.swap(core::ptr::null_mut(), Ordering::AcqRel));
    let raw = raw.expect("there is a cache");
    // SAFETY: from `make_cache`; nobody uses it any more, as the timers were told and waited for.
    let cache = unsafe { ObjectCache::from_raw(raw) };
    cache.destroy().expect("every object was freed");
}

/// Returns the private cache, for as long as the phase lasts.
fn cache() -> core::mem::ManuallyDrop<ObjectCache> {
    let raw = NonNull::new(CACHE.load(Ordering::Acquire)).expect("there is a cache");
    // SAFETY: from `make_cache`; the handle stays in the static.
    core::mem::ManuallyDrop::new(unsafe { ObjectCache::from_raw(raw) })
}

/// Something allocated, with the number that its content is made of.
struct Held {
    what: What,
    number: u64,
}

enum What {
    Bytes(NonNull<u8>, usize),
    Object(NonNull<u8>),
    Pages(PageBlock),
}

// SAFETY: memory that whoever has the value owns.
unsafe impl Send for Held {}

impl Held {
    /// Allocates something, at random; `None` when memory is out.
    fn allocate(random: &mut Random, number: u64) -> Option<Self> {
        let what = match random.below(8) {
            0 => What::Pages(pages().allocate(Order::new(random.below(4) as u8)?).ok()?),
            1..=3 => What::Object(cache().allocate().ok()?),
            _ => {
                let most = [64, 256, 1024, 5000, 50_000][random.below(5)];
                let bytes = 1 + random.below(most);
                What::Bytes(kmalloc().kmalloc(bytes).ok()?, bytes)
            }
        };
        let held = Self { what, number };
        held.fill();
        Some(held)
    }

    /// Returns where the content lies, behind what the constructor left, and how many words it has.
    fn content(&self) -> (NonNull<u64>, usize) {
        match &self.what {
            What::Bytes(start, bytes) => (start.cast(), bytes / 8),
            What::Object(object) => {
                // SAFETY: the object is ours, and constructed.
                assert_eq!(unsafe { object.cast::<u64>().read() }, CONSTRUCTED);
                // SAFETY: inside the object.
                (unsafe { object.add(8) }.cast(), OBJECT_BYTES / 8 - 1)
            }
            // The first words of each page would do; a whole block takes long under emulation.
            What::Pages(block) => (block.start().cast(), 8),
        }
    }

    fn fill(&self) {
        let (start, words) = self.content();
        for index in 0..words.min(64) {
            // SAFETY: inside the memory.
            let word = unsafe { start.add(index) };
            // SAFETY: ours.
            unsafe { word.write(self.number ^ index as u64) };
        }
    }

    /// Checks the content and frees the memory.
    fn free(self) {
        let (start, words) = self.content();
        for index in 0..words.min(64) {
            // SAFETY: inside the memory.
            let word = unsafe { start.add(index) };
            // SAFETY: ours, and filled.
            let found = unsafe { word.read() };
            assert_eq!(found, self.number ^ index as u64, "word {index}: another owner wrote");
        }
        match self.what {
            // SAFETY: allocated by `allocate`.
            What::Bytes(start, _) => unsafe { kmalloc().kfree(Some(start)) },
            // SAFETY: as above, and its first word is as constructed.
            What::Object(object) => unsafe { cache().free(object) },
            // SAFETY: as above.
            What::Pages(block) => unsafe { pages().free(block) },
        }
    }
}

/// Up to eight things for another CPU to free.
struct Mailbox([Option<Held>; 8]);

impl Mailbox {
    const fn new() -> Self {
        Self([const { None }; 8])
    }
}

/// Random allocations, frees, hand-overs and shrinking on this CPU.
fn mixed(count: usize) {
    let own = cpus::number();
    let mut random = Random::new(own as u64 + 1);
    let mut held: Vec<Held> = Vec::with_capacity(MOST_HELD);
    for round in 0..ROUNDS {
        let number = (own as u64 + 1) << 48 | (round as u64) << 8;
        match random.below(100) {
            0..50 if held.len() < MOST_HELD => {
                held.extend(Held::allocate(&mut random, number));
            }
            50..60 if !held.is_empty() => {
                let sent = held.swap_remove(random.below(held.len()));
                let refused = send(random.below(count), sent);
                if let Some(refused) = refused {
                    refused.free();
                }
            }
            60..99 if !held.is_empty() => held.swap_remove(random.below(held.len())).free(),
            _ if random.below(40) == 0 => _ = kmalloc().registry().shrink_pages(8),
            _ => receive(own),
        }
    }
    held.into_iter().for_each(Held::free);
    // What others left last is freed by whoever comes by.
    (0..count).for_each(receive);
}

fn send(cpu: usize, held: Held) -> Option<Held> {
    let mut mail = MAIL[cpu].lock();
    match mail.0.iter_mut().find(|place| place.is_none()) {
        Some(place) => {
            *place = Some(held);
            None
        }
        None => Some(held),
    }
}

fn receive(cpu: usize) {
    let mut letters = Mailbox::new();
    core::mem::swap(&mut *MAIL[cpu].lock(), &mut letters);
    letters.0.into_iter().flatten().for_each(Held::free);
}

/// What the timer of a CPU holds from tick to tick.
struct HeldByTimer(UnsafeCell<[Option<Held>; 8]>);
// SAFETY: each is used by its CPU alone, in the timer's handler or with interrupts masked.
unsafe impl Sync for HeldByTimer {}

static HELD_BY_TIMER: [HeldByTimer; MOST_CPUS] =
    [const { HeldByTimer(UnsafeCell::new([const { None }; 8])) }; MOST_CPUS];
static REFUSED_IN_TIMER: AtomicUsize = AtomicUsize::new(0);
static REFUSED_RESERVE: AtomicUsize = AtomicUsize::new(0);

/// Allocates and frees on top of whatever the CPU was doing.
pub(crate) fn on_timer(tick: u64) {
    let own = cpus::number();
    if TIMERS_ALLOCATE.load(Ordering::Acquire) && TIMERS_LEFT.load(Ordering::Acquire) != own {
        exchange(own, tick);
    } else {
        free_all_of_timer(own);
    }
    // Whoever may not wait has the reserve, however short memory is.
    match reserve().allocate(Order::ZERO) {
        // SAFETY: ours.
        Ok(page) => unsafe { reserve().free(page) },
        Err(_) => _ = REFUSED_RESERVE.fetch_add(1, Ordering::Relaxed),
    }
    relieve();
}

/// Frees what the timer holds in one of its places, and puts something else there.
fn exchange(own: usize, tick: u64) {
    let places = HELD_BY_TIMER[own].0.get();
    // SAFETY: this CPU's, in its timer.
    let places = unsafe { &mut *places };
    let mut random = Random::new(tick.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ own as u64);
    let place = &mut places[random.below(8)];
    if let Some(old) = place.take() {
        old.free();
    }
    *place = Held::allocate(&mut random, 0xffff << 48 | tick << 8 | own as u64);
    if place.is_none() {
        REFUSED_IN_TIMER.fetch_add(1, Ordering::Relaxed);
    }
}

fn free_all_of_timer(own: usize) {
    // SAFETY: this CPU's, in its timer or with interrupts masked.
    let places = unsafe { &mut *HELD_BY_TIMER[own].0.get() };
    places.iter_mut().filter_map(Option::take).for_each(Held::free);
}

fn free_held_by_timer() {
    mask_interrupts();
    free_all_of_timer(cpus::number());
    // SAFETY: they were on.
    unsafe { unmask_interrupts() };
}

fn all_ticks() -> u64 {
    (0..MOST_CPUS).map(|cpu| cpus::of(cpu).ticks.load(Ordering::Relaxed)).sum()
}

/// Waits until the timer of each of the first `count` CPUs has seen that it allocates no more.
fn quiet_timers(count: usize) {
    for cpu in 0..count {
        let ticks = &cpus::of(cpu).ticks;
        let before = ticks.load(Ordering::Acquire);
        while ticks.load(Ordering::Acquire) < before + 3 {
            core::hint::spin_loop();
        }
    }
}

/// Fills memory: as soon as it is short, an idle cache gives its empty slabs home without anybody asking it, and memory is no
/// longer short; in the end nothing is left but the reserve.
fn pressure() {
    let layout = Layout::from_size_align(1024, 8).expect("a layout");
    let registry = kmalloc().registry();
    let idle = registry.cache("idle", layout).keep_empty(usize::MAX).build().expect("room");
    let objects: Vec<_> = (0..20_000).map(|_| idle.allocate().expect("room")).collect();
    for object in objects {
        // SAFETY: from this cache.
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
    // Without `Reclaiming`: only the watermarks and the timers stand between us and the end of memory.
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
    let refused = kmalloc().kmalloc(500 * PAGE_SIZE);
    assert!(refused.is_err(), "running out is an error the caller sees");
    let last = reserve().allocate(order).expect("who may not wait has the reserve");
    // SAFETY: ours.
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
    // SAFETY: from this cache.
    unsafe { idle.free(grown) };
    idle.destroy().expect("every object was freed");
    print!(
        "pressure: {count} pages taken; before a request was refused, {} times memory was short and {} times no longer; the idle cache went from {before} pages to {after}",
        shortages - shortages_before,
        reliefs - reliefs_before,
    );
}

/// Interrupts every instruction of every path with an allocation and a free: nothing hangs, nothing is lost.
fn interrupt_every_step() {
    let nested = |step: u64| {
        // Interrupts are masked in here, so whatever waits for a lock that this CPU holds would wait for ever.
        let start = kmalloc().kmalloc([64, 192, 40_000][step as usize % 3]);
        let object = cache().allocate();
        let block = pages().allocate(Order::ZERO);
        if let Ok(block) = block {
            // SAFETY: ours.
            unsafe { pages().free(block) };
        }
        if let Ok(object) = object {
            // SAFETY: from this cache.
            unsafe { cache().free(object) };
        }
        // SAFETY: allocated above.
        unsafe { kmalloc().kfree(start.ok()) };
    };
    let cache = cache();
    let mut objects = [None; 70];
    let mut blocks = [const { None }; 70];
    let steps = step::interrupt_each(nested, || {
        for _ in 0..2 {
            objects.iter_mut().for_each(|place| *place = cache.allocate().ok());
            for object in objects.iter_mut().filter_map(Option::take) {
                // SAFETY: from this cache.
                unsafe { cache.free(object) };
            }
        }
        blocks.iter_mut().for_each(|place| *place = pages().allocate(Order::ZERO).ok());
        for block in blocks.iter_mut().filter_map(Option::take) {
            // SAFETY: ours.
            unsafe { pages().free(block) };
        }
        let large = kmalloc().kzalloc(10 * PAGE_SIZE);
        // SAFETY: allocated above.
        unsafe { kmalloc().kfree(large.ok()) };
        cache.shrink();
        zones().for_each(|zone| _ = zone.drain());
    });
    cache.validate().expect("consistent");
    print!("steps: interrupted at each of {} instructions", steps.instructions);
}

/// Brings home what the CPU that left has in its magazines.
fn take_over() {
    let cache = cache();
    let before = cache.stats().objects_active;
    cache.shrink();
    let after = cache.stats().objects_active;
    print!(
        "offline: a CPU left with objects in its slots; {before} were outside the slabs, {after} after take-over"
    );
    assert!(before > 0 && after == 0, "its objects came home");
}

/// Everything is checked, shown and given back.
fn finish(baseline: usize) {
    free_held_by_timer();
    kmalloc().validate().expect("consistent");
    zones().for_each(|zone| zone.validate().expect("consistent"));
    // SAFETY: they go on again below.
    mask_interrupts();
    let shown = kmalloc().registry().slabinfo(&mut Raw);
    // SAFETY: as they were.
    unsafe { unmask_interrupts() };
    shown.expect("the console takes everything");
    for zone in zones() {
        print!("free blocks of order 0 to 18: {:?}", zone.free_counts());
    }
    kmalloc().shrink_all();
    zones().for_each(|zone| _ = zone.drain());
    let held = pages().held_pages();
    print!(
        "{held} pages held, {baseline} at the start, {} refused in timers",
        REFUSED_IN_TIMER.load(Ordering::Relaxed)
    );
    assert_eq!(held, baseline, "every page is home");
    let refused = REFUSED_RESERVE.load(Ordering::Relaxed);
    assert_eq!(refused, 0, "every timer interrupt got its page, if need be from the reserve");
    kmalloc().validate().expect("consistent");
    zones().for_each(|zone| zone.validate().expect("consistent"));
}

/// A small random generator (xorshift64*; Marsaglia 2003, Vigna 2016).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(number) * limit as u128) >> 64) as usize
    }
}
