//! The page events of real traces, through the real buddy; totals beside a second, naive count.
//!
//! The bundled part is always replayed, the full recordings when `KTRACE_DIR` names their folder.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, without_provenance_mut};

use buddy::{Buddy, Mode};
use hosted::Mapped;
use kmem::trace::event::Action;
use kmem::trace::reader::{Batch, TraceReader};
use kmem::trace::source::Source;
use page_frame::{CpuId, DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE, SwitchedCpu};

/// What is counted, of objects and pages.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    events: usize,
    requested_bytes: u64,
    matched: usize,
    unmatched: usize,
    implied: usize,
    live_pages: usize,
    peak_pages: usize,
}

/// Counts line by line, sharing nothing with the reader under test.
fn naive(text: &str) -> Totals {
    let mut totals = Totals::default();
    let mut live: HashMap<&str, usize> = HashMap::new();
    for line in text.lines().filter(|line| !line.starts_with(['#', '!', 'x'])) {
        let fields: Vec<&str> = line.split(',').collect();
        totals.events += 1;
        match fields[0] {
            "a" | "A" => totals.requested_bytes += fields[4].parse::<u64>().expect("REQ"),
            "p" => {
                let pages = 1 << fields[4].parse::<u32>().expect("ORDER");
                if let Some(before) = live.insert(fields[3], pages) {
                    totals.implied += 1;
                    totals.live_pages -= before;
                }
                totals.live_pages += pages;
                totals.peak_pages = totals.peak_pages.max(totals.live_pages);
            }
            "P" => match live.remove(fields[3]) {
                Some(pages) => {
                    totals.matched += 1;
                    totals.live_pages -= pages;
                }
                None => totals.unmatched += 1,
            },
            _ => {}
        }
    }
    totals
}

/// Replays the page events of `source` through a buddy of 4 GiB, on the CPUs of the trace, and returns what was counted.
fn replay(source: Source) -> Totals {
    const CPUS: u16 = 2;
    let cpus = SwitchedCpu::new(CPUS.into());
    let frames = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(1 << 20))];
    let layout = Buddy::<DirectMap, &SwitchedCpu>::metadata_layout(&frames, CPUS.into());
    let metadata = Mapped::reserve(layout.expect("a good range").size()).expect("address space");
    let root = NonNull::new(without_provenance_mut(PAGE_SIZE)).expect("not zero");
    // SAFETY: frames are only numbers here; no pointer of the map is used.
    let map = unsafe { DirectMap::from_root(root, frames[0].start) };
    // SAFETY: fresh mapped memory is zero, and outlives the allocator in this function.
    let buddy = unsafe { Buddy::new_in(metadata.start(), &frames, map, &cpus, Mode::Cached) };
    let buddy = buddy.expect("a good range");
    let initial = buddy.free_counts();

    let mut totals = Totals::default();
    let mut live: HashMap<u64, (FrameNumber, Order)> = HashMap::new();
    let free = |(frame, order): (FrameNumber, Order)| {
        buddy.free_frames(frame, order).expect("allocated by this replay");
        order.pages()
    };
    let mut reader = TraceReader::new(source);
    let mut batch = Batch::default();
    let mut more = true;
    while more {
        more = reader.read_batch(&mut batch).expect("the recording is well formed");
        for event in &batch.events {
            totals.events += 1;
            cpus.switch_to(Some(CpuId::new((event.cpu % CPUS).into())));
            match event.action {
                Action::AllocateBytes { requested_bytes, .. }
                | Action::AllocateObject { requested_bytes, .. } => {
                    totals.requested_bytes += u64::from(requested_bytes);
                }
                Action::FreeObject { .. } => {}
                Action::AllocatePages { frame, order } => {
                    if let Some(before) = live.remove(&frame) {
                        totals.implied += 1;
                        totals.live_pages -= free(before);
                    }
                    let order = Order::new(order).expect("the reader refuses others");
                    let block = buddy.allocate_frames(order).expect("4 GiB are enough");
                    live.insert(frame, (block, order));
                    totals.live_pages += order.pages();
                    totals.peak_pages = totals.peak_pages.max(totals.live_pages);
                }
                Action::FreePages { frame, .. } => match live.remove(&frame) {
                    Some(block) => {
                        totals.matched += 1;
                        totals.live_pages -= free(block);
                    }
                    None => totals.unmatched += 1,
                },
            }
        }
    }
    buddy.validate().expect("consistent in the middle of things");
    live.into_values().for_each(|block| _ = free(block));
    buddy.drain();
    buddy.validate().expect("consistent at the end");
    assert_eq!(buddy.free_counts(), initial, "everything freed: the initial state");
    totals
}

/// Decodes a whole recording into memory, for the naive count.
fn text(path: &Path) -> String {
    let mut source = Source::open(path).expect("the recording is there");
    let (mut all, mut part) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match source.read(&mut part).expect("the recording can be decoded") {
            0 => return String::from_utf8(all).expect("a trace is text"),
            read => _ = part[..read].take(read as u64).read_to_end(&mut all).expect("memory"),
        }
    }
}

fn compare(path: &Path) -> Totals {
    let totals = replay(Source::open(path).expect("the recording is there"));
    assert_eq!(totals, naive(&text(path)), "{}", path.display());
    totals
}

#[test]
fn the_bundled_trace_replays_with_its_own_totals() {
    let bundled =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/traces/compile.ktrace.csv.zst");
    let totals = compare(&bundled);
    assert!(totals.events >= 500_000, "{} events", totals.events);
}

#[test]
fn the_full_recordings_replay_with_their_own_totals() {
    let Some(folder) = std::env::var_os("KTRACE_DIR").map(PathBuf::from) else {
        println!("KTRACE_DIR is not set: the full recordings are not replayed");
        return;
    };
    let compiled = compare(&folder.join("compile.ktrace.csv.zst"));
    assert_eq!((compiled.events, compiled.peak_pages), (1_685_410, 266_079));
    let processes = compare(&folder.join("procs.ktrace.csv.zst"));
    assert_eq!((processes.events, processes.peak_pages), (1_539_785, 96_312));
}
