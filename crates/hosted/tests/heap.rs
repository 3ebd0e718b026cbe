//! The heap as the global allocator of a program with threads: this test binary.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use hosted::{Heap, HeapStats};
use slab::Hardened;

#[global_allocator]
static HEAP: Heap = Heap::new().with_purge_delay(Duration::from_millis(200));

/// Mutations seen to fail: `stats` without large allocations; `trim` that purges nothing.
#[test]
fn statistics_follow_use_and_trim_returns_the_rest() {
    let small: Vec<_> = (0..2000).map(|number: usize| vec![1_u8; number]).collect();
    let large = vec![1_u8; 8 << 20];
    let held = HEAP.stats();
    assert!(held.large_bytes >= large.len(), "{held:?}");
    assert!(held.held_bytes >= held.large_bytes + small.iter().map(Vec::len).sum::<usize>());
    drop((small, large));
    assert!(HEAP.stats().idle_bytes >= 4 << 20, "{:?}", HEAP.stats());
    assert!(HEAP.trim() > 0);
}

/// Mutations seen to fail: no hook of misses; a purge delay that the heap ignores.
#[test]
fn unused_memory_returns_to_the_system_after_the_delay() {
    drop(vec![1_u8; 32 << 20]);
    assert!(HEAP.stats().idle_bytes >= 32 << 20, "{:?}", HEAP.stats());
    let start = Instant::now();
    while HEAP.stats().idle_bytes >= 16 << 20 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", HEAP.stats());
        std::thread::sleep(Duration::from_millis(2));
        let numbers: BTreeMap<_, _> = (0..100).map(|number| (number, vec![number; 9])).collect();
        assert_eq!(numbers.len(), 100);
    }
}

#[test]
fn threads_allocate_and_free_for_each_other() {
    let (sender, receiver) = std::sync::mpsc::channel::<Vec<String>>();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let sender = sender.clone();
            scope.spawn(move || {
                for round in 0..200 {
                    let texts = (0..50).map(|text| format!("{thread} {round} {text}")).collect();
                    sender.send(texts).expect("the receiver lives");
                }
            });
        }
        drop(sender);
        let texts: usize = receiver.iter().map(|texts| texts.len()).sum();
        assert_eq!(texts, 4 * 200 * 50);
    });
}

/// A child of `fork` allocates while the other threads of the parent do.
///
/// Mutation seen to fail: no handlers for `fork`.
#[test]
fn children_of_fork_allocate_while_other_threads_do() {
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    drop((0..100).map(|number| vec![0_u8; number * 40]).collect::<Vec<_>>());
                }
            });
        }
        for _ in 0..100 {
            // SAFETY: the child allocates, which the heap allows, and ends.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let kept: Vec<_> = (0..500).map(|number| vec![1_u8; number * 9]).collect();
                let is_right = kept.iter().map(Vec::len).sum::<usize>() == 499 * 250 * 9;
                // SAFETY: ends the child.
                unsafe { libc::_exit(if is_right { 7 } else { 1 }) };
            }
            let (mut status, start) = (0, Instant::now());
            // SAFETY: a child of ours, and a place for its status.
            while unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } == 0 {
                if start.elapsed() > Duration::from_secs(20) {
                    // SAFETY: a child of ours.
                    unsafe { libc::kill(child, libc::SIGKILL) };
                }
                std::thread::yield_now();
            }
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A second heap works too; its options are those of its static.
#[test]
fn a_second_heap_has_its_own_memory_and_names_mistakes() {
    static SECOND: Heap<Hardened> = Heap::hardened().without_huge_pages();
    assert_eq!(SECOND.stats(), HeapStats::default(), "nothing is set up");
    let kmalloc = SECOND.kmalloc().expect("address space");
    let object = kmalloc.kmalloc(100).expect("memory");
    assert!(SECOND.stats().held_bytes > 0);
    if std::env::var_os("DOUBLE_FREE").is_some() {
        // SAFETY: the second free is a mistake, which the heap finds: the process ends.
        (0..2).for_each(|_| unsafe { kmalloc.free(object) });
        return;
    }
    // SAFETY: allocated above, and not used any more.
    unsafe { kmalloc.free(object) };
    let own = std::env::current_exe().expect("a path");
    let output = Command::new(own)
        .args(["--exact", "a_second_heap_has_its_own_memory_and_names_mistakes", "--nocapture"])
        .env("DOUBLE_FREE", "1")
        .output()
        .expect("this program");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("heap: DoubleFree at "), "{text}");
}
