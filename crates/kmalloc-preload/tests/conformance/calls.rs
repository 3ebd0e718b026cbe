//! The result of each function, and its effect on `errno`.

use std::ffi::{CStr, c_void};
use std::hint::black_box;
use std::ptr::{null_mut, without_provenance_mut};

use crate::End::Well;
use crate::{Check, errno, set_errno};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "memory_is_aligned_to_16", run: alignment, ends: Well },
    Check { name: "no_bytes_are_an_object", run: no_bytes, ends: Well },
    Check { name: "calloc_is_zero_and_refuses_overflow", run: zeroed, ends: Well },
    Check { name: "huge_sizes_fail_with_enomem", run: huge, ends: Well },
    Check { name: "realloc_keeps_content_and_semantics", run: resized, ends: Well },
    Check { name: "errno_is_kept_by_success", run: errno_is_kept, ends: Well },
    Check { name: "posix_memalign_says_what_is_wrong", run: posix_memalign, ends: Well },
    Check { name: "aligned_relatives_align", run: aligned_relatives, ends: Well },
    Check { name: "usable_size_may_be_used", run: usable_bytes, ends: Well },
    Check { name: "sized_frees_free", run: sized_frees, ends: Well },
    Check { name: "usable_bytes_survive_a_realloc", run: usable_survives, ends: Well },
    Check { name: "aligned_memory_may_be_resized", run: aligned_resized, ends: Well },
    Check { name: "failures_of_all_say_why", run: failures, ends: Well },
];

unsafe extern "C" {
    fn malloc_stats();
}

/// Functions that `libc` does not declare.
mod undeclared {
    use std::ffi::c_void;

    unsafe extern "C" {
        pub(super) fn pvalloc(bytes: usize) -> *mut c_void;
        pub(super) fn valloc(bytes: usize) -> *mut c_void;
    }
}

pub(crate) fn malloc(bytes: usize) -> *mut u8 {
    // SAFETY: any size is allowed.
    black_box(unsafe { libc::malloc(black_box(bytes)) }).cast()
}

pub(crate) fn calloc(count: usize, bytes: usize) -> *mut u8 {
    // SAFETY: any sizes are allowed.
    black_box(unsafe { libc::calloc(black_box(count), black_box(bytes)) }).cast()
}

pub(crate) fn realloc(start: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: the checks pass null or their own memory, and afterwards use the returned address
    // only.
    black_box(unsafe { libc::realloc(start.cast(), black_box(bytes)) }).cast()
}

fn aligned_alloc(alignment: usize, bytes: usize) -> *mut c_void {
    // SAFETY: any alignment and size are allowed.
    black_box(unsafe { libc::aligned_alloc(black_box(alignment), black_box(bytes)) })
}

fn memalign(alignment: usize, bytes: usize) -> *mut c_void {
    // SAFETY: any alignment and size are allowed.
    black_box(unsafe { libc::memalign(black_box(alignment), black_box(bytes)) })
}

fn valloc(bytes: usize) -> *mut c_void {
    // SAFETY: any size is allowed.
    black_box(unsafe { undeclared::valloc(black_box(bytes)) })
}

fn pvalloc(bytes: usize) -> *mut c_void {
    // SAFETY: any size is allowed.
    black_box(unsafe { undeclared::pvalloc(black_box(bytes)) })
}

pub(crate) fn usable_size(start: *mut u8) -> usize {
    // SAFETY: the checks pass null or memory of theirs.
    unsafe { libc::malloc_usable_size(black_box(start).cast()) }
}

pub(crate) fn free(start: *mut u8) {
    // SAFETY: the checks pass null or memory of theirs, once.
    unsafe { libc::free(black_box(start).cast()) };
}

/// Fills memory with a pattern.
pub(crate) fn fill(start: *mut u8, bytes: usize, seed: usize) {
    for index in 0..bytes {
        // SAFETY: the caller owns `bytes` bytes at `start`.
        unsafe { start.wrapping_add(index).write((seed + index * 7) as u8) };
    }
}

/// Asserts that the pattern is still there.
pub(crate) fn check(start: *mut u8, bytes: usize, seed: usize) {
    for index in 0..bytes {
        // SAFETY: the caller owns `bytes` bytes at `start` and has filled them.
        let byte = unsafe { start.wrapping_add(index).read() };
        assert_eq!(byte, (seed + index * 7) as u8, "byte {index} of {bytes}");
    }
}

fn assert_zero(start: *mut u8, bytes: usize) {
    for index in 0..bytes {
        // SAFETY: the caller owns `bytes` bytes at `start`.
        assert_eq!(unsafe { start.wrapping_add(index).read() }, 0, "byte {index} of {bytes}");
    }
}

fn alignment() {
    let sizes = (0..6000).chain((6000..3_000_000).step_by(99_991));
    let starts: Vec<_> = sizes.map(malloc).collect();
    assert!(starts.iter().all(|start| !start.is_null() && start.addr() % 16 == 0));
    starts.into_iter().for_each(free);
    // Arrays and resized allocations have at least the requested size too.
    for bytes in (0..6000).step_by(7).chain([40_000, 1 << 20]) {
        let start = calloc(bytes, 1);
        let grown = realloc(start, bytes + 9);
        assert_eq!((start.addr() % 16, grown.addr() % 16), (0, 0), "{bytes} bytes");
        free(grown);
    }
}

/// All kinds of nothing are objects of their own: none is another's, and all can be freed.
fn no_bytes() {
    let mut one = null_mut::<c_void>();
    // SAFETY: the place is ours.
    assert_eq!(unsafe { libc::posix_memalign(&raw mut one, 64, black_box(0)) }, 0);
    let aligned = aligned_alloc(64, 0);
    let old = memalign(64, 0);
    // SAFETY: as above.
    let array = unsafe { libc::reallocarray(null_mut(), black_box(0), 8) };
    let page = valloc(0);
    let pages = pvalloc(0);
    let mut all: Vec<*mut u8> = vec![
        malloc(0),
        malloc(0),
        calloc(0, 8),
        calloc(8, 0),
        calloc(0, 0),
        realloc(null_mut(), 0),
    ];
    all.extend([one, aligned, old, array, page, pages].map(<*mut c_void>::cast::<u8>));
    assert!(all.iter().all(|start| !start.is_null()), "{all:?}");
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "{all:?}");
    all.into_iter().for_each(free);
    free(null_mut());
    // A resize to zero bytes frees, for arrays too.
    let start = malloc(100);
    // SAFETY: memory of ours, not used again.
    assert!(unsafe { libc::reallocarray(start.cast(), black_box(0), 8) }.is_null());
}

fn zeroed() {
    for round in 0..3 {
        for bytes in [1, 16, 100, 5000, 40_000, 200_000, 5 << 20] {
            let start = calloc(bytes, 1);
            assert_zero(start, bytes);
            fill(start, bytes, round + 1);
            free(start);
        }
    }
    let half = usize::MAX / 2 + 2;
    for (count, bytes) in [(half, 2), (2, half), (usize::MAX, usize::MAX), (1 << 33, 1 << 33)] {
        set_errno(0);
        assert!(calloc(count, bytes).is_null(), "{count} times {bytes}");
        assert_eq!(errno(), libc::ENOMEM);
    }
}

fn huge() {
    let most = isize::MAX as usize;
    for bytes in [most, most + 1, usize::MAX, usize::MAX - 15, usize::MAX - 4096, 1 << 60] {
        set_errno(0);
        assert!(malloc(bytes).is_null(), "{bytes}");
        assert_eq!(errno(), libc::ENOMEM);
        let small = malloc(10);
        fill(small, 10, 3);
        set_errno(0);
        assert!(realloc(small, bytes).is_null());
        assert_eq!(errno(), libc::ENOMEM);
        check(small, 10, 3);
        free(small);
    }
}

fn resized() {
    let start = realloc(null_mut(), 100);
    assert!(!start.is_null(), "null is allocated");
    let sizes = [
        1,
        17,
        100,
        1000,
        33_000,
        32_768,
        100_000,
        1 << 20,
        3 << 20,
        40 << 20,
        2 << 20,
        70_000,
        900,
        5,
        1,
    ];
    let (mut start, mut bytes) = (start, 100);
    for (round, new) in sizes.into_iter().enumerate() {
        fill(start, bytes, round);
        start = realloc(start, new);
        assert!(!start.is_null() && start.addr() % 16 == 0);
        check(start, bytes.min(new), round);
        bytes = new;
    }
    assert!(realloc(start, 0).is_null(), "to no bytes is a free");
    let start = malloc(100);
    set_errno(0);
    // SAFETY: refused, so the old one stays.
    let overflown = unsafe { libc::reallocarray(start.cast(), usize::MAX / 2, black_box(3)) };
    assert!(overflown.is_null() && errno() == libc::ENOMEM);
    // SAFETY: memory of ours.
    let grown = unsafe { libc::reallocarray(start.cast(), 100, black_box(30)) };
    assert!(!grown.is_null());
    free(grown.cast());
}

/// Mutation seen to fail: statistics that leave what the system said when standard error was
/// closed.
fn errno_is_kept() {
    set_errno(1234);
    for bytes in [1, 100, 5000, 100_000, 10 << 20, 600 << 20] {
        let start = malloc(bytes);
        let start = realloc(start, bytes + bytes / 2);
        free(start);
        free(calloc(bytes, 1));
    }
    free(null_mut());
    std::thread::spawn(|| {
        set_errno(77);
        let many: Vec<_> = (0..1000).map(malloc).collect();
        many.into_iter().for_each(free);
        assert_eq!(errno(), 77);
    })
    .join()
    .expect("no panic");
    set_errno(1234);
    let many: Vec<_> = (0..30_000).map(|index| malloc(index % 900)).collect();
    many.into_iter().for_each(free);
    assert_eq!(errno(), 1234);
    for bytes in [10, 5000, 100_000, 3 << 20] {
        let aligned = aligned_alloc(256, bytes);
        let old = memalign(8192, bytes);
        let page = valloc(bytes);
        let pages = pvalloc(bytes);
        assert!(usable_size(old.cast()) >= bytes);
        [aligned, old, page, pages].into_iter().for_each(|start| free(start.cast()));
    }
    // SAFETY: only reads.
    black_box(unsafe { libc::mallinfo2() });
    // SAFETY: any number is allowed.
    unsafe { libc::malloc_trim(0) };
    assert_eq!(errno(), 1234);
    // Neither where standard error takes it nor where it is closed.
    // SAFETY: writes to standard error.
    unsafe { malloc_stats() };
    // SAFETY: the descriptor belongs to this process, and the check prints nothing more unless it
    // fails.
    unsafe { libc::close(2) };
    // SAFETY: as above.
    unsafe { malloc_stats() };
    assert_eq!(errno(), 1234);
}

fn posix_memalign() {
    let nothing = without_provenance_mut::<c_void>(0x10);
    let mut place = nothing;
    let mut ask = |alignment: usize, bytes: usize| {
        place = nothing;
        set_errno(99);
        // SAFETY: the place is ours.
        let outcome = unsafe { libc::posix_memalign(&raw mut place, alignment, black_box(bytes)) };
        assert_eq!(errno(), 99, "posix_memalign leaves errno");
        (outcome, place)
    };
    for alignment in [0, 1, 2, 4, 7, 24, 100] {
        assert_eq!(ask(alignment, 8), (libc::EINVAL, nothing), "alignment {alignment}");
    }
    assert_eq!(ask(16, usize::MAX), (libc::ENOMEM, nothing));
    assert_eq!(ask(4096, isize::MAX as usize), (libc::ENOMEM, nothing));
    for shift in 3..24 {
        for bytes in [0, 1, 100, 5000, 100_000] {
            let (outcome, start) = ask(1 << shift, bytes);
            assert_eq!((outcome, start.addr() % (1 << shift)), (0, 0), "{bytes} at 2^{shift}");
            fill(start.cast(), bytes, shift);
            check(start.cast(), bytes, shift);
            free(start.cast());
        }
    }
}

fn aligned_relatives() {
    for alignment in [1, 8, 16, 64, 4096, 1 << 21] {
        let start = aligned_alloc(alignment, 100);
        assert!(!start.is_null() && start.addr() % alignment.max(16) == 0);
        free(start.cast());
    }
    set_errno(0);
    assert!(aligned_alloc(48, 100).is_null() && errno() == libc::EINVAL);
    let start = memalign(48, 100);
    assert!(!start.is_null() && start.addr() % 64 == 0, "the next power of two");
    free(start.cast());
    set_errno(0);
    assert!(memalign(usize::MAX, 1).is_null() && errno() == libc::EINVAL);
    set_errno(0);
    assert!(memalign(64, usize::MAX - 10).is_null() && errno() == libc::ENOMEM);
    let pages = [valloc(10), pvalloc(10)];
    assert!(pages.iter().all(|start| !start.is_null() && start.addr() % 4096 == 0));
    fill(pages[1].cast(), 4096, 1);
    pages.into_iter().for_each(|start| free(start.cast()));
    assert!(pvalloc(usize::MAX).is_null());
}

fn usable_bytes() {
    assert_eq!(usable_size(null_mut()), 0);
    let sizes = (1..4000).step_by(3).chain([40_000, 1 << 20, 700 << 20]);
    for bytes in sizes {
        let start = malloc(bytes);
        let room = usable_size(start);
        assert!(room >= bytes, "{room} for {bytes}");
        if room < 2 << 20 {
            fill(start, room, bytes);
            check(start, room, bytes);
        }
        free(start);
    }
}

type FreeSized = unsafe extern "C" fn(*mut c_void, usize);
type FreeAlignedSized = unsafe extern "C" fn(*mut c_void, usize, usize);
type Free = unsafe extern "C" fn(*mut c_void);

/// Returns the function of this name, which the C library does not have.
fn function(name: &CStr) -> *mut c_void {
    // SAFETY: looks a name up.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    assert!(!found.is_null(), "{name:?}");
    found
}

fn sized_frees() {
    // SAFETY: the function of this name has this type, here and below.
    let free_sized: FreeSized = unsafe { std::mem::transmute(function(c"free_sized")) };
    // SAFETY: `free_aligned_sized` takes a pointer, an alignment and a size.
    let free_aligned_sized: FreeAlignedSized =
        unsafe { std::mem::transmute(function(c"free_aligned_sized")) };
    // SAFETY: `cfree` takes a pointer.
    let cfree: Free = unsafe { std::mem::transmute(function(c"cfree")) };
    for bytes in [0, 1, 24, 40, 100, 1000, 30_000, 40_000, 3 << 20] {
        for _ in 0..100 {
            // SAFETY: allocated with this size.
            unsafe { free_sized(malloc(bytes).cast(), bytes) };
            // SAFETY: allocated with this size.
            unsafe { free_sized(realloc(calloc(1, 7), bytes.max(1)).cast(), bytes.max(1)) };
            let start = aligned_alloc(256, bytes);
            // SAFETY: allocated with this size and alignment.
            unsafe { free_aligned_sized(start, 256, bytes) };
        }
    }
    // SAFETY: nothing.
    unsafe { free_sized(null_mut(), 10) };
    // SAFETY: memory of ours.
    unsafe { cfree(malloc(10).cast()) };
}

/// Programs write to all that is usable, and take it that a larger block has it.
///
/// Mutation seen to fail: a move that copies eight ninths of it.
fn usable_survives() {
    for bytes in (1..3000).step_by(13).chain([9000, 33_000, 70_000, 1 << 20]) {
        let start = malloc(bytes);
        let room = usable_size(start);
        fill(start, room, bytes);
        let larger = realloc(start, room + 1);
        check(larger, room, bytes);
        let largest = realloc(larger, 2 * room + 100_000);
        check(largest, room, bytes);
        let back = realloc(largest, room);
        check(back, room, bytes);
        free(back);
    }
}

/// Aligned memory keeps its content when it is resized; it need not stay aligned.
fn aligned_resized() {
    for alignment in [32, 256, 4096, 1 << 16, 1 << 21] {
        for bytes in [1, 100, 5000, 70_000] {
            let mut place = null_mut::<c_void>();
            // SAFETY: the place is ours.
            assert_eq!(unsafe { libc::posix_memalign(&raw mut place, alignment, bytes) }, 0);
            let start = place.cast::<u8>();
            let room = usable_size(place.cast());
            assert!(room >= bytes);
            fill(start, room, alignment);
            let larger = realloc(start, 3 * room);
            check(larger, room, alignment);
            let smaller = realloc(larger, bytes);
            check(smaller, bytes, alignment);
            free(smaller);
        }
    }
}

/// Each function refuses what there cannot be, with null and the number that its manual names, and
/// what it was given stays.
///
/// Mutations that it catches: alignments that are taken as they come; `pvalloc` whose sum wraps.
fn failures() {
    let most = isize::MAX as usize;
    let told = |start: *mut c_void, number: i32, what: &str| {
        assert!(start.is_null() && errno() == number, "{what}: {start:?}, errno {}", errno());
        set_errno(0);
    };
    set_errno(0);
    for bytes in [most - 4095, most, most + 1, usize::MAX - 4095, usize::MAX] {
        told(calloc(1, bytes).cast(), libc::ENOMEM, "calloc");
        told(calloc(bytes, 1).cast(), libc::ENOMEM, "calloc");
        told(realloc(null_mut(), bytes).cast(), libc::ENOMEM, "realloc");
        told(aligned_alloc(64, bytes), libc::ENOMEM, "aligned_alloc");
        told(memalign(4096, bytes), libc::ENOMEM, "memalign");
        told(valloc(bytes), libc::ENOMEM, "valloc");
        told(pvalloc(bytes), libc::ENOMEM, "pvalloc");
        let kept = malloc(100);
        fill(kept, 100, 1);
        // SAFETY: refused, so the old one stays.
        let array = unsafe { libc::reallocarray(kept.cast(), black_box(bytes), 1) };
        told(array, libc::ENOMEM, "reallocarray");
        // SAFETY: as above.
        let array = unsafe { libc::reallocarray(kept.cast(), black_box(2), bytes) };
        told(array, libc::ENOMEM, "reallocarray");
        check(kept, 100, 1);
        free(kept);
    }
    for alignment in [0, 3, 24, 100, 4097, most, usize::MAX] {
        let start = aligned_alloc(alignment, 8);
        told(start, libc::EINVAL, "aligned_alloc");
    }
    for alignment in [1 << 45, 1 << 62, 1 << 63] {
        let start = aligned_alloc(alignment, 8);
        told(start, libc::ENOMEM, "aligned_alloc");
        let mut place = null_mut();
        // SAFETY: the place is ours.
        let outcome = unsafe { libc::posix_memalign(&raw mut place, black_box(alignment), 8) };
        assert_eq!((outcome, place, errno()), (libc::ENOMEM, null_mut(), 0));
    }
    // `memalign` takes any, as the next power of two, as long as there is one.
    for alignment in [0, 1, 3, 17, 4097] {
        let start = memalign(alignment, 8);
        let power = alignment.next_power_of_two().max(16);
        assert!(!start.is_null() && start.addr() % power == 0, "{alignment}: {start:?}");
        free(start.cast());
    }
    told(memalign((1 << 63) + 1, 8), libc::EINVAL, "memalign");
}
