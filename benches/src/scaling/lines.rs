//! Cache lines under the protocol MESI (Papamarcos and Patel 1984), with a cost for each access.
//!
//! # Concepts
//! A line is in no cache, in one, or in several. In one cache it may be modified or exclusive: both
//! cost the same here, so both are one state. An access that needs another CPU's copy, or ends it,
//! is a **transfer**. A line moves one transfer after the other: who needs it meanwhile waits. Only
//! copies of a shared line are made at the same time. A store waits for nothing, as it goes through
//! a store buffer; a later load of its line waits until the line is there.
//!
//! # Costs
//! In cycles of 3 GHz. An atomic read-modify-write of an owned line takes about 20 cycles on
//! processors of Intel, 4 to 8 nanoseconds (Schweizer, Besta and Hoefler 2015, "Evaluating the Cost
//! of Atomic Operations on Modern Architectures"). The median latency between two cores is 46 to
//! 115 nanoseconds within a socket, and 108 to 197 between sockets, on servers from 2021 on:
//! Graviton3 46, Xeon 8375C 51 and 108, EPYC 7R13 107 and 197, EPYC 7773X 115 (Viennot 2022,
//! "core-to-core-latency"). Here each transfer takes 50 nanoseconds, that of one socket without
//! chiplets, and memory takes 100.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use page_frame::sync::AccessKind;

/// The bytes of a cache line.
pub const LINE_BYTES: usize = 64;
/// A load or a store of a line that the CPU has.
pub const HIT_CYCLES: u64 = 1;
/// Cycles that an atomic read-modify-write takes longer than a store.
pub const ATOMIC_CYCLES: u64 = 20;
/// A transfer from or to other CPUs.
pub const TRANSFER_CYCLES: u64 = 150;
/// A line that no CPU has.
pub const MEMORY_CYCLES: u64 = 300;
/// The largest number of CPUs.
pub const MAX_CPUS: usize = 256;

/// A set of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuSet([u64; MAX_CPUS / 64]);

impl CpuSet {
    fn insert(&mut self, cpu: usize) {
        self.0[cpu / 64] |= 1 << (cpu % 64);
    }

    const fn contains(&self, cpu: usize) -> bool {
        self.0[cpu / 64] & 1 << (cpu % 64) != 0
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// The caches that have a line.
#[derive(Clone, Copy, Debug, Default)]
enum Copies {
    #[default]
    None,
    /// One, which may have modified it.
    One(usize),
    /// Several, unmodified.
    Several(CpuSet),
}

#[derive(Default)]
struct Line {
    copies: Copies,
    /// The end of the last transfer, in cycles.
    free_at: u64,
    /// The CPUs that changed it atomically, and how often they did.
    changed_by: CpuSet,
    changes: u64,
}

/// The cost of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The clock after the access, in cycles.
    pub end: u64,
    /// Whether other CPUs lost their copies.
    pub ended_copies: bool,
}

/// Totals since the last [`Lines::start_count`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Transfers.
    pub transfers: u64,
    /// Atomic read-modify-writes.
    pub changes: u64,
    /// Those of lines that more than one CPU changed.
    pub shared_changes: u64,
}

/// A hash of a number by one multiplication (Knuth, The Art of Computer Programming 3, section
/// 6.4).
#[derive(Default)]
struct Multiplicative(u64);

impl Hasher for Multiplicative {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize((*byte).into()));
    }

    fn write_usize(&mut self, number: usize) {
        self.0 = (self.0 ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All lines, by number.
#[derive(Default)]
pub struct Lines {
    lines: HashMap<usize, Line, BuildHasherDefault<Multiplicative>>,
    transfers: u64,
}

impl Lines {
    /// Returns whether `cpu` alone has `line`, so that no access of it concerns others.
    pub fn is_private(&self, line: usize, cpu: usize) -> bool {
        let copies = self.lines.get(&line).map(|line| line.copies);
        matches!(copies, Some(Copies::One(owner)) if owner == cpu)
    }

    /// Charges an access of `cpu`, whose clock is `now`, and updates the state of the line.
    pub fn access(&mut self, cpu: usize, line: usize, kind: AccessKind, now: u64) -> Charge {
        let line = self.lines.entry(line).or_default();
        let is_read = kind == AccessKind::Read;
        let extra = if kind == AccessKind::Change { ATOMIC_CYCLES } else { 0 };
        if kind == AccessKind::Change {
            line.changed_by.insert(cpu);
            line.changes += 1;
        }
        let is_hit = match line.copies {
            Copies::None => false,
            Copies::One(owner) => owner == cpu,
            Copies::Several(cpus) => is_read && cpus.contains(cpu),
        };
        let is_store = kind == AccessKind::Write;
        // A store goes to the store buffer.
        let charge = |end: u64, ended_copies: bool| {
            let end = if is_store { now } else { end };
            Charge { end: end + HIT_CYCLES + extra, ended_copies }
        };
        let start = now.max(line.free_at);
        if is_hit {
            return charge(start, false);
        }
        let copies = line.copies;
        if let Copies::None = copies {
            (line.copies, line.free_at) = (Copies::One(cpu), start + MEMORY_CYCLES);
            return charge(line.free_at, false);
        }
        self.transfers += 1;
        let end = start + TRANSFER_CYCLES;
        // Copies of a shared line are made at the same time.
        if !(is_read && matches!(copies, Copies::Several(_))) {
            line.free_at = end;
        }
        line.copies = match copies {
            _ if !is_read => Copies::One(cpu),
            Copies::None => Copies::One(cpu),
            Copies::One(owner) => {
                let mut cpus = CpuSet::default();
                cpus.insert(owner);
                cpus.insert(cpu);
                Copies::Several(cpus)
            }
            Copies::Several(mut cpus) => {
                cpus.insert(cpu);
                Copies::Several(cpus)
            }
        };
        charge(end, !is_read)
    }

    /// Counts from zero again. The states of the lines stay.
    pub fn start_count(&mut self) {
        self.transfers = 0;
        for line in self.lines.values_mut() {
            (line.changed_by, line.changes) = (CpuSet::default(), 0);
        }
    }

    /// Returns the totals.
    pub fn totals(&self) -> Totals {
        let changes = |keep: fn(&Line) -> bool| {
            self.lines.values().filter(|line| keep(line)).map(|line| line.changes).sum()
        };
        Totals {
            transfers: self.transfers,
            changes: changes(|_| true),
            shared_changes: changes(|line| line.changed_by.count() > 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::AccessKind::{Change, Read, Write};
    use super::*;

    /// Mutations: a read that takes the line from others; a write that leaves their copies; a hit
    /// that costs a transfer.
    #[test]
    fn a_line_is_shared_by_reads_and_taken_by_writes() {
        let mut lines = Lines::default();
        let mut access = |cpu, kind, now| lines.access(cpu, 7, kind, now).end - now - HIT_CYCLES;
        assert_eq!(access(0, Read, 0), MEMORY_CYCLES);
        assert_eq!(access(0, Read, 1000), 0);
        assert_eq!(access(255, Read, 1000), TRANSFER_CYCLES);
        assert_eq!(access(0, Read, 2000), 0);
        assert_eq!(access(0, Change, 2000), TRANSFER_CYCLES + ATOMIC_CYCLES);
        assert_eq!(access(255, Change, 3000), TRANSFER_CYCLES + ATOMIC_CYCLES);
        assert_eq!(access(255, Change, 4000), ATOMIC_CYCLES);
        assert!(lines.is_private(7, 255) && !lines.is_private(7, 0) && !lines.is_private(8, 255));
        let totals = Totals { transfers: 3, changes: 3, shared_changes: 3 };
        assert_eq!(lines.totals(), totals);
        lines.start_count();
        assert!(lines.access(0, 7, Change, 5000).ended_copies);
        assert_eq!(lines.totals(), Totals { transfers: 1, changes: 1, shared_changes: 0 });
    }

    /// Mutations: `free_at` not set, or set by copies of a shared line too; a store that waits for
    /// its line; a load after it that does not.
    #[test]
    fn changes_of_one_line_queue_and_copies_of_it_do_not() {
        let mut lines = Lines::default();
        let mut access = |cpu, kind, now| lines.access(cpu, 7, kind, now).end - now - HIT_CYCLES;
        assert_eq!(access(0, Write, 0), 0);
        assert_eq!(access(0, Read, 100), MEMORY_CYCLES - 100);
        let waits = [1, 2, 3].map(|cpu| access(cpu, Change, 1000) - ATOMIC_CYCLES);
        assert_eq!(waits, [1, 2, 3].map(|place| place * TRANSFER_CYCLES));
        let waits = [4, 5, 6].map(|cpu| access(cpu, Read, 10_000));
        assert_eq!(waits, [1, 2, 2].map(|transfers| transfers * TRANSFER_CYCLES));
        assert_eq!(access(7, Write, 20_000), 0);
        assert_eq!(access(8, Read, 20_000), 2 * TRANSFER_CYCLES);
    }
}
