//! The global allocator: a panic leaves it usable, and never unwinds out of `GlobalAlloc`. The
//! address of an empty allocation enters no cache.

use std::alloc::{GlobalAlloc, Layout};
use std::mem::MaybeUninit;
use std::panic::catch_unwind;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use hosted::Threads;
use kmalloc::{Global, Kmalloc};
use page_frame::{Arena, OutOfMemory, Reclaiming, Shrink};
use slab::Registry;

type Static = &'static Arena<'static>;

fn static_arena() -> Static {
    let memory = Vec::leak(vec![MaybeUninit::uninit(); 1 << 20]);
    Box::leak(Box::new(Arena::new(memory).expect("large enough")))
}

fn set_up() -> Result<Kmalloc<(Static, Threads)>, OutOfMemory> {
    Ok(Kmalloc::new(Registry::new(static_arena(), Threads)?))
}

#[test]
fn a_setup_that_panics_is_tried_again() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    static HEAP: Global<(Static, Threads)> = Global::new(|| {
        assert!(CALLS.fetch_add(1, Ordering::SeqCst) > 0, "the first time");
        set_up()
    });
    assert!(catch_unwind(|| HEAP.kmalloc().is_ok()).is_err());
    assert!(HEAP.get().is_none());
    // In a thread of its own: if the panic left the state at "starting", this would wait for ever.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(HEAP.kmalloc().is_ok()));
    assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok(true));
    assert_eq!(CALLS.load(Ordering::SeqCst), 2);
}

/// The environment variable that is set in the child process of a test.
const CHILD: &str = "KMALLOC_SOUNDNESS_CHILD";

/// Runs the test `name` again in a child process, which calls `die`. The call must not return: the
/// panic that must not unwind ends the child.
fn ends_the_program(name: &str, die: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        die();
        std::process::exit(0);
    }
    let this = std::env::current_exe().expect("the program's name");
    let mut child = Command::new(this);
    let child = child.args([name, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let child = child.expect("the program starts");
    let told = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), None, "a signal ends it: {told}");
    assert!(told.contains("a global allocator must not unwind"), "{told}");
}

#[test]
fn a_setup_that_panics_in_a_request_of_the_program_ends_it() {
    static HEAP: Global<(Static, Threads)> = Global::new(|| panic!("in setup"));
    ends_the_program("global::a_setup_that_panics_in_a_request_of_the_program_ends_it", || {
        // SAFETY: the layout has a size.
        let _ = catch_unwind(|| unsafe { HEAP.alloc(Layout::new::<u64>()) });
    });
}

struct Panicking;

impl Shrink for Panicking {
    fn reclaimable(&self) -> usize {
        1
    }

    fn shrink(&self, _: usize) -> usize {
        panic!("in a shrinker")
    }
}

#[test]
fn a_callback_that_panics_in_a_request_of_the_program_ends_it() {
    type Source = Reclaiming<Static, Panicking>;
    static HEAP: Global<(Source, Threads)> = Global::new(|| {
        Ok(Kmalloc::new(Registry::new(Reclaiming::new(static_arena(), Panicking), Threads)?))
    });
    let layout = Layout::new::<[u8; 2000]>();
    ends_the_program("global::a_callback_that_panics_in_a_request_of_the_program_ends_it", || {
        let kmalloc = HEAP.kmalloc().expect("room");
        let direct = || (0..1000).try_for_each(|_| kmalloc.allocate(layout).map(drop));
        let outcome = catch_unwind(std::panic::AssertUnwindSafe(direct));
        assert!(outcome.is_err(), "to the caller of `allocate` the panic goes on");
        kmalloc.validate().expect("consistent");
        // SAFETY: the layout has a size.
        let allocate = |_| std::hint::black_box(unsafe { HEAP.alloc(layout) });
        let through = || (0..1000).map(allocate).all(|start| !start.is_null());
        let _ = catch_unwind(through);
    });
}

#[test]
fn the_address_of_an_empty_allocation_enters_no_cache() {
    static HEAP: Global<(Static, Threads)> = Global::new(set_up);
    for align in [1, 8, 64, 4096] {
        let nothing = Layout::from_size_align(0, align).expect("a layout");
        let dangling = std::ptr::without_provenance_mut::<u8>(align);
        for _ in 0..100 {
            // SAFETY: no memory is at the address, and by its layout nothing is freed.
            unsafe { HEAP.dealloc(dangling, nothing) };
        }
    }
    assert!(HEAP.get().is_none(), "no request was made");
    let layout = Layout::new::<u64>();
    for _ in 0..100 {
        // SAFETY: as above.
        unsafe { HEAP.dealloc(std::ptr::dangling_mut::<u64>().cast(), Layout::new::<[u64; 0]>()) };
        // SAFETY: the layout has a size.
        let start = unsafe { HEAP.alloc(layout) };
        assert!(start.addr() > 4096, "{start:p} is memory");
        // SAFETY: eight bytes of ours.
        unsafe { start.cast::<u64>().write(7) };
    }
    let kmalloc = HEAP.get().expect("it has been used");
    kmalloc.validate().expect("consistent");
    kmalloc.shrink_all();
}

#[test]
fn an_empty_allocation_may_grow_and_shrink_to_empty() {
    static HEAP: Global<(Static, Threads)> = Global::new(set_up);
    let (nothing, some) = (Layout::new::<[u64; 0]>(), Layout::new::<[u64; 9]>());
    for _ in 0..100 {
        // SAFETY: nothing is at the address, so nothing is copied or freed.
        let start = unsafe { HEAP.realloc(std::ptr::dangling_mut::<u64>().cast(), nothing, 72) };
        assert!(start.addr() > 4096, "{start:p} is memory");
        // SAFETY: 72 bytes of ours.
        unsafe { start.write_bytes(1, 72) };
        // SAFETY: allocated above for `some`, and not used any more.
        let end = unsafe { HEAP.realloc(start, some, 0) };
        assert_eq!(end.addr(), 8);
        // SAFETY: what `realloc` returned, which is nothing.
        unsafe { HEAP.dealloc(end, nothing) };
    }
    let kmalloc = HEAP.get().expect("it has been used");
    kmalloc.shrink_all();
    let mut active = 0;
    kmalloc.registry().stats(|stats| {
        let is_class = stats.name.as_str().starts_with("kmalloc-");
        active += if is_class { stats.objects_active } else { 0 };
    });
    assert_eq!(active, 0, "everything was freed");
}
