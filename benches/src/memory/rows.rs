//! The rows of the `kmalloc` table: workloads, collections, small heaps, and what memory each
//! contestant holds.
//!
//! For a footprint, and for what a fresh process does, the program runs itself with
//! [`CHILD_FLAG`], a figure and a contestant, and reads a number.

use std::process::Command;

use crate::asked::Asked;
use crate::measure::{Sample, median};
use crate::memory::cold::Cold;
use crate::memory::collections::Collection;
use crate::memory::contestants::contestants;
use crate::memory::footprint::Footprint;
use crate::memory::small::{Kind, Small};
use crate::memory::workload::Workload;
use crate::row::{FLOOR, OURS, Row};

/// The argument that makes a program of the benches the child of another.
pub const CHILD_FLAG: &str = "--footprint-of";

/// Measures the layer: each workload and each collection that `wants` names, on all contestants.
pub fn measure(asked: &Asked, mut each: impl FnMut(Row)) {
    let contestants = contestants();
    let contestants = asked.among(&contestants);
    for workload in Workload::ALL.into_iter().filter(|it| asked.wants(&it.name())) {
        each(Row::compare(workload.name(), contestants, asked.rounds, |who, make| {
            (who != FLOOR || workload.has_floor()).then(|| make().run(workload))
        }));
    }
    for collection in Collection::ALL.into_iter().filter(|it| asked.wants(it.name())) {
        each(Row::compare(collection.name().into(), contestants, asked.rounds, |who, make| {
            (who != FLOOR).then(|| make().run_collection(collection))
        }));
    }
    for cold in Cold::ALL.into_iter().filter(|it| asked.wants(it.name())) {
        each(Row::compare(cold.name().into(), contestants, asked.rounds, |who, _| {
            let runs = who != FLOOR && !SLOW.contains(&who);
            let mean_ns = runs.then(|| ask_child(cold.name(), who))??;
            Some(Sample { mean_ns, p999_ns: f64::NAN, max_ns: f64::NAN })
        }));
    }
    measure_small(asked, &mut each);
    measure_footprints(asked, each);
}

/// Measures small heaps: a row for [`Heap`](kmalloc::Heap), and one for a
/// [`Kmalloc`](kmalloc::Kmalloc) over an arena.
fn measure_small(asked: &Asked, each: &mut impl FnMut(Row)) {
    for small in Small::ALL {
        let rivals = if asked.alone { &[][..] } else { &Kind::RIVALS };
        for (suffix, ours) in [("", Kind::Heap), ("-arena", Kind::Arena)] {
            let name = small.name() + suffix;
            if !asked.wants(&name) {
                continue;
            }
            let rounds =
                |kind: Kind| (0..asked.rounds).map(|round| small.run(kind, round)).collect();
            let row = Row::alone(&name, small.unit(), rounds(ours));
            let figure = |(who, kind): &(&'static str, Kind)| (*who, median(rounds(*kind)));
            each(Row { rivals: rivals.iter().map(figure).collect(), ..row });
        }
    }
}

/// Measures the figures that are wanted, each in a process of its own for each contestant.
///
/// # Panics
/// When the running program is none that answers to [`CHILD_FLAG`].
fn measure_footprints(asked: &Asked, mut each: impl FnMut(Row)) {
    let contestants = contestants();
    for footprint in Footprint::ALL.into_iter().filter(|it| asked.wants(it.name())) {
        let is_left_out =
            |who: &str| who == FLOOR || (frees_at_random(footprint) && SLOW.contains(&who));
        let names = asked.among(&contestants).iter().map(|(who, _)| *who);
        let mut figures: Vec<(&'static str, f64)> = names
            .filter(|who| !is_left_out(who))
            .filter_map(|who| Some((who, ask_child(footprint.name(), who)?)))
            .collect();
        let place = figures.iter().position(|(who, _)| *who == OURS).expect("ours runs");
        let (_, ours) = figures.remove(place);
        let row = Row::alone(footprint.name(), footprint.unit(), vec![ours]);
        each(Row { rivals: figures, ..row });
    }
}

/// Rivals that look through all that is free at each free: hundreds of thousands of objects in
/// random order take them minutes.
const SLOW: [&str; 2] = ["linked_list_allocator", "buddy_system_allocator"];

fn frees_at_random(footprint: Footprint) -> bool {
    matches!(footprint, Footprint::Churn | Footprint::GiveBack)
}

fn ask_child(figure: &str, who: &str) -> Option<f64> {
    let own = std::env::current_exe().expect("the program has a path");
    let output = Command::new(own).args([CHILD_FLAG, figure, who]).output();
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
    let mut all = contestants().into_iter();
    let (_, make) = all.find(|(other, _)| other == who).expect("a contestant of that name");
    let figure = match Cold::ALL.into_iter().find(|it| it.name() == name) {
        Some(cold) => make().run_cold(cold),
        None => {
            let mut all = Footprint::ALL.into_iter();
            make().footprint(all.find(|it| it.name() == name).expect("a figure of that name"))
        }
    };
    println!("{figure:.3}");
    true
}
