//! A whole program on our allocator: threads, maps, strings, 100 MB of churn, and at the end all
//! pages back.
//!
//! `hosted::Heap` serves every allocation of the program, the standard library's included. Below it
//! are the object caches of `kmalloc`, below them a buddy allocator, below that address space of
//! which only touched pages cost memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc;
use std::thread;

use buddy::page_frame::PAGE_SIZE;

#[global_allocator]
static HEAP: hosted::Heap = hosted::Heap::new();

const WORKERS: u64 = 4;
/// Bytes that each worker allocates before it is done: 100 MB in all.
const BYTES_PER_WORKER: usize = 100_000_000 / WORKERS as usize;

/// The totals of one worker.
#[derive(Default)]
struct Done {
    allocations: usize,
    bytes: usize,
}

/// Keeps a dictionary of strings that come and go, and sends every hundredth to be freed by
/// somebody else.
fn work(seed: u64, bytes: usize, remote: &mpsc::SyncSender<String>) -> Done {
    let mut done = Done::default();
    let mut number = seed;
    let mut map = BTreeMap::new();
    let mut recent = VecDeque::new();
    while done.bytes < bytes {
        // A linear congruential generator (Knuth, TAOCP 2, 3.3.4, line 26).
        number =
            number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = number >> 32;
        // Mostly short, now and then large enough to take pages of its own.
        let length = if key % 1000 == 0 { 50_000 } else { (key % 500) as usize };
        let text = format!("{key:0>length$}");
        done.allocations += 1;
        done.bytes += text.len();
        if done.allocations % 100 == 0 {
            remote.send(text).expect("the receiver waits for all workers");
        } else if let Some(old) = map.insert(key, text) {
            assert!(old.ends_with(&key.to_string()));
        }
        recent.push_back(key);
        if recent.len() > 5_000 {
            let oldest = recent.pop_front().expect("just counted");
            if let Some(text) = map.remove(&oldest) {
                assert!(text.ends_with(&oldest.to_string()), "nobody else wrote here");
            }
        }
    }
    done
}

/// Runs all workers, each for that many bytes, and frees what they send; returns what was done, and
/// the most pages held.
fn burst(bytes_per_worker: usize, pages_held: impl Fn() -> usize) -> (Done, usize) {
    let (send, receive) = mpsc::sync_channel(1000);
    let mut most_pages = 0;
    let done = thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|seed| {
                let send = send.clone();
                scope.spawn(move || work(seed, bytes_per_worker, &send))
            })
            .collect();
        drop(send);
        for (received, text) in receive.into_iter().enumerate() {
            assert!(!text.is_empty());
            if received % 500 == 0 {
                most_pages = most_pages.max(pages_held());
            }
        }
        let done = workers.into_iter().map(|worker| worker.join().expect("no panic"));
        done.fold(Done::default(), |sum, done| Done {
            allocations: sum.allocations + done.allocations,
            bytes: sum.bytes + done.bytes,
        })
    });
    (done, most_pages)
}

fn main() {
    println!("100 MB of strings through {WORKERS} threads");
    let kmalloc = HEAP.kmalloc().expect("printing has allocated");
    // A small burst first creates the caches of the sizes in use, which stay. The pages held after
    // it are those of the program itself and of empty caches.
    burst(2_000_000, || kmalloc.pages_held());
    kmalloc.shrink_all();
    let before = kmalloc.pages_held();

    let (done, most_pages) = burst(BYTES_PER_WORKER, || kmalloc.pages_held());
    println!("{} strings, {} MB in all", done.allocations, done.bytes / 1_000_000);
    println!("pages held at most: {most_pages} ({} MB)", most_pages * PAGE_SIZE / 1_000_000);
    println!("pages held now: {}, kept for the next burst", kmalloc.pages_held());

    let given = kmalloc.shrink_all();
    let after = kmalloc.pages_held();
    kmalloc.validate().expect("the caches are consistent");
    println!("{given} pages given back; {after} held, and {before} before the work began");
    assert!(done.bytes >= 100_000_000 && most_pages > before);
    assert!(after <= before, "all pages are back");
}
