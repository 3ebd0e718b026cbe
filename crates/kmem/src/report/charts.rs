//! The charts of a replay, from its samples.

use buddy::Fragmentation;
use page_frame::{Order, PAGE_SIZE};

use super::TimedReplay;
use crate::picture::chart::{Chart, Kind, Places, Series, Unit};
use crate::picture::text::size;
use crate::replay::target::FreeCounts;
use crate::replay::timeline::{Sample, Timeline};

/// Caches with a band of their own; with kmalloc and the others there are eight bands.
const BANDS: usize = 6;
/// The orders whose reach is followed: a kernel stack, 256 KiB, a huge page, the kernel's largest
/// block.
const FOLLOWED: [usize; 4] = [2, 6, 9, 10];
/// Orders of free blocks that share a band: from, to.
const GROUPS: [(usize, usize); 8] =
    [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 9)];

/// Returns all of them.
pub(super) fn all(replay: &TimedReplay, timeline: &Timeline) -> Vec<Chart> {
    let samples = timeline.samples();
    let mark =
        |micros: u64, bytes: u64| Some((micros as f64 / 1e6, format!("peak: {}", size(bytes))));
    let objects = mark(replay.objects.peak_micros(), replay.objects.totals().peak_live_bytes);
    let live_pages = replay.pages.totals().peak_live_pages * PAGE_SIZE as u64;
    let of_pages = mark(replay.pages.peak_micros(), live_pages);
    vec![
        Chart { mark: objects.clone(), ..memory(replay, samples) },
        Chart { mark: objects, ..held(samples) },
        Chart { mark: of_pages, ..pages(samples) },
        fragmentation(samples),
        orders(samples),
        free_blocks(samples),
        lifetimes(replay),
    ]
}

fn seconds(samples: &[Sample]) -> Places {
    Places::Seconds(samples.iter().map(|sample| sample.micros as f64 / 1e6).collect())
}

/// Live bytes by cache.
fn memory(replay: &TimedReplay, samples: &[Sample]) -> Chart {
    let caches = replay.objects.caches();
    let bytes = |sample: &Sample, cache: usize| {
        let objects = sample.cache_objects.get(cache).copied().unwrap_or(0);
        (objects * u64::from(caches[cache].requested_bytes)) as f64
    };
    let mut ranked: Vec<usize> = (0..caches.len()).collect();
    ranked.sort_by_key(|cache| std::cmp::Reverse(caches[*cache].at_peak.bytes));
    let own = &ranked[..ranked.len().min(BANDS)];
    let rest = &ranked[own.len()..];
    let band = |name: String, value: &dyn Fn(&Sample) -> f64| Series {
        name,
        values: samples.iter().map(value).collect(),
    };
    let mut series: Vec<_> = own
        .iter()
        .map(|cache| band(caches[*cache].name.clone(), &|sample| bytes(sample, *cache)))
        .collect();
    series.push(band("other caches".into(), &|sample| {
        rest.iter().map(|cache| bytes(sample, *cache)).sum()
    }));
    series.push(band("kmalloc".into(), &|sample| {
        let cached: f64 = (0..caches.len()).map(|cache| bytes(sample, cache)).sum();
        (sample.live_bytes as f64 - cached).max(0.0)
    }));
    Chart {
        name: "memory",
        title: "Live objects",
        note: "Bytes asked for and not yet freed, by cache.".to_owned(),
        kind: Kind::Stacked,
        unit: Unit::Bytes,
        places: seconds(samples),
        mark: None,
        series,
    }
}

/// Charts the requested bytes, and the bytes that our allocators hold for them.
fn held(samples: &[Sample]) -> Chart {
    let series = |name: &str, value: fn(&Sample) -> f64| Series {
        name: name.to_owned(),
        values: samples.iter().map(value).collect(),
    };
    Chart {
        name: "held",
        title: "Memory held for objects",
        note: "Pages that slabs and large runs take, beside the bytes asked for. The distance is waste, free objects and \
               what CPUs have cached."
            .to_owned(),
        kind: Kind::Lines,
        unit: Unit::Bytes,
        places: seconds(samples),
        mark: None,
        series: vec![
            series("asked for", |sample| sample.live_bytes as f64),
            series("held", |sample| (sample.held_pages * PAGE_SIZE) as f64),
        ],
    }
}

/// Charts the pages of the page events.
fn pages(samples: &[Sample]) -> Chart {
    Chart {
        name: "pages",
        title: "Live pages",
        note: "Memory taken by page events, on a buddy of their own.".to_owned(),
        kind: Kind::Stacked,
        unit: Unit::Bytes,
        places: seconds(samples),
        mark: None,
        series: vec![Series {
            name: "live pages".to_owned(),
            values: samples
                .iter()
                .map(|sample| (sample.live_pages as usize * PAGE_SIZE) as f64)
                .collect(),
        }],
    }
}

fn counts(sample: &Sample) -> FreeCounts {
    sample.free_counts.unwrap_or_default()
}

/// How a request of `order` sees free memory of these blocks.
fn seen(counts: &FreeCounts, order: usize) -> Fragmentation {
    let sum = |from: usize, by: &dyn Fn(usize) -> usize| {
        (from..counts.len()).map(|found| counts[found] * by(found)).sum()
    };
    Fragmentation {
        free_frames: sum(0, &|found| 1 << found),
        free_blocks: sum(0, &|_| 1),
        fitting_blocks: sum(order, &|found| 1 << (found - order)),
        pages: 1 << order,
    }
}

/// How much of free memory requests cannot use.
fn fragmentation(samples: &[Sample]) -> Chart {
    let series = FOLLOWED.map(|order| Series {
        name: format!("order {order} ({})", size((PAGE_SIZE << order) as u64)),
        values: samples
            .iter()
            .map(|sample| seen(&counts(sample), order).unusable() as f64 / 10.0)
            .collect(),
    });
    Chart {
        name: "fragmentation",
        title: "Fragmentation",
        note: "Share of free memory that is in pieces too small for a request of that order: 0 % when memory is whole."
            .to_owned(),
        kind: Kind::Lines,
        unit: Unit::Percent,
        places: seconds(samples),
        mark: None,
        series: series.into(),
    }
}

/// Free memory in pieces, by the order of its blocks.
fn orders(samples: &[Sample]) -> Chart {
    let series = GROUPS.map(|(from, to)| Series {
        name: match from == to {
            true => format!("order {from}"),
            false => format!("{from} to {to}"),
        },
        values: samples
            .iter()
            .map(|sample| {
                let counts = counts(sample);
                let frames: usize = (from..=to).map(|order| counts[order] << order).sum();
                (frames * PAGE_SIZE) as f64
            })
            .collect(),
    });
    Chart {
        name: "orders",
        title: "Free memory in pieces",
        note: "Free memory of the page side in blocks below order 10, by their order. What is whole is left out.".to_owned(),
        kind: Kind::Stacked,
        unit: Unit::Bytes,
        places: seconds(samples),
        mark: None,
        series: series.into(),
    }
}

/// Free blocks at the end.
fn free_blocks(samples: &[Sample]) -> Chart {
    let counts = samples.last().map(counts).unwrap_or_default();
    let used = counts.iter().rposition(|count| *count > 0).map_or(1, |order| order + 1).max(11);
    Chart {
        name: "free-blocks",
        title: "Free blocks at the end",
        note: "How many blocks of each order the page side has free.".to_owned(),
        kind: Kind::Bars,
        unit: Unit::Count,
        places: Places::Classes(
            "order",
            Order::all().take(used).map(|order| order.get().to_string()).collect(),
        ),
        mark: None,
        series: vec![Series {
            name: "free blocks".to_owned(),
            values: counts[..used].iter().map(|count| *count as f64).collect(),
        }],
    }
}

/// How old objects were when they were freed.
fn lifetimes(replay: &TimedReplay) -> Chart {
    let counts = replay.objects.lifetimes();
    let used = counts.iter().rposition(|count| *count > 0).map_or(1, |class| class + 1);
    let name = |class: usize| match class {
        0 => "<1 µs".to_owned(),
        1..=10 => format!("{} µs", 1_u64 << (class - 1)),
        11..=20 => format!("{} ms", 1_u64 << (class - 11)),
        _ => format!("{} s", 1_u64 << (class - 21)),
    };
    Chart {
        name: "lifetimes",
        title: "Lifetimes",
        note: "Objects by their age when they were freed: each bar is from its time to twice that (a thousand and 1,024 are \
               taken for the same)."
            .to_owned(),
        kind: Kind::Bars,
        unit: Unit::Count,
        places: Places::Classes("lifetime", (0..used).map(name).collect()),
        mark: None,
        series: vec![Series {
            name: "objects".to_owned(),
            values: counts[..used].iter().map(|count| *count as f64).collect(),
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_cover_every_order_below_the_largest_once() {
        let orders: Vec<usize> = GROUPS.iter().flat_map(|(from, to)| *from..=*to).collect();
        assert_eq!(orders, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn whole_memory_is_not_fragmented_and_single_pages_are() {
        let mut whole = FreeCounts::default();
        whole[18] = 4;
        assert_eq!(seen(&whole, 10).unusable(), 0);
        let mut single = FreeCounts::default();
        single[0] = 100;
        assert_eq!((seen(&single, 0).unusable(), seen(&single, 2).unusable()), (0, 1000));
    }
}
