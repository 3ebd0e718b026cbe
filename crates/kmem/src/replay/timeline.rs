//! A replay over time: samples taken after batches, at most [`MAX_SAMPLES`] however long the trace
//! is, and one at the end.

use super::pipeline::Replay;
use super::target::{FreeCounts, ObjectTarget, PageTarget};

/// Maximum number of samples before the end. When one more is due, every other sample is dropped,
/// and from then on half as many batches are sampled.
pub const MAX_SAMPLES: usize = 400;

/// Live and free memory at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Microseconds of the trace.
    pub micros: u64,
    /// Requested bytes of the live objects.
    pub live_bytes: u64,
    /// Pages that the object side holds.
    pub held_pages: usize,
    /// Live objects of each cache, in the order of opening.
    pub cache_objects: Vec<u64>,
    /// Pages that are live on the page side.
    pub live_pages: u64,
    /// Free blocks of the page side by order.
    pub free_counts: Option<FreeCounts>,
}

/// The samples of a replay.
#[derive(Debug, Default)]
pub struct Timeline {
    samples: Vec<Sample>,
    /// The binary logarithm of the number of batches between samples.
    shift: u32,
    batches: u64,
}

impl Timeline {
    /// Takes a sample if one is due. The caller calls this after each batch.
    pub fn watch<T: ObjectTarget, P: PageTarget>(&mut self, replay: &Replay<T, P>) {
        if self.batches.is_multiple_of(1 << self.shift) {
            if self.samples.len() == MAX_SAMPLES {
                self.thin();
            }
            // Thinning may have made the next sample due later.
            if self.batches.is_multiple_of(1 << self.shift) {
                self.samples.push(sample(replay));
            }
        }
        self.batches += 1;
    }

    /// Takes a last sample at the end of the replay, unless one of that time exists.
    pub fn end<T: ObjectTarget, P: PageTarget>(&mut self, replay: &Replay<T, P>) {
        if self.samples.last().is_none_or(|last| last.micros < replay.micros()) {
            self.samples.push(sample(replay));
        }
    }

    /// Returns the samples, in order of time.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    fn thin(&mut self) {
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.shift += 1;
    }
}

fn sample<T: ObjectTarget, P: PageTarget>(replay: &Replay<T, P>) -> Sample {
    Sample {
        micros: replay.micros(),
        live_bytes: replay.objects.totals().live_bytes,
        held_pages: replay.objects.target().totals().held_pages,
        cache_objects: replay.objects.live_objects(),
        live_pages: replay.pages.totals().live_pages,
        free_counts: replay.pages.target().free_counts(),
    }
}
