//! Threads that allocate, send objects to one another, free objects of others, and shrink caches,
//! all at the same time.
#![cfg(not(loom))]

mod common;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use common::{OurBuddy, Published};
use hosted::Threads;
use page_frame::{Order, PageMap, PageSource};
use slab::{Cache, Registry};
use testkit::{Pattern, Random, steps};

const PAGES: usize = 8192;
const ROUNDS: usize = steps(30_000);
const BYTES: usize = 200;

/// An object on its way to another thread.
struct Sent(NonNull<u8>, u64);
// SAFETY: the receiver alone uses the object.
unsafe impl Send for Sent {}

fn free<P: PageSource + PageMap>(cache: &Cache<(P, Threads)>, Sent(object, number): Sent) {
    // SAFETY: ours, filled when it was allocated.
    assert!(unsafe { Pattern(number).is_in(object, BYTES) }, "object {number} has another owner");
    // SAFETY: handed over by the thread that allocated it.
    unsafe { cache.free(object) };
}

/// Two threads send each other half of the objects that they allocate, while a third thread shrinks
/// the caches.
fn exchange<P: PageSource + PageMap + Send + Sync>(source: P) {
    let registry = Registry::new(&source, Threads).expect("room");
    let layout = Layout::from_size_align(BYTES, 8).expect("a layout");
    let cache = registry.cache("exchanged", layout).max_order(Order::ZERO).build().expect("room");
    let ended = AtomicBool::new(false);
    let (to_one, from_other) = sync_channel(256);
    let (to_other, from_one) = sync_channel(256);
    let work = |seed: u64,
                send: std::sync::mpsc::SyncSender<Sent>,
                receive: std::sync::mpsc::Receiver<Sent>| {
        let mut random = Random::new(seed);
        let mut live = Vec::new();
        for round in 0..ROUNDS {
            if random.below(100) < 55 && live.len() < 500 {
                let object = cache.allocate().expect("room");
                let number = seed << 32 | round as u64;
                // SAFETY: this thread owns the object, which has that many bytes.
                unsafe { Pattern(number).fill(object, BYTES) };
                let sent = Sent(object, number);
                match random.one_in(2) {
                    true => {
                        if let Err(back) = send.try_send(sent) {
                            let (std::sync::mpsc::TrySendError::Full(sent)
                            | std::sync::mpsc::TrySendError::Disconnected(sent)) = back;
                            free(&cache, sent);
                        }
                    }
                    false => live.push(sent),
                }
            } else if !live.is_empty() {
                let index = random.below(live.len());
                free(&cache, live.swap_remove(index));
            }
            receive.try_iter().for_each(|sent| free(&cache, sent));
        }
        drop(send);
        live.into_iter().chain(receive).for_each(|sent| free(&cache, sent));
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| work(1, to_other, from_other));
        let other = scope.spawn(|| work(2, to_one, from_one));
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                registry.shrink(16);
                cache.shrink_all();
                cache.validate().expect("consistent at any moment");
            }
        });
        one.join().expect("no panic");
        other.join().expect("no panic");
        ended.store(true, Ordering::Relaxed);
    });
    registry.validate().expect("consistent");
    cache.shrink_all();
    assert_eq!(cache.stats().slabs, 0);
    cache.destroy().expect("nothing is in use");
}

#[test]
fn objects_cross_threads_while_others_shrink_over_our_buddy() {
    let source = OurBuddy::new(PAGES, Threads);
    let free = source.buddy.free_counts();
    exchange(&source.buddy);
    source.buddy.drain();
    source.buddy.validate().expect("consistent");
    assert_eq!(source.buddy.free_counts(), free);
}

#[test]
fn objects_cross_threads_while_others_shrink_over_a_published_buddy() {
    let source = Published::new(PAGES);
    exchange(&source);
    assert_eq!(source.free_pages(), PAGES);
}

/// Caches come and go while another thread walks over all of them.
#[test]
fn caches_come_and_go_under_a_shrinker() {
    let source = OurBuddy::new(PAGES, Threads);
    let free = source.buddy.free_counts();
    {
        let registry = Registry::new(&source.buddy, Threads).expect("room");
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let makers: Vec<_> = (0..2)
                .map(|seed| {
                    let registry = registry.clone();
                    scope.spawn(move || {
                        let mut random = Random::new(seed);
                        for _ in 0..300 {
                            let size = 1 + random.below(3000);
                            let layout = Layout::from_size_align(size, 1).expect("a layout");
                            let cache = registry.cache("brief", layout).build().expect("room");
                            let objects: Vec<_> =
                                (0..50).map(|_| cache.allocate().expect("room")).collect();
                            for object in objects {
                                // SAFETY: allocated by this thread in this round.
                                unsafe { cache.free(object) };
                            }
                            cache.destroy().expect("nothing is in use, whoever looks at it");
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    registry.shrink(usize::MAX);
                    registry.validate().expect("consistent at any moment");
                    let mut text = String::new();
                    registry.slabinfo(&mut text).expect("strings take everything");
                }
            });
            makers.into_iter().for_each(|maker| maker.join().expect("no panic"));
            ended.store(true, Ordering::Relaxed);
        });
    }
    source.buddy.drain();
    assert_eq!(source.buddy.free_counts(), free);
}
