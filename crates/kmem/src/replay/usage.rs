//! Live memory of one owner, and what it was at the moment at which all owners together had most.
//!
//! # Concepts
//! The *moment of the peak* is known only at the end, as a later peak may be higher. Copying the
//! live memory of all owners at each new peak would cost O(owners) an event. Instead an owner
//! copies its own live memory at its first change after a peak. An owner that has not changed
//! since the last peak has the live memory of that moment. O(1) for each event.
//!
//! # Invariants
//! - I1: `changed_at` of an owner is the number of the change that last touched it.
//! - I2: `saved` of an owner that changed after the last peak is its live memory at that peak.

/// Counts the changes of all owners of a side, and remembers the peak.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Moments {
    changes: u64,
    /// The number of the change that made the peak.
    peak_at: u64,
    /// The time of the peak in microseconds of the trace.
    peak_micros: u64,
}

/// Counters of one owner.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Usage {
    pub(super) allocations: u64,
    pub(super) failed: u64,
    pub(super) requested_bytes: u64,
    pub(super) allocated_bytes: u64,
    /// Objects or blocks with memory, and their requested bytes.
    pub(super) live: Live,
    saved: Live,
    changed_at: u64,
}

/// An amount of live memory.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Number of objects or blocks.
    pub objects: u64,
    /// Their bytes, as requested.
    pub bytes: u64,
}

impl Moments {
    /// Records that the side has more live memory than ever after the last change.
    #[inline(always)]
    pub(super) fn peak(&mut self, micros: u64) {
        self.peak_at = self.changes;
        self.peak_micros = micros;
    }

    /// Returns the time of the peak in microseconds of the trace.
    pub(super) fn peak_micros(&self) -> u64 {
        self.peak_micros
    }
}

impl Usage {
    /// Adds an object or block of `bytes` to the live memory.
    #[inline(always)]
    pub(super) fn grow(&mut self, bytes: u64, moments: &mut Moments) {
        self.before_change(moments);
        self.live.objects += 1;
        self.live.bytes += bytes;
    }

    /// Removes an object or block of `bytes` from the live memory.
    #[inline(always)]
    pub(super) fn shrink(&mut self, bytes: u64, moments: &mut Moments) {
        self.before_change(moments);
        self.live.objects -= 1;
        self.live.bytes -= bytes;
    }

    /// Returns the live memory at the moment of the peak.
    pub(super) fn at_peak(&self, moments: &Moments) -> Live {
        if self.changed_at <= moments.peak_at { self.live } else { self.saved }
    }

    #[inline(always)]
    fn before_change(&mut self, moments: &mut Moments) {
        if self.changed_at <= moments.peak_at {
            self.saved = self.live;
        }
        moments.changes += 1;
        self.changed_at = moments.changes;
    }
}

impl Live {
    /// Adds an amount.
    pub fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_live_memory_of_the_peak_is_that_of_a_copy_made_at_each_peak() {
        let (mut moments, mut usages) = (Moments::default(), [Usage::default(); 5]);
        let (mut highest, mut copied) = (0, [Live::default(); 5]);
        let mut held: Vec<(usize, u64)> = Vec::new();
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        for step in 0..20_000_u64 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Grows and shrinks in waves.
            let is_free = (random >> 40) % 100 < if step / 1000 % 2 == 0 { 35 } else { 65 };
            if is_free && !held.is_empty() {
                let (owner, bytes) = held.swap_remove((random >> 8) as usize % held.len());
                usages[owner].shrink(bytes, &mut moments);
            } else {
                let (owner, bytes) = ((random % 5) as usize, random >> 20 & 0xfff);
                held.push((owner, bytes));
                usages[owner].grow(bytes, &mut moments);
            }
            let live: u64 = usages.iter().map(|usage| usage.live.bytes).sum();
            if live > highest {
                highest = live;
                moments.peak(step);
                copied = usages.map(|usage| usage.live);
            }
            assert_eq!(usages.map(|usage| usage.at_peak(&moments)), copied, "step {step}");
        }
        assert!(highest > 0 && moments.peak_micros() < 20_000);
    }
}
