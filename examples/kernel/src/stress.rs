//! The stress test: all CPUs allocate, free, hand over and shrink, and their timers do the same on
//! top of them.
//!
//! The first CPU leads through phases; the others follow. Each phase ends when every CPU has done
//! its part. Allocations carry content of their own, which is checked when they are freed.

use alloc::vec::Vec;
use core::cell::UnsafeCell;

use page_frame::sync::{AtomicBool, AtomicUsize, Lock, Ordering};
use page_frame::{Order, PageSource};

use crate::apic;
use crate::console::{Raw, print};
use crate::cpus::{self, MAX_CPUS};
use crate::heap::{kmalloc, pages, relieve, reserve, zones};
use crate::held::{Held, Random};
use crate::machine::{mask_interrupts, unmask_interrupts, wait};
use crate::nested::{interrupt_every_step, unmaskable_interrupts};
use crate::private::{cache, destroy_cache, make_cache};
use crate::shortage::fill_memory;

/// Timer interrupts come so often: 10,000 a second.
const TIMER_NANOSECONDS: u32 = 100_000;
/// Rounds of the mixed phase on each CPU.
const ROUNDS: usize = 30_000;
/// Maximum number of allocations that a CPU holds in the mixed phase.
const MAX_HELD: usize = 400;

/// The phases.
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
/// Allocations that other CPUs have handed to a CPU to free.
static MAIL: [Lock<Mailbox>; MAX_CPUS] = [const { Lock::new(Mailbox::new()) }; MAX_CPUS];

/// Leads all `count` CPUs through the phases.
pub(crate) fn run(count: usize) {
    come_online();
    let baseline = settle();
    make_cache();
    TIMERS_ALLOCATE.store(true, Ordering::Release);

    together(Phase::Mixed, count, || mixed(count));
    print!(
        "mixed: {count} CPUs, {ROUNDS} rounds each, {} timer interrupts, {} that no mask keeps away",
        all_ticks(),
        unmaskable_interrupts(),
    );
    fill_memory();
    interrupt_every_step();
    // The private cache goes and comes again while nobody uses it.
    TIMERS_ALLOCATE.store(false, Ordering::Release);
    quiet_timers(count);
    destroy_cache();
    make_cache();
    TIMERS_ALLOCATE.store(true, Ordering::Release);
    together(Phase::Mixed, count, || mixed(count));
    assert!(unmaskable_interrupts() >= ROUNDS / 64, "and their handlers returned");
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

/// The main loop of every CPU but the first.
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
        // SAFETY: the object was allocated above and has no other user.
        unsafe { kmalloc().kfree(Some(start)) };
    }
    for start in all {
        // SAFETY: one of the sixteen, or nothing.
        unsafe { kmalloc().kfree(start.ok()) };
    }
    kmalloc().shrink_all();
    pages().held_pages()
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
    let mut held: Vec<Held> = Vec::with_capacity(MAX_HELD);
    for round in 0..ROUNDS {
        if own == 0 && round % 64 == 0 {
            apic::interrupt_all_unmaskably();
        }
        let number = (own as u64 + 1) << 48 | (round as u64) << 8;
        match random.below(100) {
            0..50 if held.len() < MAX_HELD => {
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
            _ if random.below(40) == 0 => _ = kmalloc().registry().shrink(8),
            _ => receive(own),
        }
    }
    held.into_iter().for_each(Held::free);
    // Allocations handed over last are freed by the CPU that runs here.
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

/// Allocations that the timer of a CPU holds from tick to tick.
struct HeldByTimer(UnsafeCell<[Option<Held>; 8]>);
// SAFETY: only its own CPU uses each, in the timer's handler or with interrupts masked.
unsafe impl Sync for HeldByTimer {}

static HELD_BY_TIMER: [HeldByTimer; MAX_CPUS] =
    [const { HeldByTimer(UnsafeCell::new([const { None }; 8])) }; MAX_CPUS];
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
    // A caller that must not wait may use the reserve, however short memory is.
    match reserve().allocate(Order::ZERO) {
        // SAFETY: the page taken from the reserve just now.
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
    (0..MAX_CPUS).map(|cpu| cpus::of(cpu).ticks.load(Ordering::Relaxed)).sum()
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

/// Brings home what the CPU that left has in its magazines.
fn take_over() {
    let cache = cache();
    let before = cache.stats().objects_active;
    cache.shrink_all();
    let after = cache.stats().objects_active;
    print!(
        "offline: a CPU left with objects in its slots; {before} were outside the slabs, {after} after take-over"
    );
    assert!(before > 0 && after == 0, "its objects came home");
}

/// Everything is checked, shown and given back.
fn finish(baseline: usize) {
    free_held_by_timer();
    while cpus::online() > 1 {
        core::hint::spin_loop();
    }
    validate();
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
    validate();
}

/// Checks everything, while no timer allocates. The other CPUs have stopped.
fn validate() {
    mask_interrupts();
    let objects = kmalloc().validate();
    let frames = zones().try_for_each(|zone| zone.validate());
    // SAFETY: as they were.
    unsafe { unmask_interrupts() };
    objects.expect("consistent");
    frames.expect("consistent");
}
