//! How much memory an allocator holds: resident bytes of a process of its own, beside what was asked for.
//!
//! Each figure takes a fresh process, as memory of another allocator's past would be counted too. The program runs itself with
//! [`CHILD_FLAG`], a workload and a contestant, and reads a number.

use std::alloc::Layout;
use std::process::Command;
use std::time::Duration;

use testkit::Random;

use crate::asked::Asked;
use crate::memory::contestants;
use crate::memory_workload::{free, layout, log_uniform};
use crate::row::{FLOOR, OURS, Row};

/// The argument that makes a program of the benches the child of another.
pub const CHILD_FLAG: &str = "--footprint-of";

/// Bytes that are asked for.
const BYTES: usize = 64 << 20;

/// What is done before resident memory is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Footprint {
    /// 64 MiB in objects of 16 to 2,048 bytes, all touched: resident over requested, in percent.
    Fill,
    /// The same; then half of the objects freed at random, and as many bytes asked for in objects of 64 to 8,192 bytes, five
    /// times: resident over requested, in percent.
    Churn,
    /// A small program, which allocates a little of everything: resident kilobytes of its process.
    Startup,
    /// 64 MiB as above, freed, and a second of sleep: what is still there, in percent of the peak.
    GiveBack,
}

impl Footprint {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::Fill, Self::Churn, Self::Startup, Self::GiveBack];

    /// Returns the name in tables and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fill => "mem-fill",
            Self::Churn => "mem-churn",
            Self::Startup => "startup-rss",
            Self::GiveBack => "giveback-rss",
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Startup => "KB",
            _ => "%",
        }
    }

    /// Returns the figure of this process, which has done nothing before, on `allocator`.
    pub fn run<A: std::alloc::GlobalAlloc + ?Sized>(self, allocator: &A) -> f64 {
        let before = resident() as f64;
        // Touched at once, as what the list of objects takes is not the allocator's.
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
                std::thread::sleep(Duration::from_secs(1));
                return (resident() - before) / peak * 100.0;
            }
        }
        (resident() - before) / held.bytes as f64 * 100.0
    }
}

/// Objects that are alive.
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
        // SAFETY: ours, of so many bytes.
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

/// Measures the figures that are wanted, each in a process of its own for each contestant.
///
/// # Panics
/// When the running program is none that answers to [`CHILD_FLAG`].
pub fn measure(asked: &Asked, mut each: impl FnMut(Row)) {
    let contestants = contestants();
    for footprint in Footprint::ALL.into_iter().filter(|it| asked.wants(it.name())) {
        let is_left_out =
            |who: &str| who == FLOOR || (frees_at_random(footprint) && SLOW.contains(&who));
        let names = asked.among(&contestants).iter().map(|(who, _)| *who);
        let mut figures: Vec<(&'static str, f64)> = names
            .filter(|who| !is_left_out(who))
            .filter_map(|who| Some((who, ask_child(footprint, who)?)))
            .collect();
        let place = figures.iter().position(|(who, _)| *who == OURS).expect("ours runs");
        let (_, ours) = figures.remove(place);
        let row = Row::alone(footprint.name(), footprint.unit(), vec![ours]);
        each(Row { rivals: figures, ..row });
    }
}

/// Rivals that look through all that is free at each free: hundreds of thousands of objects in random order take them minutes.
const SLOW: [&str; 2] = ["linked_list_allocator", "buddy_system_allocator"];

fn frees_at_random(footprint: Footprint) -> bool {
    matches!(footprint, Footprint::Churn | Footprint::GiveBack)
}

fn ask_child(footprint: Footprint, who: &str) -> Option<f64> {
    let own = std::env::current_exe().expect("the program has a path");
    let output = Command::new(own).args([CHILD_FLAG, footprint.name(), who]).output();
    let text = String::from_utf8(output.ok().filter(|it| it.status.success())?.stdout).ok()?;
    text.trim().parse().ok()
}

/// Answers as a child, if the arguments say that this is one; whether they do.
///
/// # Panics
/// When they name nothing that there is.
pub fn answer(arguments: &[String]) -> bool {
    let [flag, name, who] = arguments else { return false };
    if flag != CHILD_FLAG {
        return false;
    }
    let mut all = Footprint::ALL.into_iter();
    let footprint = all.find(|it| it.name() == name).expect("a figure of that name");
    let mut all = contestants().into_iter();
    let (_, make) = all.find(|(other, _)| other == who).expect("a contestant of that name");
    println!("{:.3}", make().footprint(footprint));
    true
}

/// Returns the resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("Linux says so in the second field") * page_frame::PAGE_SIZE
}
