//! Interprets bytes as calls of an allocator, and compares it with a list of the live allocations.
//!
//! # Input
//! The first byte chooses preset, size of the memory, and how often the page source refuses. Each
//! call takes four bytes: what to do and on which CPU, which allocation or alignment, and a size in
//! two little-endian bytes, with its scale in the first byte.
//!
//! # What must hold
//! - An allocation is aligned, as large as asked for, and keeps its content until it is freed: so
//!   no two overlap.
//! - Zeroed memory is zero. A request that fails changes nothing.
//! - `check_owned` finds no fault in an allocation; its usable size is at least what was asked for.
//! - `validate` holds after each shrink and at the end. After everything is freed, all pages are
//!   back at the source.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use kmalloc::Kmalloc;
use page_frame::{Arena, Counted, CpuId, Limited, PAGE_SIZE, SwitchedCpu};
use slab::{Debugging, Hardened, Hardening, Off, Registry};

const CPUS: u32 = 2;
const CALL_BYTES: usize = 4;

struct Live {
    start: NonNull<u8>,
    layout: Layout,
    seed: u8,
}

impl Live {
    /// The byte at `index` of the content.
    fn byte(&self, index: usize) -> u8 {
        self.seed.wrapping_add((index as u8).wrapping_mul(31))
    }

    fn fill(&self) {
        for index in 0..self.layout.size() {
            // SAFETY: ours, and as large as the layout.
            let place = unsafe { self.start.add(index) };
            // SAFETY: as above.
            unsafe { place.write(self.byte(index)) };
        }
    }

    fn check(&self, bytes: usize) {
        // SAFETY: ours, filled before, and at least as large.
        let content = unsafe { NonNull::slice_from_raw_parts(self.start, bytes).as_ref() };
        for (index, byte) in content.iter().enumerate() {
            assert_eq!(*byte, self.byte(index), "byte {index} of {:?}", self.layout);
        }
    }
}

/// Does the calls that `bytes` stand for.
///
/// # Panics
/// When something does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let Some((setting, calls)) = bytes.split_first() else { return };
    match setting & 3 {
        0 | 1 => history::<Off>(*setting, calls),
        2 => history::<Hardened>(*setting, calls),
        _ => history::<Debugging>(*setting, calls),
    }
}

fn history<K: Hardening>(setting: u8, calls: &[u8]) {
    let pages = [20, 60, 150, 500][usize::from(setting >> 2 & 3)];
    let every = [0, 0, 3, 7][usize::from(setting >> 4 & 3)];
    let mut memory = vec![MaybeUninit::uninit(); pages * PAGE_SIZE];
    let arena = Counted::new(Arena::new(&mut memory).expect("large enough"));
    let cpus = SwitchedCpu::new(CPUS as usize);
    let source = Limited::new(&arena).failing_every(every);
    let Some(registry) = (0..10).find_map(|_| Registry::new(&source, &cpus).ok()) else { return };
    let kmalloc = Kmalloc::<_, K>::with_hardening(registry).with_secret(0x5eed);
    let mut live: Vec<Live> = Vec::new();
    for (number, call) in calls.chunks_exact(CALL_BYTES).enumerate() {
        let (what, which) = (call[0], usize::from(call[1]));
        let size = usize::from(u16::from_le_bytes([call[2], call[3]])) >> (4 * (what >> 6));
        let cpu = u32::from(what >> 4 & 3);
        cpus.switch_to((cpu < CPUS).then(|| CpuId::new(cpu)));
        let seed = (number as u8).wrapping_mul(17);
        match what & 7 {
            0..=2 => {
                let layout = Layout::from_size_align(size, 1 << (which & 15)).expect("small");
                let got = match what & 7 {
                    0 => kmalloc.allocate(layout),
                    1 => kmalloc.allocate_zeroed(layout),
                    _ => kmalloc.try_allocate(layout),
                };
                let Ok(start) = got else { continue };
                assert_eq!(start.addr().get() % layout.align(), 0);
                if what & 7 == 1 {
                    // SAFETY: ours, and zeroed.
                    let content = unsafe { NonNull::slice_from_raw_parts(start, size).as_ref() };
                    assert!(content.iter().all(|byte| *byte == 0), "{size} bytes");
                }
                live.push(Live { start, layout, seed });
                live[live.len() - 1].fill();
            }
            3 | 4 if !live.is_empty() => {
                let freed = live.swap_remove(which % live.len());
                freed.check(freed.layout.size());
                // SAFETY: clauses 1 and 2: ours, and nobody else is there.
                let usable = unsafe { kmalloc.check_owned(freed.start) }.expect("no fault");
                assert!(usable >= freed.layout.size());
                match what & 7 {
                    // SAFETY: allocated with this layout.
                    3 => unsafe { kmalloc.free_sized(freed.start, freed.layout) },
                    // SAFETY: allocated here.
                    _ => unsafe { kmalloc.free(freed.start) },
                }
            }
            5 if !live.is_empty() => {
                let index = which % live.len();
                let Live { start, layout, .. } = live[index];
                // SAFETY: allocated with this layout; only the address returned is used.
                let Ok(start) = (unsafe { kmalloc.reallocate(start, layout, size) }) else {
                    live[index].check(layout.size());
                    continue;
                };
                let kept = Live { start, ..live.swap_remove(index) };
                kept.check(size.min(layout.size()));
                let layout = Layout::from_size_align(size, layout.align()).expect("small");
                live.push(Live { start, layout, seed });
                live[live.len() - 1].fill();
            }
            6 => {
                kmalloc.shrink_all();
                kmalloc.validate().expect("consistent");
            }
            _ => _ = kmalloc.registry().shrink(size),
        }
    }
    kmalloc.validate().expect("consistent");
    for allocation in live {
        allocation.check(allocation.layout.size());
        // SAFETY: allocated here.
        unsafe { kmalloc.free(allocation.start) };
    }
    kmalloc.shrink_all();
    kmalloc.validate().expect("consistent");
    assert_eq!(kmalloc.large_pages(), 0);
    drop(kmalloc);
    assert_eq!(arena.held_pages(), 0, "all pages are returned");
    arena.source().validate().expect("consistent");
}
