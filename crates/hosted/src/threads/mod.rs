//! Threads as CPUs: each running thread has the number of one set of per-CPU slots, as long as
//! there are enough.
//!
//! # Concepts
//! A thread takes a free number when it first calls `pin`, and frees the number when it ends. The
//! next thread that takes the number inherits the slots with their magazines.
//! A thread that finds no free number borrows a shared one in slow paths (`shared_numbers.rs`).
//! Where many numbers are taken, a thread that allocates begins with shared numbers, and earns one
//! of its own: most of many threads sleep.
//!
//! Other libraries run code at the end of a thread (destructors of thread-locals and of keys),
//! which may allocate. So a thread frees its number in the last of the rounds in which the system
//! calls such destructors. Destructors that run even later work without slots.
//!
//! # Concurrency
//! The Acquire of the compare-exchange that takes a number pairs with the Release that freed it,
//! which publishes the content of the slots to the next thread. The heavy fence is `membarrier`.

pub(crate) mod fork_lock;
mod membarrier;
pub(crate) mod miss_hook;
mod numbers;
pub(crate) mod pause;
mod shared_numbers;
pub(crate) mod tls;

use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use page_frame::{Cpu, CpuId, InterruptState, WithSlotStride};

use crate::system::keep_loaded::keep_loaded;
use crate::threads::numbers::{AT_ONCE, Numbers, OWN};
use crate::threads::pause::pause;
use crate::threads::tls::{ENDED, INSIDE, STRIDE, TAKING, THREAD_SLOTS};

/// Threads for heaps of many caches: with [`WithSlotStride`], a thread's slots of 127 caches lie on
/// two pages.
///
/// ```
/// use page_frame::{Cpu, WithSlotStride};
/// let cpus: hosted::HeapThreads = WithSlotStride(hosted::Threads);
/// assert_eq!(cpus.slots(), hosted::THREAD_SLOTS);
/// ```
pub type HeapThreads = WithSlotStride<Threads, STRIDE>;

/// The numbers that threads have, and the shared ones that a thread ever borrowed.
static TAKEN: Numbers = Numbers::new();

/// One more than the highest index of an id that a thread ever had.
static USED: AtomicU32 = AtomicU32::new(0);

/// The key whose destructor frees numbers, plus one; zero before it is created.
static KEY: AtomicU32 = AtomicU32::new(0);
/// The round of destructors in which a thread frees its number: the last one that POSIX guarantees.
/// ThreadSanitizer's own state of the thread ends in that round, and no code may run behind it.
const LAST_ROUND: usize = if cfg!(thread_sanitizer) { 3 } else { 4 };

/// The threads of this process as CPUs.
///
/// ```
/// use hosted::Threads;
/// use page_frame::Cpu;
/// let mine = Threads.pin();
/// let theirs = std::thread::spawn(|| Threads.pin()).join().unwrap();
/// assert_ne!(mine, theirs);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

// SAFETY: clause 1: a number belongs to one thread from the compare-exchange that set its bit until
// `free_number`, after which the thread has none; only signal handlers interrupt a thread. Clause
// 2: the Release and Acquire of `TAKEN`. Clause 3: `fence_all` is true only after a fence of all
// running threads, or where no other thread has a number, and so is a CPU. Clause 4: signals are
// not masked, but a handler that allocates is nested and only tries. The states are entries of the
// fork lock, which may be left in any order. Clause 5: the index of an id is a number plus one, and
// all numbers, shared ones too, are below `THREAD_SLOTS - 1`. Clause 6: the number is the thread's,
// for every value. Clause 7: zero. Clause 8: no number gives index 0. Clause 9: I1 of `tls.rs`: the
// distance is that of the thread's id, or of index 0.
//
// A thread frees its number in the destructors of its keys, after those of its thread-locals
// (`__call_tls_dtors` runs first). So it drops every guard that a thread-local keeps before. A
// forgotten guard leaves its slot busy for the next thread with that number.
unsafe impl Cpu for Threads {
    #[inline(always)]
    fn slots(&self) -> usize {
        THREAD_SLOTS
    }

    fn slots_used(&self) -> usize {
        // Acquire: pairs with the Release in `assign`: code that knows of a thread's number finds
        // it counted.
        USED.load(Ordering::Acquire) as usize
    }

    const UNOWNED: Option<CpuId> = Some(CpuId::new(0));

    #[inline(always)]
    fn pin(&self) -> Option<CpuId> {
        let state = tls::load();
        if tls::is_number(state) {
            return Some(CpuId::new(state));
        }
        assign().map(id_of)
    }

    #[inline(always)]
    fn pin_known(&self) -> Option<CpuId> {
        let offset = tls::line_offset();
        // SAFETY: clause 1: so `line_offset` says.
        (offset > 0).then(|| unsafe { CpuId::at_line_offset(offset as u32) })
    }

    #[inline(always)]
    fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
        Some(if stride == STRIDE {
            tls::advance(first)
        } else {
            first.wrapping_add(tls::line_offset() * (stride / CpuId::LINE))
        })
    }

    #[inline(always)]
    unsafe fn unpin(&self) {}

    #[inline(always)]
    fn borrow(&self) -> bool {
        tls::number().is_none() && borrow()
    }

    unsafe fn give_back(&self) {
        if let Some(number) = tls::number() {
            tls::store(0);
            shared_numbers::unlock(number);
        }
    }

    const HAS_MISS_HOOK: bool = true;

    #[inline(always)]
    fn note_miss(&self) {
        miss_hook::note_miss();
    }

    /// Makes no system call while no other thread has a number: no other thread uses slots then.
    fn fence_all(&self) -> bool {
        is_alone() || membarrier::fence_all()
    }

    /// Masks no signals: enters the fork lock, so that a fork waits until the caller holds no lock.
    /// See [`Forking`](crate::Forking).
    // Each lock of each cache calls it: inlined, it would add 24 KB to a library.
    #[inline(never)]
    fn mask_interrupts(&self) -> InterruptState {
        InterruptState(fork_lock::enter(tls::number()))
    }

    unsafe fn restore_interrupts(&self, state: InterruptState) {
        fork_lock::leave(state.0);
    }

    /// Spins a few rounds, then sleeps: the thread that holds the lock may be preempted.
    fn wait(&self, round: usize) {
        pause(round);
    }
}

impl Threads {
    /// Calls `run` if no other thread uses this machine, and keeps all others out of the allocators
    /// over it meanwhile. Returns `None`, and waits for nobody, if one does. A thread that has
    /// freed its number at its end counts only while it is in an allocator.
    ///
    /// ```
    /// use hosted::Threads;
    /// use page_frame::Cpu;
    /// let _ = Threads.pin();
    /// match Threads.while_alone(|| 7) {
    ///     Some(seven) => assert_eq!(seven, 7),
    ///     None => println!("another thread allocates"),
    /// }
    /// ```
    pub fn while_alone<R>(self, run: impl FnOnce() -> R) -> Option<R> {
        let own = tls::number();
        fork_lock::try_acquire_alone(|| are_others(own)).then(|| {
            let _held = fork_lock::Held;
            run()
        })
    }
}

/// Returns the id of the thread with this number.
#[inline(always)]
pub(crate) fn id_of(number: u32) -> CpuId {
    CpuId::new(number + 1)
}

/// Returns whether any thread but the one with the number `own` may have a number.
pub(crate) fn are_others(own: Option<usize>) -> bool {
    // SeqCst: after the fork lock was acquired, in one order with the exchange in `take_number` and
    // the load of the lock after it.
    TAKEN.has_others(own)
}

/// Returns whether no thread but the caller has a number. A thread that takes one later sees all
/// that the caller stored before the call.
fn is_alone() -> bool {
    // Orders the caller's stores before the load. Pairs with the fences in `take_number` and
    // `borrow`: if the load does not see the bit of another thread, that thread's loads after its
    // fence see the stores.
    fence(Ordering::SeqCst);
    !are_others(tls::number())
}

/// Frees all numbers but the running thread's, in a child of `fork`.
pub(crate) fn forget_others() {
    let own = tls::number();
    TAKEN.keep_only(own);
    shared_numbers::forget_others(own);
    membarrier::forget();
}

/// Lends the running thread, which has no number, a shared one, or gives it a number of its own if
/// it is to have one. Returns whether it lent one.
#[cold]
#[inline(never)]
fn borrow() -> bool {
    if tls::load() >= INSIDE || TAKEN.own_taken() < AT_ONCE && assign().is_some() {
        return false;
    }
    let Some(number) = shared_numbers::lock() else { return false };
    if shared_numbers::earns_own(number) && TAKEN.own_taken() < OWN {
        shared_numbers::unlock(number);
        _ = assign();
        return false;
    }
    // The bit stays: a process with so many threads is not alone, and a fork freezes the slots.
    if TAKEN.insert(number) {
        // Pairs with the fence in `is_alone`.
        fence(Ordering::SeqCst);
        // Release: as in `slots_used`.
        USED.fetch_max(number as u32 + 2, Ordering::Release);
    }
    // After the bit: a thread that acquires the lock later sees it, and freezes the slots.
    fork_lock::wait_until_free();
    let before = tls::swap(number as u32 + 1);
    if before != 0 {
        // A signal handler has taken a number for the thread meanwhile.
        tls::store(before);
        shared_numbers::unlock(number);
        return false;
    }
    true
}

#[cold]
#[inline(never)]
fn assign() -> Option<u32> {
    let state = tls::load();
    if matches!(state, ENDED | TAKING | INSIDE) {
        return None;
    }
    let disarmed = state & !tls::ARMED;
    if tls::is_number(disarmed) {
        tls::store(disarmed);
        return Some(disarmed - 1);
    }
    // The calls below may allocate: libraries may replace the functions of the C library. Such
    // requests do without a slot. A signal handler may have taken a number meanwhile.
    let before = tls::swap(TAKING) & !tls::ARMED;
    if tls::is_number(before) {
        tls::store(before);
        return Some(before - 1);
    }
    let number = take_number();
    if number.is_none() && tls::load() == TAKING {
        tls::store(0);
    }
    number
}

fn take_number() -> Option<u32> {
    let key = key()?;
    let number = loop {
        fork_lock::wait_until_free();
        let number = TAKEN.take_lowest()?;
        // Pairs with the fence in `is_alone`.
        fence(Ordering::SeqCst);
        // A thread that has acquired the lock before it could see the number has not frozen the
        // slots. One that acquires it from now on sees the number (SeqCst on both sides).
        if !fork_lock::is_held_by_other() {
            break number as u32;
        }
        TAKEN.free(number);
    };
    // Release: as in `slots_used`.
    USED.fetch_max(number + 2, Ordering::Release);
    // Stored before `set_round`, which may allocate.
    tls::store(number + 1);
    if !set_round(key, number, 1) {
        free_number(number);
        return None;
    }
    Some(number)
}

fn key() -> Option<libc::pthread_key_t> {
    // Relaxed, here and in the exchange: the key publishes no other data.
    if let Some(key) = KEY.load(Ordering::Relaxed).checked_sub(1) {
        return Some(key);
    }
    // The destructor is code of this library.
    keep_loaded();
    let mut key = 0;
    // SAFETY: writes a key; the destructor is sound to call with what `set_round` stores.
    if unsafe { libc::pthread_key_create(&raw mut key, Some(thread_ends)) } != 0 {
        return None;
    }
    match KEY.compare_exchange(0, key + 1, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => Some(key),
        Err(first) => {
            // SAFETY: the key is ours, and no thread has a value for it.
            unsafe { libc::pthread_key_delete(key) };
            Some(first - 1)
        }
    }
}

/// Makes the C library call `thread_ends` for `number` in round `round` of the thread's
/// destructors. Returns whether that succeeded.
fn set_round(key: libc::pthread_key_t, number: u32, round: usize) -> bool {
    let value = core::ptr::without_provenance::<c_void>((number as usize) << 8 | round);
    // SAFETY: a key of ours; the value is a number and is never followed.
    unsafe { libc::pthread_setspecific(key, value) == 0 }
}

unsafe extern "C" fn thread_ends(value: *mut c_void) {
    let (number, round) = ((value.addr() >> 8) as u32, value.addr() & 0xff);
    let waits = round < LAST_ROUND && key().is_some_and(|key| set_round(key, number, round + 1));
    if !waits {
        free_number(number);
    }
}

fn free_number(number: u32) {
    tls::store(ENDED);
    TAKEN.free(number as usize);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::numbers::SHARED;
    use std::sync::{Barrier, Mutex, PoisonError};

    /// Held by tests that need all numbers, or one for sure.
    static NUMBERS: Mutex<()> = Mutex::new(());

    /// Mutations that it catches: a number that is never freed; only eight numbers.
    #[test]
    fn running_threads_have_different_numbers_and_the_last_have_none() {
        let _alone = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = THREAD_SLOTS + 8;
        let all_started = Barrier::new(threads);
        let numbers: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                let number = Threads.pin();
                all_started.wait();
                number
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
            running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut given: Vec<_> = numbers.iter().flatten().map(|id| id.index()).collect();
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), numbers.iter().flatten().count(), "no number twice");
        assert!(numbers.iter().any(Option::is_none), "more threads than slots");
        for _ in 0..3 * THREAD_SLOTS {
            let number = std::thread::spawn(|| Threads.pin()).join().expect("no panic");
            assert!(number.is_some(), "numbers come back when threads end");
        }
    }

    /// Mutations that it catches: a shared number that two threads have; one that stays with its
    /// thread.
    #[test]
    fn threads_without_a_number_borrow_different_ones() {
        let _alone = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = THREAD_SLOTS + 8;
        let (all_started, all_done) = (Barrier::new(threads), Barrier::new(threads));
        let lent: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                let own = Threads.pin();
                all_started.wait();
                let is_lent = Threads.borrow();
                let number = Threads.pin_known();
                all_done.wait();
                if is_lent {
                    // SAFETY: clause 1: pairs with the `borrow` above, and no slot was entered.
                    unsafe { Threads.give_back() };
                }
                assert_eq!(Threads.pin_known(), own, "a borrowed number goes back");
                number.filter(|_| is_lent).map(|number| number.index())
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(ask)).collect();
            running.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        let mut different = lent.clone();
        different.sort_unstable();
        different.dedup();
        assert_eq!((different.len(), lent.len()), (SHARED, different.len()));
        assert!(lent.iter().all(|index| (OWN + 1..THREAD_SLOTS).contains(index)));
    }

    /// Mutations that it catches: each thread gets a number at once; a thread that allocates much
    /// never gets one; a shared number that stays locked after that.
    #[test]
    fn where_many_numbers_are_taken_a_thread_earns_one() {
        let _alone = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let (all_started, all_done) = (Barrier::new(AT_ONCE + 1), Barrier::new(AT_ONCE + 1));
        let operations = std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let _ = Threads.pin();
                    all_started.wait();
                    all_done.wait();
                });
            }
            all_started.wait();
            // Returns whether the thread has a number of its own after an operation.
            let operate = || {
                if Threads.borrow() {
                    // SAFETY: clause 1: pairs with the `borrow`, and no slot was entered.
                    unsafe { Threads.give_back() };
                }
                tls::number().is_some()
            };
            // Other tests may lock a shared number meanwhile, so the thread may count with each.
            let most = shared_numbers::TURN * SHARED as u32;
            // One thread more than there are shared numbers.
            let operations: Vec<_> = (0..=SHARED)
                .map(|_| scope.spawn(move || (1..=most).find(|_| operate())))
                .map(|thread| thread.join().expect("no panic"))
                .collect();
            all_done.wait();
            operations
        });
        assert!(operations.iter().all(Option::is_some), "each earns one: {operations:?}");
        let sum: u32 = operations.iter().flatten().sum();
        assert!(sum > 10 * SHARED as u32, "not at once: {operations:?}");
    }

    /// A bit for each round of destructors: whether the thread had a number in it.
    static SEEN: AtomicU32 = AtomicU32::new(0);
    static SEES: AtomicU32 = AtomicU32::new(0);

    unsafe extern "C" fn see(round: *mut c_void) {
        let has_number = Threads.pin().is_some();
        SEEN.fetch_or(u32::from(has_number) << round.addr(), Ordering::Relaxed);
        let next = core::ptr::without_provenance::<c_void>(round.addr() + 1);
        // SAFETY: the key that this is the destructor of; the value is a number.
        unsafe { libc::pthread_setspecific(SEES.load(Ordering::Relaxed), next) };
    }

    /// Mutations that it catches: a number freed in the first round; one never freed; a thread that
    /// gets another number after that; `free_number` that leaves the thread its state.
    #[test]
    fn a_thread_that_ends_has_its_number_until_the_last_round_and_none_after_it() {
        let _alone = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(Threads.pin().is_some(), "makes the key, which is to be before the next one");
        let mut sees = 0;
        // SAFETY: the destructor takes any value.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut sees, Some(see)) }, 0);
        SEES.store(sees, Ordering::Relaxed);
        let ends = move || {
            assert!(Threads.pin().is_some());
            // SAFETY: a key of ours; the value is a number.
            unsafe { libc::pthread_setspecific(sees, core::ptr::without_provenance::<c_void>(1)) };
        };
        std::thread::spawn(ends).join().expect("no panic");
        assert_eq!(SEEN.load(Ordering::Relaxed), 0b1110, "in rounds 1 to 3, not in the fourth");
    }

    #[test]
    fn the_heavy_fence_works_here() {
        assert!(Threads.fence_all());
    }
}
