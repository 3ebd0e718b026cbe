//! Writes compact traces: each name once and then its number, each time as the difference from the
//! one before.

use std::collections::HashMap;
use std::io::{self, Write};

use super::error::ImportError;
use super::{Recorded, UNKNOWN, What};
use crate::input_error::Mismatch;
use crate::trace::comment::FAILED;
use crate::trace::event::{ADDRESS_BASE, MAX_CPUS, MAX_FRAMES, MAX_ORDER, MAX_REQUEST_BYTES};
use crate::trace::losses::Losses;
use crate::trace::names::{MAX_NAME_BYTES, MAX_NAMES};
use crate::trace::{HEADER, VERSION};

/// Largest migratetype that the trace format allows, as in `trace/line.rs`.
const MAX_MIGRATETYPE: u64 = 15;
/// Written in place of a name that is empty, too long, or has a line break, and of all names after
/// the table is full.
const OTHERS: &str = "others";

/// How many events were written, and how many were not, by reason.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Events written.
    pub written: u64,
    /// Events of a kind that is not imported, and those of no memory: a null pointer, or a request
    /// of zero bytes.
    pub left_out: u64,
    /// Page allocations that failed in the recorded kernel. Each is noted in a comment.
    pub failed: u64,
    /// Events whose address the kernel printed as `(ptrval)`. They are not written.
    pub hidden: u64,
    /// Events without a needed field, with a number outside the format's range, or in a line that
    /// is broken. They are counted among the losses too.
    pub unreadable: u64,
    /// Events that the recorder reported as lost, and unreadable ones.
    pub losses: Losses,
}

/// Writes a compact trace.
pub struct Compact<W> {
    out: W,
    sites: Numbers,
    gfps: Numbers,
    last_ns: Option<u64>,
    counts: Counts,
    has_begun: bool,
    /// The pointer that the kernel returns for zero bytes, once it did.
    empty: Option<u64>,
}

/// The number of each name.
#[derive(Default)]
struct Numbers(HashMap<String, u32>);

impl<W: Write> Compact<W> {
    /// Begins a trace. Nothing is written before the first event, the first loss or `finish`, so
    /// `out` stays empty when the input turns out not to be a recording.
    pub fn new(out: W) -> Self {
        let (sites, gfps) = (Numbers::default(), Numbers::default());
        let counts = Counts::default();
        Self { out, sites, gfps, last_ns: None, counts, has_begun: false, empty: None }
    }

    fn begin(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.has_begun, true) {
            writeln!(self.out, "{HEADER} {VERSION}\n# base {ADDRESS_BASE:x}")?;
        }
        Ok(())
    }

    /// Writes an event. One without memory is counted as left out, and one with a number outside
    /// the format's range as lost.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn add(&mut self, event: &Recorded<'_>) -> io::Result<()> {
        if self.is_of_nothing(event) {
            self.leave_out();
            return Ok(());
        }
        if !fits(event) {
            return self.lose_unreadable();
        }
        self.begin()?;
        let cpu = event.cpu;
        // Names first: the line of the event refers to them.
        match event.what {
            What::Allocate { address, requested_bytes, allocated_bytes, gfp, site, cache } => {
                let unnamed = format!("objects-{allocated_bytes}");
                let (kind, name) = match cache {
                    Some("") => ('A', &*unnamed),
                    Some(cache) => ('A', cache),
                    None => ('a', site),
                };
                let gfp = self.gfps.number('g', gfp, &mut self.out)?;
                let name = self.sites.number('s', name, &mut self.out)?;
                let site = match kind {
                    'A' if site != UNKNOWN => Some(self.sites.number('s', site, &mut self.out)?),
                    _ => None,
                };
                let (delta, address) = (self.delta(event), relative(address));
                write!(
                    self.out,
                    "{kind},{delta},{cpu},{address:x},{requested_bytes},{allocated_bytes},{gfp},{name}"
                )?;
                self.end_line(site)?;
            }
            What::Free { address, of_cache } => {
                let kind = if of_cache { 'F' } else { 'f' };
                let (delta, address) = (self.delta(event), relative(address));
                writeln!(self.out, "{kind},{delta},{cpu},{address:x}")?;
            }
            What::AllocatePages { frame, order, migratetype, gfp, site } => {
                let gfp = self.gfps.number('g', gfp, &mut self.out)?;
                let number = |site| self.sites.number('s', site, &mut self.out);
                let site = site.map(number).transpose()?;
                let delta = self.delta(event);
                write!(self.out, "p,{delta},{cpu},{frame:x},{order},{migratetype},{gfp}")?;
                self.end_line(site)?;
            }
            What::FreePages { frame, order } => {
                let delta = self.delta(event);
                writeln!(self.out, "P,{delta},{cpu},{frame:x},{order}")?;
            }
        }
        self.counts.written += 1;
        Ok(())
    }

    /// Returns whether the event is about no memory: its pointer is null, or it is a request of
    /// zero bytes, or the free of the pointer that those get.
    fn is_of_nothing(&mut self, event: &Recorded<'_>) -> bool {
        match event.what {
            What::Allocate { address, requested_bytes: 0, .. } => {
                self.empty = Some(address);
                true
            }
            What::Allocate { address, .. } => address == 0,
            What::Free { address, .. } => address == 0 || self.empty == Some(address),
            What::AllocatePages { .. } | What::FreePages { .. } => false,
        }
    }

    /// Ends the line of an allocation, with its call site where it is known.
    fn end_line(&mut self, site: Option<u32>) -> io::Result<()> {
        match site {
            Some(site) => writeln!(self.out, ",{site}"),
            None => writeln!(self.out),
        }
    }

    /// Counts an event that is not written.
    pub fn leave_out(&mut self) {
        self.counts.left_out += 1;
    }

    /// Notes in the trace that events are missing here.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn lose(&mut self, losses: Losses) -> io::Result<()> {
        self.begin()?;
        self.counts.losses.add(losses);
        writeln!(self.out, "{}", losses.line())
    }

    /// Counts an event that could not be read as a lost one, and notes it in the trace.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn lose_unreadable(&mut self) -> io::Result<()> {
        self.counts.unreadable += 1;
        self.lose(Losses::of(1))
    }

    /// Notes in the trace that an allocation of pages failed.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn fail(&mut self, order: u64) -> io::Result<()> {
        self.begin()?;
        self.counts.failed += 1;
        writeln!(self.out, "{FAILED}{}", order.min(MAX_ORDER.into()))
    }

    /// Counts an event whose address the kernel has hidden.
    pub fn count_hidden(&mut self) {
        self.counts.hidden += 1;
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends the trace of the recording `name`.
    ///
    /// # Errors
    /// A recording of which no event was written, with the reason, or when writing to `out` fails.
    pub fn finish(mut self, name: &str) -> Result<Counts, ImportError> {
        let Counts { written, left_out, hidden, unreadable, failed, .. } = self.counts;
        if written == 0 && hidden > 0 {
            let expected = "addresses (record as root, or boot with no_hash_pointers)";
            let mismatch = Mismatch::new(expected, "pointers that the kernel has hidden");
            return Err(mismatch.in_file(name).into());
        }
        if written == 0 {
            let found = match (left_out, unreadable, failed) {
                (0, 0, 0) => "none".to_owned(),
                (0, 0, failed) => format!("{failed} allocations of pages that failed, alone"),
                (left_out, 0, _) => format!("{left_out} events of other kinds or without memory"),
                (_, unreadable, _) => format!("{unreadable} events that cannot be read"),
            };
            let mismatch = Mismatch::new("an event of allocated memory", found);
            return Err(mismatch.in_file(name).into());
        }
        self.out.flush()?;
        Ok(self.counts)
    }

    /// Returns the nanoseconds since the latest event so far, or 0 for an event before that.
    fn delta(&mut self, event: &Recorded<'_>) -> u64 {
        let last = self.last_ns.unwrap_or(event.time_ns);
        self.last_ns = Some(last.max(event.time_ns));
        event.time_ns.saturating_sub(last)
    }
}

impl Numbers {
    /// Returns the number of `name`. Where it has none, assigns the next one and writes a line that
    /// defines it.
    fn number(&mut self, kind: char, name: &str, out: &mut impl Write) -> io::Result<u32> {
        if let Some(number) = self.0.get(name) {
            return Ok(*number);
        }
        let next = self.0.len() as u32;
        // The last number is reserved for `OTHERS`.
        let is_full = next >= MAX_NAMES - 1;
        let is_valid =
            name.len() <= MAX_NAME_BYTES && !name.is_empty() && !name.contains(['\n', '\r']);
        let known = if is_full || !is_valid { OTHERS } else { name };
        if let Some(number) = self.0.get(known) {
            return Ok(*number);
        }
        writeln!(out, "!{kind},{next},{known}")?;
        self.0.insert(known.to_owned(), next);
        Ok(next)
    }
}

/// Returns whether every number of the event is in the format's range.
fn fits(event: &Recorded<'_>) -> bool {
    let is_page = |frame: u64, order: u64| {
        frame <= MAX_FRAMES - (1 << MAX_ORDER) && order <= u64::from(MAX_ORDER)
    };
    event.cpu < u32::from(MAX_CPUS)
        && match event.what {
            What::Allocate { address, requested_bytes, allocated_bytes, .. } => {
                requested_bytes <= allocated_bytes
                    && allocated_bytes <= u64::from(MAX_REQUEST_BYTES)
                    && relative(address) <= u64::MAX - ADDRESS_BASE - allocated_bytes
            }
            What::Free { .. } => true,
            What::AllocatePages { frame, order, migratetype, .. } => {
                is_page(frame, order) && migratetype <= MAX_MIGRATETYPE
            }
            What::FreePages { frame, order } => is_page(frame, order),
        }
}

/// Returns an address less the base. An address below the base (hashed by the kernel, or of another
/// architecture) becomes its low 46 bits: it only identifies an object.
fn relative(address: u64) -> u64 {
    address.checked_sub(ADDRESS_BASE).unwrap_or(address & ((1 << 46) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(address: u64, time_ns: u64) -> Recorded<'static> {
        Recorded { time_ns, cpu: 1, what: What::Free { address, of_cache: false } }
    }

    #[test]
    fn times_are_differences_and_never_negative() {
        let mut out = Vec::new();
        let mut compact = Compact::new(&mut out);
        for (time, address) in [(100, 0x10), (150, 0x20), (120, 0x30), (160, 0x40)] {
            compact.add(&free(address, time)).expect("a vector takes all");
        }
        let counts = compact.finish("t").expect("a vector takes all");
        assert_eq!(counts, Counts { written: 4, ..Counts::default() });
        let text = String::from_utf8(out).expect("it is text");
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines, ["f,0,1,10", "f,50,1,20", "f,0,1,30", "f,10,1,40"]);
    }

    #[test]
    fn what_the_format_has_no_room_for_is_counted() {
        let mut compact = Compact::new(Vec::new());
        compact.add(&free(0, 1)).expect("null is no error");
        compact.add(&Recorded { cpu: 1024, ..free(8, 1) }).expect("nor is this");
        let what = What::FreePages { frame: 1, order: 19 };
        compact.add(&Recorded { what, ..free(8, 1) }).expect("nor is this");
        assert_eq!((compact.counts().left_out, compact.counts().unreadable), (1, 2));
        assert_eq!(compact.counts().losses, Losses::of(2), "what cannot be kept is lost");
        let error = compact.finish("t").expect_err("nothing was written");
        let ImportError::Input(error) = error else { panic!("a vector takes all") };
        assert!(error.to_string().ends_with("found 2 events that cannot be read"), "{error}");
    }
}
