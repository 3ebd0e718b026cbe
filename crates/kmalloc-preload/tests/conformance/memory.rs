//! Memory is somebody's, and goes back.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use crate::End::Well;
use crate::calls::{calloc, check, fill, free, malloc, realloc};
use crate::{Check, library, resident_bytes};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "objects_are_distinct", run: distinct, ends: Well },
    Check { name: "many_big_blocks", run: big_blocks, ends: Well },
    Check { name: "mallinfo_counts", run: info, ends: Well },
    Check { name: "malloc_info_is_xml", run: xml, ends: Well },
    Check { name: "options_of_glibc_are_accepted", run: options, ends: Well },
    Check { name: "malloc_stats_goes_to_standard_error", run: said, ends: Well },
    Check { name: "the_library_can_be_loaded_late", run: loaded_late, ends: Well },
];

/// A sequence without much pattern.
pub(crate) struct Steps(pub(crate) u64);

impl Steps {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        // Knuth's multiplier (TAOCP 2, section 3.3.4).
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// Holds up to 2,000 objects of up to `most` bytes, each full of a pattern of its own, and replaces
/// them at random.
pub(crate) fn replace(seed: u64, count: usize, most: usize) {
    let mut steps = Steps(seed);
    let mut held: Vec<(*mut u8, usize, usize)> = Vec::new();
    for number in 0..count {
        if held.len() == 2000 || (!held.is_empty() && steps.below(3) == 0) {
            let (start, bytes, pattern) = held.swap_remove(steps.below(held.len()));
            check(start, bytes.min(64), pattern);
            if steps.below(4) == 0 {
                let larger = realloc(start, bytes + 100);
                check(larger, bytes.min(64), pattern);
                free(larger);
            } else {
                free(start);
            }
        }
        let bytes = steps.below(1 + steps.0 as usize % most) + 1;
        let start = if steps.below(5) == 0 { calloc(1, bytes) } else { malloc(bytes) };
        fill(start, bytes.min(64), number);
        held.push((start, bytes, number));
    }
    for (start, bytes, pattern) in held {
        check(start, bytes.min(64), pattern);
        free(start);
    }
}

fn distinct() {
    replace(7, 100_000, 600);
    replace(8, 10_000, 50_000);
    replace(9, 1_000, 3_000_000);
}

fn big_blocks() {
    let sizes = [600 << 20, 1 << 30, 3 << 30, 513 << 20, 100 << 20, 5 << 30];
    for round in 0..3 {
        let mut blocks: Vec<_> = sizes.map(|bytes: usize| (malloc(bytes), bytes)).into();
        for (start, bytes) in &mut blocks {
            assert!(!start.is_null(), "{bytes}");
            fill(*start, 100, round);
            fill(start.wrapping_add(*bytes - 100), 100, round);
            let larger = realloc(*start, *bytes + (50 << 20));
            assert!(!larger.is_null());
            *start = larger;
            check(larger, 100, round);
            check(larger.wrapping_add(*bytes - 100), 100, round);
        }
        let half = realloc(blocks[2].0, 400 << 20);
        check(half, 100, round);
        blocks[2].0 = half;
        blocks.into_iter().for_each(|(start, _)| free(start));
        let zeroed = calloc(700 << 20, 1);
        // SAFETY: inside the 700 MiB.
        assert_eq!(unsafe { zeroed.wrapping_add(699 << 20).read() }, 0);
        free(zeroed);
    }
    assert!(resident_bytes() < 64 << 20, "{} bytes resident", resident_bytes());
}

fn info() {
    // SAFETY: only reads.
    let info = || unsafe { libc::mallinfo2() };
    let before = info();
    let start = malloc(50 << 20);
    let after = info();
    assert_eq!(after.hblkhd - before.hblkhd, 50 << 20);
    assert!(after.uordblks - before.uordblks < 1 << 20, "a large block counts once");
    // SAFETY: only reads.
    assert!(unsafe { libc::mallinfo() }.hblkhd >= 50 << 20);
    free(start);
    assert_eq!(info().hblkhd, before.hblkhd);
    let many: Vec<_> = (0..1000).map(|_| malloc(1000)).collect();
    assert!(info().uordblks - before.uordblks >= 1_000_000);
    many.into_iter().for_each(free);
    assert!(before.arena > 0 && before.arena < 100 << 20, "{}", before.arena);
}

fn xml() {
    unsafe extern "C" {
        fn malloc_info(options: i32, to: *mut libc::FILE) -> i32;
    }
    let start = malloc(50 << 20);
    let (mut text, mut length) = (std::ptr::null_mut(), 0);
    // SAFETY: both places outlive the stream.
    let stream = unsafe { libc::open_memstream(&raw mut text, &raw mut length) };
    // SAFETY: an open stream.
    assert_eq!(unsafe { malloc_info(1, stream) }, libc::EINVAL);
    // SAFETY: an open stream.
    assert_eq!(unsafe { malloc_info(0, stream) }, 0);
    // SAFETY: an open stream, closed once.
    assert_eq!(unsafe { libc::fclose(stream) }, 0);
    // SAFETY: a string that ends with zero, since the stream was closed.
    let said = unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned();
    assert!(said.starts_with("<malloc version=\"1\">\n<heap nr=\"0\">\n"), "{said}");
    assert!(said.contains("<total type=\"mmap\" count=\"1\" size=\"52428800\"/>"), "{said}");
    assert!(said.ends_with("</malloc>\n"), "{said}");
    free(text.cast());
    free(start);
}

fn options() {
    // SAFETY: any option and value is allowed.
    let accepted = |option, value| unsafe { libc::mallopt(option, value) };
    for option in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD, libc::M_ARENA_MAX] {
        assert_eq!(accepted(option, 1 << 20), 1);
    }
    assert_eq!((accepted(libc::M_MXFAST, 64), accepted(libc::M_MXFAST, 1000)), (1, 0));
}

fn said() {
    unsafe extern "C" {
        fn malloc_stats();
    }
    let held: Vec<_> = (0..321).map(|_| malloc(50_000 / 16)).collect();
    let file = std::env::temp_dir().join(format!("kmalloc-said-{}", std::process::id()));
    let to = std::fs::File::create(&file).expect("room for a file");
    // SAFETY: standard error is this process's own.
    assert_eq!(unsafe { libc::dup2(to.as_raw_fd(), 2) }, 2);
    // SAFETY: it has no preconditions.
    unsafe { malloc_stats() };
    let text = std::fs::read_to_string(&file).expect("written");
    std::fs::remove_file(file).expect("ours");
    let objects = text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (name, active) = (words.next()?, words.next()?);
        let size = words.nth(1)?.parse::<usize>().ok()?;
        (name.starts_with("kmalloc-") && size >= 3125).then(|| active.parse::<usize>().ok())?
    });
    assert!(objects.is_some_and(|count| (321..330).contains(&count)), "{objects:?}: {text}");
    held.into_iter().for_each(free);
}

/// `dlopen` needs room for the library's thread-locals among the static ones.
fn loaded_late() {
    let path = CString::new(library().into_os_string().into_encoded_bytes()).expect("no zero");
    // A copy of the library has another path, so the loader loads it anew.
    let copy = std::env::temp_dir().join(format!("kmalloc-late-{}.so", std::process::id()));
    std::fs::copy(library(), &copy).expect("room for a copy");
    let name = CString::new(copy.clone().into_os_string().into_encoded_bytes()).expect("no zero");
    for name in [path, name] {
        // SAFETY: its initialisers are sound wherever they run.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        // SAFETY: looks a name up.
        let found = unsafe { libc::dlsym(handle, c"malloc".as_ptr()) };
        assert!(!found.is_null());
        // SAFETY: the function of this name has this type.
        let malloc: extern "C" fn(usize) -> *mut u8 = unsafe { std::mem::transmute(found) };
        fill(malloc(100), 100, 1);
    }
    std::fs::remove_file(copy).expect("ours");
}
