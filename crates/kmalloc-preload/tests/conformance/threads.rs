//! Threads, their ends, forks, and signals.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use crate::End::Well;
use crate::calls::{calloc, check, fill, free, malloc, realloc, usable_size};
use crate::memory::{Steps, replace};
use crate::{Check, resident_bytes};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "destructors_of_threads_may_allocate", run: destructors, ends: Well },
    Check { name: "ten_thousand_threads_leave_nothing", run: short_threads, ends: Well },
    Check { name: "more_threads_than_slots", run: many_threads, ends: Well },
    Check { name: "memory_goes_from_thread_to_thread", run: handed_over, ends: Well },
    Check { name: "fork_with_threads", run: fork_with_threads, ends: Well },
    Check { name: "fork_by_a_thread", run: fork_by_a_thread, ends: Well },
    Check { name: "signal_handlers_may_allocate", run: signals, ends: Well },
    Check { name: "signal_handlers_may_allocate_after_any_instruction", run: steps, ends: Well },
];

struct Greedy(Vec<Vec<u8>>);

impl Drop for Greedy {
    fn drop(&mut self) {
        self.0.clear();
        self.0.extend((0..500).map(|size| vec![1; size]));
    }
}

thread_local! {
    static GREEDY: RefCell<Greedy> = const { RefCell::new(Greedy(Vec::new())) };
}

static DESTRUCTIONS: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" fn destroy(value: *mut c_void) {
    let round = value.addr();
    let many: Vec<_> = (0..300).map(|index| malloc(index * 3)).collect();
    many.into_iter().for_each(free);
    DESTRUCTIONS.fetch_add(1, Ordering::Relaxed);
    if round < 4 {
        KEY.with_value(round + 1);
    }
}

struct Key(AtomicUsize);
static KEY: Key = Key(AtomicUsize::new(0));

impl Key {
    fn with_value(&self, value: usize) {
        let key = self.0.load(Ordering::Relaxed) as libc::pthread_key_t;
        let value = std::ptr::without_provenance::<c_void>(value);
        // SAFETY: a key of ours; the value is a number.
        assert_eq!(unsafe { libc::pthread_setspecific(key, value) }, 0);
    }
}

fn create_key() {
    let mut key = 0;
    // SAFETY: the destructor takes any value.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(destroy)) }, 0);
    KEY.0.store(key as usize, Ordering::Relaxed);
}

fn destructors() {
    create_key();
    for _ in 0..50 {
        let ends = || {
            GREEDY.with_borrow_mut(|greedy| greedy.0.extend((0..200).map(|size| vec![2; size])));
            KEY.with_value(1);
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(ends)).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
    assert!(DESTRUCTIONS.load(Ordering::Relaxed) >= 200 * 4);
}

/// Ten thousand threads, four at a time, whose destructors allocate, leave what the magazines of a
/// few threads hold, and nothing that is still there when memory is asked back. Slots that no
/// thread gives back would be 60 threads' magazines: 20 MB.
///
/// Mutations that it catches: numbers that are not given back; 100 bytes that each thread leaves.
fn short_threads() {
    create_key();
    let batch = || {
        let work = |seed: u64| {
            move || {
                GREEDY.with_borrow_mut(|greedy| greedy.0.extend((0..50).map(|_| vec![2; 300])));
                KEY.with_value(1);
                replace(seed, 50, 5000);
            }
        };
        let threads: Vec<_> = (0..4).map(|seed| std::thread::spawn(work(seed))).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    };
    let resident_after = |threads: usize| {
        (0..threads / 4).for_each(|_| batch());
        let resident = resident_bytes();
        // SAFETY: any number is allowed.
        unsafe { libc::malloc_trim(0) };
        (resident, resident_bytes())
    };
    let before = resident_bytes();
    let (some, some_trimmed) = resident_after(2000);
    let (all, all_trimmed) = resident_after(8000);
    assert_eq!(DESTRUCTIONS.load(Ordering::Relaxed), 10_000 * 4);
    assert!(some <= before + (4 << 20), "{before} bytes, then {some} after 2,000 threads");
    assert!(all <= some + (3 << 19), "{some} bytes, then {all} after 8,000 threads more");
    let said = format!("{some_trimmed} bytes are left of 2,000 threads, {all_trimmed} of 10,000");
    assert!(all_trimmed <= some_trimmed + (128 << 10), "{said}");
}

fn many_threads() {
    let all_are_there = Barrier::new(150);
    std::thread::scope(|scope| {
        for seed in 0..150 {
            let all_are_there = &all_are_there;
            scope.spawn(move || {
                let first = malloc(100);
                all_are_there.wait();
                replace(seed, 2000, 2000);
                all_are_there.wait();
                free(first);
            });
        }
    });
}

fn handed_over() {
    let (sender, receiver) = mpsc::sync_channel::<(usize, usize)>(1000);
    let consumer = std::thread::spawn(move || {
        for (address, bytes) in receiver {
            let start = std::ptr::with_exposed_provenance_mut(address);
            check(start, bytes, bytes);
            free(start);
        }
    });
    for index in 0..200_000 {
        let bytes = index % 700 + 1;
        let start = malloc(bytes);
        fill(start, bytes, bytes);
        sender.send((start.expose_provenance(), bytes)).expect("the consumer is there");
    }
    drop(sender);
    consumer.join().expect("no panic");
}

fn fork_with_threads() {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    replace(seed, 2000, 3000);
                }
            });
        }
        for round in 0..150 {
            let kept = malloc(1000);
            fill(kept, 1000, round);
            // SAFETY: the child only allocates, makes threads, and ends at once.
            let child = unsafe { libc::fork() };
            if child == 0 {
                check(kept, 1000, round);
                free(kept);
                replace(99, 3000, 3000);
                let work = |seed| move || replace(seed, 1000, 3000);
                let threads: Vec<_> = (0..3).map(|seed| std::thread::spawn(work(seed))).collect();
                let is_well = threads.into_iter().all(|thread| thread.join().is_ok());
                // SAFETY: ends the process.
                unsafe { libc::_exit(if is_well { 7 } else { 1 }) };
            }
            assert!(child > 0);
            replace(5, 300, 3000);
            let mut status = 0;
            // SAFETY: waits for the child.
            assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
            free(kept);
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

/// The thread that forks is not the first, has no number because 80 others run, and becomes the
/// only one of the child.
fn fork_by_a_thread() {
    let is_over = AtomicBool::new(false);
    let all_are_there = Barrier::new(81);
    std::thread::scope(|scope| {
        for seed in 0..80 {
            let (is_over, all_are_there) = (&is_over, &all_are_there);
            scope.spawn(move || {
                free(malloc(100));
                all_are_there.wait();
                while !is_over.load(Ordering::Relaxed) {
                    replace(seed, 200, 3000);
                }
            });
        }
        all_are_there.wait();
        let forks = scope.spawn(|| {
            for round in 0..10 {
                // SAFETY: the child only allocates and ends at once.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    replace(round, 2000, 3000);
                    let more = std::thread::spawn(|| replace(1, 2000, 3000)).join().is_ok();
                    // SAFETY: ends the process.
                    unsafe { libc::_exit(if more { 7 } else { 1 }) };
                }
                let mut status = 0;
                // SAFETY: waits for the child.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
            }
        });
        let outcome = forks.join();
        is_over.store(true, Ordering::Relaxed);
        outcome.expect("no panic");
    });
}

/// Allocations that the handler keeps from one signal to the next: addresses, sizes and patterns.
static HELD: [[AtomicUsize; 2]; 64] = [const { [const { AtomicUsize::new(0) }; 2] }; 64];
static STEPS: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// How many steps are taken at most of requests, and of all memory that is asked back.
const MAX_STEPS: usize = 200_000;

/// Replaces one of the objects that it holds; ends the steps when there were enough.
#[cfg(target_arch = "x86_64")]
extern "C" fn step(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    let number = STEPS.fetch_add(1, Ordering::Relaxed);
    if number % MAX_STEPS == MAX_STEPS - 1 {
        // SAFETY: what the system will give the thread back.
        unsafe { (*context).uc_mcontext.gregs[libc::REG_EFL as usize] &= !0x100 };
    }
    let errno = crate::errno();
    let [address, bytes] = &HELD[number % HELD.len()];
    let start: *mut u8 = std::ptr::with_exposed_provenance_mut(address.load(Ordering::Relaxed));
    let old = bytes.load(Ordering::Relaxed);
    if !start.is_null() {
        check(start, old.min(40), old);
    }
    let new = match number % 64 {
        0 => 40_000 + number % 300_000,
        1..8 => number % 5000,
        _ => number % 300,
    };
    let next = match number % 3 {
        0 if !start.is_null() => realloc(start, new + 1),
        1 => calloc(new + 1, 1),
        _ => malloc(new + 1),
    };
    // A handler on top of the allocator may be refused memory.
    let is_kept = next.is_null() && number % 3 == 0;
    if number % 3 != 0 {
        free(start);
    }
    REFUSED.fetch_add(usize::from(next.is_null()), Ordering::Relaxed);
    if !next.is_null() {
        fill(next, (new + 1).min(40), new + 1);
        bytes.store(new + 1, Ordering::Relaxed);
    }
    if !is_kept {
        address.store(next.expose_provenance(), Ordering::Relaxed);
    }
    crate::set_errno(errno);
}

/// Does `work` with the CPU stopping after each of its instructions.
#[cfg(target_arch = "x86_64")]
fn stepwise<R>(work: impl FnOnce() -> R) -> R {
    // SAFETY: bit 8 of the flags raises SIGTRAP after each instruction, and a handler is installed.
    unsafe { std::arch::asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    let outcome = work();
    // SAFETY: and no more.
    unsafe { std::arch::asm!("pushfq", "and qword ptr [rsp], -257", "popfq") };
    outcome
}

/// A handler that allocates comes after each instruction of the allocator: on all ways through it,
/// refills, large blocks, blocks that move and memory that goes back among them.
///
/// Mutations that it catches: a slot that is taken though it is `busy`; `locking` not looked at,
/// which waits for ever.
#[cfg(target_arch = "x86_64")]
fn steps() {
    // SAFETY: all zero is a value of it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = step as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler only allocates, which is what is checked.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, null_mut()) }, 0);
    let mut random = Steps(5);
    let mut held: Vec<(*mut u8, usize)> = Vec::with_capacity(1000);
    while STEPS.load(Ordering::Relaxed) < MAX_STEPS {
        let bytes = match random.below(16) {
            0 => 4000 + random.below(60_000),
            1 => 200_000 + random.below(3_000_000),
            _ => 1 + random.below(600),
        };
        let place = random.below(held.len() + 1);
        let start = match (random.below(8), held.get(place).copied()) {
            (0..3, Some((start, old))) => {
                check(start, old.min(64), old);
                held.swap_remove(place);
                stepwise(|| free(start));
                continue;
            }
            (3, Some((start, old))) => {
                held.swap_remove(place);
                let start = stepwise(|| realloc(start, bytes));
                check(start, old.min(bytes).min(64), old);
                start
            }
            // Zeroing takes an instruction for a few bytes.
            (4, _) => stepwise(|| calloc(bytes % 600 + 1, 1)),
            _ => stepwise(|| malloc(bytes)),
        };
        assert!(!start.is_null(), "{bytes} bytes");
        let room = usable_size(start).min(bytes);
        fill(start, room.min(64), room);
        held.push((start, room));
    }
    STEPS.store(0, Ordering::Relaxed);
    // SAFETY: any number is allowed.
    stepwise(|| unsafe { libc::malloc_trim(0) });
    let refused = REFUSED.load(Ordering::Relaxed);
    assert!(refused < MAX_STEPS / 100, "{refused} requests were refused");
    for (start, bytes) in held {
        check(start, bytes.min(64), bytes);
        free(start);
    }
    for [address, bytes] in &HELD {
        let start: *mut u8 = std::ptr::with_exposed_provenance_mut(address.load(Ordering::Relaxed));
        let bytes = bytes.load(Ordering::Relaxed);
        if !start.is_null() {
            check(start, bytes.min(40), bytes);
            free(start);
        }
    }
    replace(4, 5000, 5000);
}

#[cfg(not(target_arch = "x86_64"))]
fn steps() {}

/// How many signals are to come upon the allocator or what uses it.
const ENOUGH: usize = 1000;
static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn handle(_: c_int) {
    let number = HANDLED.fetch_add(1, Ordering::Relaxed);
    let starts = [malloc(number % 3000), malloc(50), malloc(number % 40_000)];
    for (start, bytes) in starts.iter().zip([number % 3000, 50, number % 40_000]) {
        // A handler on top of the allocator may be refused memory.
        if !start.is_null() {
            fill(*start, bytes.min(100), 1);
        }
    }
    starts.into_iter().for_each(free);
}

fn signals() {
    // SAFETY: all zero is a value of it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler only allocates, which is what is checked.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, null_mut()) }, 0);
    let is_over = AtomicBool::new(false);
    // SAFETY: names the running thread.
    let target = unsafe { libc::pthread_self() } as usize;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let before = HANDLED.load(Ordering::Relaxed);
                // SAFETY: the thread is alive until the scope has ended.
                unsafe { libc::pthread_kill(target as libc::pthread_t, libc::SIGUSR1) };
                for _ in 0..2000 {
                    if HANDLED.load(Ordering::Relaxed) != before {
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
        });
        let start = Instant::now();
        let mut seed = 0;
        while HANDLED.load(Ordering::Relaxed) < ENOUGH && start.elapsed() < Duration::from_secs(60)
        {
            replace(seed, 5000, 3000);
            replace(seed, 100, 2_000_000);
            seed += 1;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let handled = HANDLED.load(Ordering::Relaxed);
    assert!(handled >= ENOUGH, "{handled}");
}
