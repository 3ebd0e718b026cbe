//! Caches whose CPU slots lie in rows of an arena, beside those of other caches. The memory of the
//! arena has been used before, so it does not read as zero.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use page_frame::{Arena, CpuId, SwitchedCpu, WithSlotStride};
use slab::{Cache, Registry};
use testkit::{Random, steps};

const CPUS: usize = 5;
const PAGES: usize = 2048;

/// 16 rows, of which 15 are for caches.
type Apart<'c> = WithSlotStride<&'c SwitchedCpu, 1024>;

type TestCache<'a> = Cache<(&'a Arena<'a>, Apart<'a>)>;

/// A cache, and its objects in use with the byte that fills each.
struct Used<'a> {
    cache: TestCache<'a>,
    size: usize,
    objects: Vec<(NonNull<u8>, u8)>,
}

impl Used<'_> {
    fn allocate(&mut self, mark: u8) {
        let object = self.cache.allocate().expect("room");
        // SAFETY: ours, of that many bytes.
        unsafe { object.write_bytes(mark, self.size) };
        self.objects.push((object, mark));
    }

    fn free(&mut self, random: &mut Random) {
        if self.objects.is_empty() {
            return;
        }
        let (object, mark) = self.objects.swap_remove(random.below(self.objects.len()));
        // SAFETY: ours, and written.
        let content = unsafe { std::slice::from_raw_parts(object.as_ptr(), self.size) };
        assert!(content.iter().all(|byte| *byte == mark), "another owner wrote to it");
        // SAFETY: of this cache, and freed once.
        unsafe { self.cache.free(object) };
    }
}

/// Returns how many magazines there are.
fn magazines(registry: &Registry<(&Arena<'_>, Apart<'_>)>) -> usize {
    let mut magazines = 0;
    registry.stats(|stats| {
        if stats.name.as_str().starts_with("magazine") {
            magazines += stats.objects_active;
        }
    });
    magazines
}

/// Caches are made and destroyed while all CPUs use them.
///
/// Mutations that it catches: `take` does not empty a row that was written; `give` returns no block
/// (its pages are not returned); `give` frees the first row of the block instead of the right one.
#[test]
fn rows_are_taken_returned_and_taken_again() {
    let mut memory = vec![MaybeUninit::new(0xa5_u8); PAGES * 4096];
    let arena = Arena::new(&mut memory).expect("large enough");
    let pages = arena.free_pages();
    let cpus = SwitchedCpu::new(CPUS);
    let registry = Registry::new(&arena, WithSlotStride(&cpus) as Apart<'_>).expect("room");
    let (mut random, mut used, mut most) = (Random::new(8), Vec::<Used<'_>>::new(), 0);
    for round in 0..steps(60_000) {
        cpus.switch_to(Some(CpuId::new(random.below(CPUS) as u32)));
        // First up to 40 caches, then down to three.
        let wanted = if round < 40_000 { 40 } else { 3 };
        if used.len() < wanted && random.below(400) == 0 {
            let size = 16 + random.below(200);
            let layout = Layout::from_size_align(size, 8).expect("a layout");
            let cache = registry.cache("column", layout).build().expect("room");
            used.push(Used { cache, size, objects: Vec::new() });
            most = most.max(used.len());
            let before = magazines(&registry);
            let last = used.last_mut().expect("just pushed");
            (0..40).for_each(|_| last.allocate(1));
            assert!(
                magazines(&registry) > before,
                "the slot is there, and nobody seems to be inside"
            );
        }
        if used.is_empty() {
            continue;
        }
        let index = random.below(used.len());
        if random.below(2000) == 0 || used.len() > wanted {
            let mut gone = used.swap_remove(index);
            while !gone.objects.is_empty() {
                gone.free(&mut random);
            }
            gone.cache.destroy().expect("nothing is in use");
        } else if random.below(2) == 0 {
            used[index].allocate(round as u8);
        } else {
            used[index].free(&mut random);
        }
        if round % 5000 == 0 {
            registry.validate().expect("consistent");
            registry.shrink_all();
        }
    }
    assert!(most > 30, "{most} caches are more than one block has columns for");
    for mut last in used {
        while !last.objects.is_empty() {
            last.free(&mut random);
        }
        last.cache.destroy().expect("nothing is in use");
    }
    registry.shrink_all();
    let held = registry.pages_held();
    assert!(held <= 4, "{held} pages: the registry's block and one of slots, two pages each");
    drop(registry);
    assert_eq!(arena.free_pages(), pages);
    arena.validate().expect("consistent");
}
