//! How much memory an allocator holds: the resident memory of a process, compared to the bytes that
//! the process requested.
//!
//! Each figure needs a process of its own. Otherwise it would include memory that another allocator
//! has kept.

use std::alloc::Layout;
use std::time::{Duration, Instant};

use testkit::Random;

use crate::memory::requests::{free, layout, log_uniform};

/// Bytes that a workload requests.
const BYTES: usize = 64 << 20;

/// A workload, after which resident memory is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footprint {
    /// 64 MiB in objects of 16 to 2,048 bytes, all touched: resident over requested, in percent.
    Fill,
    /// As `Fill`, then five rounds: frees half of the objects at random, and requests the same
    /// number of bytes again, in objects of 64 to 8,192 bytes or 16 to 2,048 bytes in turn.
    /// Resident over requested, in percent.
    Churn,
    /// 400 objects of 16 to 2,011 bytes, as a small program has: resident kilobytes of the process.
    Startup,
    /// Fills 64 MiB and frees all of it. For twice the purge delay of `hosted` it then allocates
    /// and frees a little every two milliseconds. The memory still resident, in percent of the
    /// peak.
    GiveBack,
}

impl Footprint {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Fill, Self::Churn, Self::Startup, Self::GiveBack];

    /// Returns the name of the workload in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fill => "mem-fill",
            Self::Churn => "mem-churn",
            Self::Startup => "startup-rss",
            Self::GiveBack => "giveback-rss",
        }
    }

    /// Returns the unit of the figure.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Startup => "KB",
            _ => "%",
        }
    }

    /// Runs the workload on `allocator`, and returns its figure. The process has run nothing else
    /// before.
    pub fn run<A: std::alloc::GlobalAlloc + ?Sized>(self, allocator: &A) -> f64 {
        let before = resident() as f64;
        // The list of objects is touched at once, so that its memory can be subtracted.
        let mut live = vec![(std::ptr::without_provenance_mut(1), layout(1, 1)); 1 << 20];
        live.clear();
        let mut held = Held { live, bytes: 0, random: Random::new(53) };
        let overhead = resident() as f64 - before;
        let resident = || resident() as f64 - overhead;
        match self {
            Self::Startup => {
                let sizes = (0..400).map(|index| 16 + index * 5 % 3000);
                sizes.for_each(|size| held.add(allocator, layout(size, 8)));
                return resident() / 1024.0;
            }
            Self::Fill => held.fill(allocator, 16, 2048),
            Self::Churn => {
                held.fill(allocator, 16, 2048);
                for round in 0..5 {
                    held.free_half(allocator);
                    let (least, most) = if round % 2 == 0 { (64, 8192) } else { (16, 2048) };
                    held.fill(allocator, least, most);
                }
            }
            Self::GiveBack => {
                held.fill(allocator, 16, 2048);
                let peak = resident() - before;
                while !held.live.is_empty() {
                    held.free_half(allocator);
                }
                let freed_at = Instant::now();
                while freed_at.elapsed() < 2 * hosted::PURGE_DELAY {
                    (0..100).for_each(|number| held.add(allocator, layout(16 + number * 200, 8)));
                    while !held.live.is_empty() {
                        held.free_half(allocator);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                return (resident() - before) / peak * 100.0;
            }
        }
        (resident() - before) / held.bytes as f64 * 100.0
    }
}

/// The objects that the workload holds.
struct Held {
    live: Vec<(*mut u8, Layout)>,
    bytes: usize,
    random: Random,
}

impl Held {
    fn add<A: std::alloc::GlobalAlloc + ?Sized>(&mut self, allocator: &A, layout: Layout) {
        // SAFETY: not empty.
        let start = unsafe { allocator.alloc(layout) };
        assert!(!start.is_null(), "the workloads use little memory");
        // SAFETY: the allocator has just returned memory of this layout.
        unsafe { start.write_bytes(1, layout.size()) };
        self.live.push((start, layout));
        self.bytes += layout.size();
    }

    fn fill<A: std::alloc::GlobalAlloc + ?Sized>(
        &mut self,
        allocator: &A,
        least: usize,
        most: usize,
    ) {
        while self.bytes < BYTES {
            let size = log_uniform(&mut self.random, least, most);
            self.add(allocator, layout(size, 8));
        }
    }

    /// Frees half of the objects, or the last one.
    fn free_half<A: std::alloc::GlobalAlloc + ?Sized>(&mut self, allocator: &A) {
        for _ in 0..self.live.len().div_ceil(2) {
            let index = self.random.below(self.live.len());
            let (start, layout) = self.live.swap_remove(index);
            self.bytes -= layout.size();
            free(allocator, start, layout);
        }
    }
}

/// Returns the resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field is the number of resident pages") * page_frame::PAGE_SIZE
}
