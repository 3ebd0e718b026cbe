//! The buddy behind the adapters of `page-frame`, and as a shrinker for them.
#![cfg(not(loom))]

mod common;

use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

use buddy::Mode;
use common::{Simulated, range};
use hosted::Threads;
use page_frame::{
    Counted, Order, PageBlock, PageMap, PageResize, PageSource, Reclaiming, Shrink, ShrinkList, Tag,
};

/// Hoards blocks of `source`, and frees them on demand.
struct Hoard<'s, P: PageSource> {
    source: &'s P,
    blocks: std::sync::Mutex<Vec<PageBlock>>,
    asked: AtomicUsize,
}

impl<P: PageSource + Sync> Shrink for Hoard<'_, P> {
    fn reclaimable(&self) -> usize {
        self.blocks.lock().expect("no panic").iter().map(PageBlock::pages).sum()
    }

    fn shrink(&self, target_pages: usize) -> usize {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut given = 0;
        while given < target_pages {
            let Some(block) = self.blocks.lock().expect("no panic").pop() else { break };
            given += block.pages();
            // SAFETY: the block came from this source, and is not in use.
            unsafe { self.source.free(block) };
        }
        given
    }
}

#[test]
fn a_buddy_behind_counted_and_reclaiming_gets_hoarded_pages_back() {
    let buddy = Simulated::new(&[range(0, 256)], Threads, Mode::Cached);
    let initial = buddy.free_counts();
    let source = Reclaiming::new(Counted::new(&*buddy), ShrinkList::<2>::new());
    let half = Order::new(7).expect("order 7 exists");
    let hoarded = [source.allocate(half), source.allocate(half)].map(|half| half.expect("free"));
    let hoard =
        Hoard { source: source.source(), blocks: Vec::from(hoarded).into(), asked: 0.into() };
    let slots: &dyn Shrink = &*buddy;
    // SAFETY: the buddy and the hoard outlive the list's use of them: both are unregistered below.
    unsafe { source.shrinker().register(NonNull::from(slots).cast_static()) }.expect("room");
    let shrinker: &dyn Shrink = &hoard;
    // SAFETY: the hoard is unregistered before it is dropped.
    unsafe { source.shrinker().register(NonNull::from(shrinker).cast_static()) }.expect("room");

    let page = source.allocate(Order::ZERO).expect("the hoard gives a half back");
    let other = source.allocate(Order::ZERO).expect("the half has more");
    assert!(buddy.reclaimable() > 0, "the slot was filled");
    // SAFETY: it is ours and not in use.
    unsafe { source.free(other) };
    assert_eq!((hoard.asked.load(Ordering::Relaxed), hoard.reclaimable()), (1, 128));
    assert_eq!(source.tag(page.start().addr().get()), Tag::block(Order::ZERO));
    // The slot caches frames of the half's last word, so a run of the whole half needs the other
    // half.
    let run = source.allocate_run(100, Order::ZERO).expect("the other half");
    assert_eq!(source.run_pages(run.start().addr().get()), Some(100));
    assert_eq!(source.source().refusals(), 2);
    assert_eq!(source.source().held_pages(), 101);
    // SAFETY: both are ours and not in use.
    unsafe { source.free(page) };
    // SAFETY: a run of 100 pages, from this source.
    unsafe { source.free_run(run.start(), 100) };
    assert_eq!(source.shrinker().unregister(NonNull::from(slots).cast_static()), Ok(true));
    assert_eq!(source.shrinker().unregister(NonNull::from(shrinker).cast_static()), Ok(true));
    let given = buddy.shrink(usize::MAX);
    assert!(given > 0 && buddy.reclaimable() == 0, "{given} frames");
    assert_eq!(buddy.free_counts(), initial);
}

/// A pointer whose validity the test vouches for.
trait CastStatic {
    fn cast_static(self) -> NonNull<dyn Shrink>;
}

impl<'s> CastStatic for NonNull<dyn Shrink + 's> {
    fn cast_static(self) -> NonNull<dyn Shrink> {
        // SAFETY: only the bound of the trait object's lifetime changes; `register` asks for the
        // validity.
        unsafe { std::mem::transmute(self) }
    }
}
