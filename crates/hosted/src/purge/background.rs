//! A thread that calls a function at intervals, without the standard library.
//!
//! # Concepts
//! The thread and its owner share a page of memory that is mapped for them. So there is no limit on
//! the number of threads, and starting one allocates nothing beside what the C library allocates
//! for a thread. The thread blocks all signals.
//!
//! # Concurrency
//! Both threads write `stop` only. The thread sleeps on it (a futex), and wakes when the interval
//! has passed or `stop` is set.
//!
//! # Invariants
//! - I1: the shared page stays mapped until the thread has read it for the last time. The owner
//!   joins the thread before it unmaps the page. A thread that drops its own owner cannot join
//!   itself; it takes the page over and unmaps it at its end.

use core::cell::Cell;
use core::ffi::c_void;
use core::mem::ManuallyDrop;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use page_frame::PAGE_SIZE;
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::system::mapping::Mapped;
use crate::system::os_error::OsError;

/// The size of the thread's stack in bytes: enough for functions that scan tables and call the
/// system.
const STACK_BYTES: usize = 128 << 10;

/// The data that the thread and its owner share.
struct Shared<T: 'static> {
    /// Zero until the owner stops the thread.
    stop: AtomicU32,
    interval: Duration,
    subject: &'static T,
    run: fn(&'static T),
    /// The mapping of this page, once the thread has dropped its own owner. Only the thread uses
    /// it.
    own_memory: Cell<Option<Mapped>>,
}

/// A thread that calls a function at intervals. Dropping it stops the thread and waits for its end.
/// When the function itself drops its `Background`, the thread ends after the function has
/// returned.
///
/// A child of `fork` does not have the thread; dropping the child's copy does nothing. A function
/// that panics ends the process.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::Duration;
/// static TIMES: AtomicUsize = AtomicUsize::new(0);
/// let count = |times: &'static AtomicUsize| _ = times.fetch_add(1, Ordering::Relaxed);
/// let every = Duration::from_millis(1);
/// let background = hosted::Background::start(c"counter", every, &TIMES, count)?;
/// while TIMES.load(Ordering::Relaxed) < 3 {
///     std::thread::yield_now();
/// }
/// drop(background);
/// # Ok::<(), hosted::OsError>(())
/// ```
#[derive(Debug)]
pub struct Background<T: Sync + 'static> {
    shared: NonNull<Shared<T>>,
    memory: ManuallyDrop<Mapped>,
    thread: libc::pthread_t,
    /// The process in which the thread runs.
    process: libc::pid_t,
}

// SAFETY: `drop` on another thread sets `stop` and joins; on the thread itself it stores the
// mapping, which no other thread reads. The subject is `Sync`.
unsafe impl<T: Sync> Send for Background<T> {}
// SAFETY: no method takes a shared reference.
unsafe impl<T: Sync> Sync for Background<T> {}

impl<T: Sync + 'static> Background<T> {
    /// Starts a thread named `name` (15 bytes at most are kept) that calls `run` with `subject`
    /// after each `interval`. Example: see [`Background`].
    ///
    /// # Errors
    /// The error of `pthread_create`.
    pub fn start(
        name: &core::ffi::CStr,
        interval: Duration,
        subject: &'static T,
        run: fn(&'static T),
    ) -> Result<Self, OsError> {
        const { assert!(size_of::<Shared<T>>() <= PAGE_SIZE) };
        let memory = Mapped::reserve(PAGE_SIZE)?;
        let shared = memory.start().cast::<Shared<T>>();
        let stop = AtomicU32::new(0);
        let own_memory = Cell::new(None);
        // SAFETY: fresh memory, large enough by the assertion, aligned to a page.
        unsafe { shared.write(Shared { stop, interval, subject, run, own_memory }) };
        let before = Signals::blocked();
        let thread = spawn(run_at_intervals::<T>, shared.as_ptr().cast());
        before.restore();
        let thread = thread?;
        // SAFETY: the thread has not been joined; the name ends with zero. The system refuses a
        // name that is too long.
        unsafe { libc::pthread_setname_np(thread, name.as_ptr()) };
        // SAFETY: no arguments.
        let process = unsafe { libc::getpid() };
        Ok(Self { shared, memory: ManuallyDrop::new(memory), thread, process })
    }
}

impl<T: Sync + 'static> Drop for Background<T> {
    fn drop(&mut self) {
        // SAFETY: `memory` is not used again.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        // SAFETY: no arguments.
        let runs_here = unsafe { libc::getpid() } == self.process;
        // SAFETY: no arguments.
        let is_itself = unsafe { libc::pthread_self() } == self.thread;
        // SAFETY: written by `start`, and I1: mapped until the thread has ended, with `memory`.
        let shared = unsafe { self.shared.as_ref() };
        // Release: pairs with the thread's Acquire, though nothing but the number is published.
        shared.stop.store(1, Ordering::Release);
        if is_itself {
            // Also in a child that this thread forked. (In a child, another thread may have the
            // same identity: then the page leaks, and that thread must not be detached.)
            if runs_here {
                // SAFETY: the running thread. Only its owner could join it, which is dropped here.
                unsafe { libc::pthread_detach(self.thread) };
            }
            shared.own_memory.set(Some(memory));
        } else if runs_here {
            let _ = futex::wake(&shared.stop, futex::Flags::PRIVATE, 1);
            // SAFETY: another thread of this process, which is joined here and nowhere else.
            unsafe { libc::pthread_join(self.thread, null_mut()) };
        }
    }
}

fn spawn(
    main: extern "C" fn(*mut c_void) -> *mut c_void,
    shared: *mut c_void,
) -> Result<libc::pthread_t, OsError> {
    // SAFETY: zero bytes are a valid value of the C struct; the call below initialises it.
    let mut attributes: libc::pthread_attr_t = unsafe { core::mem::zeroed() };
    let attributes = &raw mut attributes;
    // SAFETY: our own value, which the call writes.
    let mut error = unsafe { libc::pthread_attr_init(attributes) };
    let mut thread = 0;
    if error == 0 {
        // SAFETY: initialised above. A system whose threads need more refuses, and uses its
        // default.
        let _ = unsafe { libc::pthread_attr_setstacksize(attributes, STACK_BYTES) };
        // SAFETY: `main` takes `shared`, which by I1 stays mapped until the thread is joined.
        error = unsafe { libc::pthread_create(&raw mut thread, attributes, main, shared) };
        // SAFETY: initialised above, and not used again.
        unsafe { libc::pthread_attr_destroy(attributes) };
    }
    if error == 0 { Ok(thread) } else { Err(OsError::new(error)) }
}

extern "C" fn run_at_intervals<T: Sync + 'static>(shared: *mut c_void) -> *mut c_void {
    // SAFETY: `start` passed the `Shared` that it wrote, and I1: the page stays mapped until this
    // thread drops `own_memory`, or has ended.
    let shared = unsafe { &*shared.cast::<Shared<T>>() };
    let interval = Timespec {
        tv_sec: shared.interval.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: shared.interval.subsec_nanos().into(),
    };
    // Acquire: pairs with the Release of the owner.
    while shared.stop.load(Ordering::Acquire) == 0 {
        let woken = futex::wait(&shared.stop, futex::Flags::PRIVATE, 0, Some(&interval));
        if woken == Err(Errno::TIMEDOUT) {
            (shared.run)(shared.subject);
        }
    }
    // The last access to the page, which this drop may unmap.
    let own_memory = shared.own_memory.take();
    drop(own_memory);
    null_mut()
}

/// The signal mask of a thread before it blocked all signals; a thread that it starts meanwhile
/// inherits the block.
struct Signals(libc::sigset_t);

impl Signals {
    fn blocked() -> Self {
        // SAFETY: zero bytes are a valid value of the C struct.
        let mut all: libc::sigset_t = unsafe { core::mem::zeroed() };
        let mut before = all;
        // SAFETY: our own set, which the call writes.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: both sets are ours; the caller restores the mask.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before) };
        Self(before)
    }

    fn restore(self) {
        // SAFETY: the mask that the thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, null_mut()) };
    }
}
