//! Shrinkers that panic, unregister themselves, or are unregistered during a call.

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

/// Mutation seen to fail: `unregister` that ignores the count.
#[test]
fn a_shrinker_cannot_be_unregistered_during_a_call() {
    let (entered, asked) = (Barrier::new(2), Barrier::new(2));
    let member = Calls(|| {
        entered.wait();
        asked.wait();
        3
    });
    let list = ShrinkList::<2>::new();
    // SAFETY: clause 1: unregistered below. Clause 2: the only one.
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
fn a_shrinker_may_try_to_unregister_itself_during_a_call() {
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
    // SAFETY: clause 1: unregistered below. Clause 2: the only one.
    unsafe { LIST.register(pointer(&Leaving)) }.expect("room for one");
    assert_eq!(LIST.shrink(1), 1);
    assert_eq!(LIST.unregister(pointer(&Leaving)), Ok(true));
}

/// Mutation seen to fail: `Call` without `Drop`.
#[test]
fn a_shrinker_that_panicked_can_be_unregistered() {
    let member = Calls(|| panic!("while pages are asked back"));
    let list = ShrinkList::<1>::new();
    // SAFETY: clause 1: unregistered below. Clause 2: the only one.
    unsafe { list.register(pointer(&member)) }.expect("room for one");
    assert!(catch_unwind(AssertUnwindSafe(|| list.shrink(1))).is_err());
    assert_eq!(list.unregister(pointer(&member)), Ok(true));
}
