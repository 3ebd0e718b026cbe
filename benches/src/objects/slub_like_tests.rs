//! Tests of the model of SLUB.

use std::collections::HashSet;

use hosted::Threads;
use testkit::Random;

use super::*;
use crate::exclusive::SpinLocks;
use crate::objects::slub_slabs::MIN_PARTIAL;

/// Grace periods that end at the next look.
struct AtOnce;

// SAFETY: clause 1: nothing is read.
unsafe impl GracePeriods for AtOnce {
    fn start(&self) -> u64 {
        0
    }
    fn has_ended(&self, _: u64) -> bool {
        true
    }
}

type Model = SlubLike<Threads, SpinLocks>;

fn model(bytes: usize) -> Model {
    let layout = Layout::from_size_align(bytes, 8).expect("a small size");
    Model::new(Threads, layout, 64 << 20)
}

/// Mutations: a refill that forgets what is too much; a chain whose last link is not set.
#[test]
fn no_object_has_two_owners_and_all_memory_comes_back() {
    for bytes in [8, 64, 200, 1024, 4096] {
        let model = model(bytes);
        let mut random = Random::new(3);
        let mut held = Vec::new();
        let mut owned = HashSet::new();
        for _ in 0..20_000 {
            if random.one_in(2) {
                let object = model.allocate();
                assert!(owned.insert(object), "{bytes}: two owners");
                held.push(object);
            } else if !held.is_empty() {
                let object = held.swap_remove(random.below(held.len()));
                owned.remove(&object);
                match random.one_in(4) {
                    true => model.free_deferred(object, &AtOnce),
                    false => model.free(object),
                }
            }
        }
        held.drain(..).for_each(|object| model.free(object));
        // Objects that are not in the slabs: in sheaves.
        let pages = model.slabs.used_pages();
        let most = 2 * MOST_SHEAVES + 4 + MIN_PARTIAL;
        assert!(
            pages <= most * model.capacity * model.slabs.order.pages(),
            "{bytes}: {pages} pages"
        );
    }
}

#[test]
fn two_threads_share_no_object() {
    let model = model(64);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let model = &model;
            scope.spawn(move || {
                let mut random = Random::new(seed);
                let mut held: Vec<NonNull<u8>> = Vec::new();
                for _ in 0..100_000 {
                    if random.one_in(2) {
                        let object = model.allocate();
                        // SAFETY: ours, of 64 bytes.
                        unsafe { object.cast::<u64>().write(seed) };
                        held.push(object);
                    } else if !held.is_empty() {
                        let object = held.swap_remove(random.below(held.len()));
                        // SAFETY: ours since it was written.
                        assert_eq!(unsafe { object.cast::<u64>().read() }, seed);
                        model.free(object);
                    }
                }
            });
        }
    });
}
