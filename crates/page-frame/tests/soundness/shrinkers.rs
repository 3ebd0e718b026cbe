//! Shrinkers that panic, take themselves out, or go while they are called.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Barrier;

use page_frame::{Shrink, ShrinkList, StillInUse};

struct Calls<F: Fn() -> usize + Sync>(F);

impl<F: Fn() -> usize + Sync> Shrink for Calls<F> {
    fn reclaimable(&self) -> usize {
        1
    }

    fn shrink(&self, _target_pages: usize) -> usize {
        (self.0)()
    }
}

fn pointer<'a>(shrinker: &'a (dyn Shrink + 'a)) -> NonNull<dyn Shrink + 'a> {
    NonNull::from(shrinker)
}

/// Mutation seen to fail: `unregister` without a look at the count.
#[test]
fn a_shrinker_that_is_called_cannot_be_taken_out() {
    let (entered, asked) = (Barrier::new(2), Barrier::new(2));
    let member = Calls(|| {
        entered.wait();
        asked.wait();
        3
    });
    let list = ShrinkList::<2>::new();
    // SAFETY: taken out below, and the only one.
    unsafe { list.register(pointer(&member)) }.expect("room for two");
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| list.shrink(5));
        entered.wait();
        assert_eq!(list.unregister(pointer(&member)), Err(StillInUse));
        assert_eq!(list.reclaimable(), 0, "no call begins any more");
        asked.wait();
        assert_eq!(caller.join().expect("no panic"), 3);
    });
    assert_eq!(list.unregister(pointer(&member)), Ok(true));
    assert_eq!(list.unregister(pointer(&member)), Ok(false));
}

/// Mutation seen to fail: an `unregister` that waits (the test hangs).
#[test]
fn a_shrinker_may_ask_to_go_while_it_is_called() {
    static LIST: ShrinkList<1> = ShrinkList::new();
    struct Leaving;
    impl Shrink for Leaving {
        fn reclaimable(&self) -> usize {
            1
        }
        fn shrink(&self, _: usize) -> usize {
            assert_eq!(LIST.unregister(pointer(self)), Err(StillInUse));
            assert_eq!(LIST.shrink(1), 0, "it is not called a second time");
            1
        }
    }
    // SAFETY: taken out below, and the only one.
    unsafe { LIST.register(pointer(&Leaving)) }.expect("room for one");
    assert_eq!(LIST.shrink(1), 1);
    assert_eq!(LIST.unregister(pointer(&Leaving)), Ok(true));
}

/// Mutation seen to fail: `Call` without `Drop`.
#[test]
fn a_shrinker_that_panics_can_be_taken_out() {
    let member = Calls(|| panic!("while pages are asked back"));
    let list = ShrinkList::<1>::new();
    // SAFETY: taken out below, and the only one.
    unsafe { list.register(pointer(&member)) }.expect("room for one");
    assert!(catch_unwind(AssertUnwindSafe(|| list.shrink(1))).is_err());
    assert_eq!(list.unregister(pointer(&member)), Ok(true));
}
