//! A row on simulated CPUs, and its figures.

use crate::scaling::machine::{Outcome, Program, Simulation};
use crate::scaling::rows::{Contestant, Row};

/// Runs `row` on `cpus` simulated CPUs, each for about `blocks` blocks.
pub fn run(row: &Row, contestant: Contestant, cpus: usize, blocks: usize) -> Outcome {
    let simulation = Simulation::new(cpus);
    let programs = row.programs(contestant, simulation.cpu(), cpus);
    let programs = programs.into_iter().map(|program| program as Program).collect();
    simulation.run(programs, row.warm_blocks(), blocks)
}

impl Outcome {
    /// Returns blocks allocated and freed in 1000 cycles, by all CPUs.
    pub fn throughput(&self) -> f64 {
        1000.0 * self.blocks as f64 / self.cycles as f64
    }

    /// Returns transfers for a block allocated and freed.
    pub fn transfers(&self) -> f64 {
        self.totals.transfers as f64 / self.blocks as f64
    }

    /// Returns atomic changes for 1000 blocks: all, and those of shared lines.
    pub fn changes(&self) -> [f64; 2] {
        let per = |count: u64| 1000.0 * count as f64 / self.blocks as f64;
        [per(self.totals.changes), per(self.totals.shared_changes)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaling::rows::Layer;
    use crate::scaling::shape::Shape;

    fn row(layer: Layer, name: &str) -> Row {
        let row = Row::all().into_iter().find(|row| row.layer == layer && row.name == name);
        row.expect("a row of that name")
    }

    /// Mutations: `IrqLockToken::lock` that tries again without a look; a per-CPU slot that is
    /// entered by a swap.
    #[test]
    fn an_operation_changes_no_more_lines_with_more_cpus() {
        for row in Row::all() {
            // Enough for some purges and exits, which are rare.
            let is_rare = matches!(row.shape, Shape::Purge(_) | Shape::Exit(_));
            // In a shorter run of this row, the first exchanges with the depot are most of it.
            let is_slow_to_begin = row.name == "remote-64";
            let blocks = if is_rare || is_slow_to_begin { 2048 } else { 256 };
            let changes = |cpus| run(&row, Contestant::Ours, cpus, blocks).changes();
            let [few, many] = [2, 64].map(changes);
            // All changes are compared, as those of shared lines may grow up to them. In some
            // rows they grow: the book says why.
            let growth = match row.name {
                "handoff-2t" | "mixed-lifo" | "mixed-random" => 2.0,
                "rcu-batches-64" | "rcu-batches-256" | "purge-remote" => 4.0,
                "bulk-64-lifo" | "bulk-64-random" | "bulk-1024-lifo" | "remote-64" => 6.0,
                _ => 1.25,
            };
            let is_hit = row.layer == Layer::Buddy && row.shape == Shape::Pair;
            let most = if is_hit { 0.0 } else { growth * few[0] + 5.0 };
            let name = row.name;
            assert!(many[0] <= most, "{:?} {name}: {many:?} after {few:?}", row.layer);
        }
    }

    /// Mutations: transfers that cost no cycles; a CPU that never stops for one with a lower clock;
    /// CPU slots without homes.
    #[test]
    fn bulks_of_frames_scale_as_hits_do_and_a_common_lock_does_not() {
        let speedup = |row: &Row, contestant, cpus| {
            let [one, many] = [1, cpus].map(|cpus| run(row, contestant, cpus, 256).throughput());
            many / one
        };
        for name in ["pair-0", "pair-9"] {
            let row = row(Layer::Buddy, name);
            for cpus in [64, 256] {
                let ours = speedup(&row, Contestant::Ours, cpus);
                assert!(ours > 0.95 * cpus as f64, "{name} on {cpus} CPUs: {ours}");
            }
            let locked = speedup(&row, Contestant::Locked, 64);
            assert!(locked < 1.0, "{name}: {locked}");
        }
        for name in ["bulk-0-free-ordered", "bulk-0-free-random", "bulk-9-free-random"] {
            let row = row(Layer::Buddy, name);
            let [ours, linux] =
                [Contestant::Ours, Contestant::Linux].map(|it| speedup(&row, it, 64));
            assert!(ours > 48.0 && linux < 2.0, "{name} on 64 CPUs: {ours} and {linux}");
        }
        let mixed = row(Layer::Buddy, "mixed-random");
        let [ours, linux] = [Contestant::Ours, Contestant::Linux].map(|it| speedup(&mixed, it, 64));
        assert!(ours > 8.0 && linux < 2.0, "mixed on 64 CPUs: {ours} and {linux}");
    }

    /// Mutation: seeds that count on from run to run.
    #[test]
    fn two_runs_have_the_same_figures() {
        let mixed = row(Layer::Buddy, "mixed-random");
        let [one, other] = [1, 2].map(|_| run(&mixed, Contestant::Ours, 16, 500));
        assert_eq!(one, other);
    }
}
