//! Finds mistakes of the recorded program: double frees, frees without an allocation, and memory
//! that was never freed.
//!
//! No allocator takes part. An address is freed twice when it is freed two times with no allocation
//! in between. Memory use grows with the number of addresses that a trace frees or leaves live, not
//! with its length.

use std::collections::HashMap;
use std::io::{self, Write};

use crate::input_error::InputError;
use crate::picture::style::{Ink, Style};
use crate::picture::text::{percent, size, thousands};
use crate::replay::hash::NumberMap;
use crate::trace::event::{ADDRESS_BASE, Action, Event};
use crate::trace::losses::Losses;
use crate::trace::read_ahead::Ahead;
use crate::trace::reader::{Batch, TraceReader};
use crate::trace::source::{Source, Text};
use crate::views::leak::{self, Owner, Use};

/// Maximum number of double frees kept with their place. All are counted.
const SHOWN: usize = 10;

/// The last event at an address.
#[derive(Debug, Clone, Copy)]
struct Last {
    owner: Owner,
    bytes: u32,
    allocated_line: u64,
    allocated_micros: u64,
    /// Line of the free; zero while the address is live.
    freed_line: u64,
}

/// The result of checking a trace.
#[derive(Debug, Default)]
pub struct Check {
    trace: String,
    events: u64,
    micros: u64,
    /// Double frees: the address was allocated and freed in the trace, and not allocated again.
    pub freed_twice: u64,
    /// Frees of addresses that the trace never allocated.
    pub freed_without_allocation: u64,
    /// Second frees with a loss of the recording between the two: the lost events may contain an
    /// allocation.
    pub freed_around_losses: u64,
    /// Events that the recording lost.
    pub losses: Losses,
    /// The line of the last loss so far.
    last_loss: u64,
    /// Allocations at an address that was live, so that its free was not recorded.
    pub freed_by_implication: u64,
    /// Allocations that are live at the end.
    pub live: u64,
    live_bytes: u64,
    shown: Vec<String>,
    names: HashMap<u32, Box<str>>,
    uses: HashMap<Owner, Use>,
}

/// The state after the events read so far.
#[derive(Default)]
struct State {
    objects: NumberMap<Last>,
    blocks: NumberMap<Last>,
    check: Check,
}

/// Reads `source` to its end.
///
/// # Errors
/// The first line that does not match the format, or a failure to start the reader thread.
pub fn check(source: Source) -> Result<Check, crate::replay::pipeline::ReplayError> {
    let mut state = State::default();
    state.check.trace = source.name().to_owned();
    let mut reader = TraceReader::new(Ahead::new(source)?);
    let mut batch = Batch::default();
    loop {
        let more = reader.read_batch(&mut batch)?;
        state.look_at(&mut batch);
        if !more {
            return Ok(state.end());
        }
    }
}

impl State {
    fn look_at(&mut self, batch: &mut Batch) {
        self.check.names.extend(batch.new_names.drain(..));
        self.check.events += batch.events.len() as u64;
        self.check.losses.add(batch.losses);
        self.check.last_loss = self.check.last_loss.max(batch.last_loss);
        for event in &batch.events {
            self.check.micros = batch.start_ns / 1000 + u64::from(event.micros_in_batch);
            self.event(event, batch.first_line + u64::from(event.line_in_batch));
        }
    }

    fn event(&mut self, event: &Event, line: u64) {
        match event.action {
            Action::AllocateBytes { object, requested_bytes, site, .. } => {
                self.allocate(object, Owner::Site(site), requested_bytes, line);
            }
            Action::AllocateObject { object, requested_bytes, cache, site, .. } => {
                let site = Some(u32::from(site)).filter(|site| *site != cache);
                self.allocate(object, Owner::Cache(cache, site), requested_bytes, line);
            }
            Action::AllocatePages { frame, order, site, .. } => {
                let owner = Owner::Pages(order, site.map(u32::from));
                self.allocate(frame, owner, 4096 << order, line);
            }
            Action::FreeObject { object } => self.free(object, false, line),
            Action::FreePages { frame, .. } => self.free(frame, true, line),
        }
    }

    fn allocate(&mut self, at: u64, owner: Owner, bytes: u32, line: u64) {
        let of_pages = matches!(owner, Owner::Pages(..));
        let table = if of_pages { &mut self.blocks } else { &mut self.objects };
        let allocated_micros = self.check.micros;
        let last = Last { owner, bytes, allocated_line: line, allocated_micros, freed_line: 0 };
        let before = table.insert(at, last).filter(|before| before.freed_line == 0);
        if let Some(before) = before {
            self.check.freed_by_implication += 1;
            self.check.count_free(before);
        }
        let used = self.check.uses.entry(owner).or_default();
        used.allocations += 1;
        used.live += 1;
        used.live_bytes += u64::from(bytes);
    }

    fn free(&mut self, at: u64, of_pages: bool, line: u64) {
        let table = if of_pages { &mut self.blocks } else { &mut self.objects };
        match table.get_mut(&at) {
            None => self.check.freed_without_allocation += 1,
            Some(last) if last.freed_line == 0 => {
                last.freed_line = line;
                let last = *last;
                self.check.count_free(last);
            }
            Some(last) => {
                let again = *last;
                last.freed_line = line;
                if self.check.last_loss > again.freed_line {
                    self.check.freed_around_losses += 1;
                } else {
                    self.check.add_second_free(at, again, line);
                }
            }
        }
    }

    /// Sums up the live allocations.
    fn end(self) -> Check {
        let mut check = self.check;
        let live = self.objects.into_values().chain(self.blocks.into_values());
        for last in live.filter(|last| last.freed_line == 0) {
            check.live += 1;
            check.live_bytes += u64::from(last.bytes);
            let used = check.uses.entry(last.owner).or_default();
            let age = check.micros - last.allocated_micros;
            used.oldest_micros = used.oldest_micros.max(Some(age));
            let quarter = last.allocated_micros * 4 / (check.micros + 1);
            used.live_by_quarter[quarter as usize] += 1;
        }
        check
    }
}

impl Check {
    fn count_free(&mut self, last: Last) {
        let used = self.uses.entry(last.owner).or_default();
        used.live -= 1;
        used.live_bytes -= u64::from(last.bytes);
    }

    #[cold]
    fn add_second_free(&mut self, at: u64, last: Last, line: u64) {
        self.freed_twice += 1;
        if self.shown.len() < SHOWN {
            let at = match last.owner {
                Owner::Pages(..) => format!("frame {at:#x}"),
                _ => format!("{:#x}", at + ADDRESS_BASE),
            };
            let Last { allocated_line, freed_line, .. } = last;
            self.shown.push(format!(
                "{}:{line}: {at} is freed again;\n    {}, allocated in line {allocated_line}, freed in line {freed_line}",
                self.trace.escape_debug(),
                self.owner(last.owner)
            ));
        }
    }

    fn leak_verdict(&self) -> String {
        leak::verdict(&self.uses, |owner| self.owner(owner), self.losses.is_none())
    }

    fn owner(&self, owner: Owner) -> String {
        owner.name(|id| self.names.get(&id).map_or("?", |name| &**name))
    }

    /// Returns whether no mistake was found. With `whole` the trace must begin before the first
    /// allocation and end after the last free, so that live memory and frees without an allocation
    /// are mistakes too.
    pub fn is_clean(&self, whole: bool) -> bool {
        self.losses.is_none()
            && self.freed_twice == 0
            && !(whole && (self.live > 0 || self.freed_without_allocation > 0))
    }

    /// Writes the findings, and the `rows` owners with the most live memory.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn write(&self, out: &mut dyn Write, rows: usize, style: &Style) -> io::Result<()> {
        let seconds = self.micros as f64 / 1e6;
        writeln!(
            out,
            "{}: {} events over {seconds:.1} s",
            style.paint(Ink::Caption, &self.trace.escape_debug().to_string()),
            thousands(self.events)
        )?;
        let [first, second] = self.losses.sentence();
        match self.losses.is_none() {
            true => writeln!(out, "  {first}")?,
            false => writeln!(out, "  {}\n  {second}", style.paint(Ink::Caption, &first))?,
        }
        let mut row = |what: &str, count: u64, note: &str| {
            writeln!(out, "  {what:<24} {:>11}  {note}", thousands(count))
        };
        row("freed twice", self.freed_twice, "or allocated between without an event")?;
        if self.freed_around_losses > 0 {
            let note = "lost events in between: no double free";
            row("freed twice by losses", self.freed_around_losses, note)?;
        }
        row(
            "freed, never allocated",
            self.freed_without_allocation,
            "older, or allocated without an event",
        )?;
        row("freed by implication", self.freed_by_implication, "the address was given out again")?;
        row("live at the end", self.live, &size(self.live_bytes))?;
        writeln!(out, "\n{}", style.paint(Ink::Caption, &self.leak_verdict()))?;
        if !self.shown.is_empty() {
            writeln!(out, "\n{}", style.paint(Ink::Caption, "Freed twice, or unrecorded between"))?;
            for line in &self.shown {
                writeln!(out, "  {line}")?;
            }
            let more = self.freed_twice - self.shown.len() as u64;
            if more > 0 {
                writeln!(out, "  and {} more", thousands(more))?;
            }
        }
        self.write_live(out, rows, style)
    }

    /// Writes the owners of live memory, most bytes first.
    fn write_live(&self, out: &mut dyn Write, rows: usize, style: &Style) -> io::Result<()> {
        let mut owners: Vec<_> = self.uses.iter().filter(|(_, used)| used.live > 0).collect();
        owners.sort_by_cached_key(|(owner, used)| {
            (std::cmp::Reverse(used.live_bytes), self.owner(**owner))
        });
        if owners.is_empty() || rows == 0 {
            return Ok(());
        }
        let heading = "Live at the end, by call site, cache and order";
        writeln!(out, "\n{}", style.paint(Ink::Caption, heading))?;
        writeln!(out, "       bytes    objects  of its allocations  oldest")?;
        for (owner, used) in owners.iter().take(rows) {
            let oldest = used.oldest_micros.unwrap_or(0) as f64 / 1e6;
            writeln!(
                out,
                "  {:>10} {:>10}  {:>18}  {oldest:>4.1} s  {}",
                size(used.live_bytes),
                thousands(used.live),
                percent(used.live, used.allocations),
                self.owner(**owner)
            )?;
        }
        let more = owners.len().saturating_sub(rows);
        if more > 0 {
            writeln!(out, "  and {more} more owners")?;
        }
        writeln!(
            out,
            "A leak shows as a large live share of allocations from all over the recording;"
        )?;
        writeln!(out, "what is kept on purpose can look the same.")
    }
}

/// Checks a trace in memory, as [`check`] does.
///
/// # Errors
/// As [`check`], except that no thread is started.
pub fn check_bytes(name: &str, bytes: &'static [u8]) -> Result<Check, InputError> {
    let mut state = State::default();
    state.check.trace = name.to_owned();
    let mut reader = TraceReader::new(Source::bytes(name, bytes)?);
    let mut batch = Batch::default();
    loop {
        let more = reader.read_batch(&mut batch)?;
        state.look_at(&mut batch);
        if !more {
            return Ok(state.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::style::Rest;

    const PLAIN: Style = Style { plain: false, colour: false, rest: Rest::None };

    fn checked(text: &'static str) -> Check {
        check_bytes("t", text.as_bytes()).expect("the trace is well formed")
    }

    fn written(check: &Check) -> String {
        let mut out = Vec::new();
        check.write(&mut out, 10, &PLAIN).expect("a vector takes all");
        String::from_utf8(out).expect("it is text")
    }

    const NAMES: &str = "!g,0,GFP\n!s,0,leaky\n!s,1,filp\n";

    #[test]
    fn a_second_free_is_named_with_both_lines_and_its_owner() {
        let text = format!("{NAMES}A,1,0,1000,184,192,0,1\nF,1,0,1000\nF,1,0,1000\nF,1,0,1000\n");
        let check = checked(text.leak());
        assert_eq!((check.freed_twice, check.live, check.is_clean(false)), (2, 0, false));
        let text = written(&check);
        let first = "t:6: 0xffff888000001000 is freed again;\n    cache filp, allocated in line 4, freed in line 5";
        assert!(text.contains(first), "{text}");
        assert!(text.contains("allocated in line 4, freed in line 6"), "{text}");
    }

    #[test]
    fn what_grows_in_every_quarter_and_is_not_freed_looks_like_a_leak() {
        let line = |n: u64, id: u64, freed: bool| {
            let allocated = format!("a,1000000,0,{n:x}00,20,32,0,{id}\n");
            if freed { allocated + &format!("f,1,0,{n:x}00\n") } else { allocated }
        };
        let leaky: String = (1..200).map(|n| line(n, 0, n % 10 == 0)).collect();
        let text = written(&checked((NAMES.to_owned() + &leaky).leak()));
        assert!(
            text.contains("Leak? It looks like one: kmalloc in leaky\nhas 3.52 KiB live, "),
            "{text}"
        );
        assert!(text.contains("180 of its 199 allocations"), "{text}");
        // Most is freed; or all is from the start.
        let freed: String = (1..200).map(|n| line(n, 0, n % 2 == 0)).collect();
        let at_start: String = (1..200).map(|n| line(n, 0, false)).collect();
        let rest: String = (200..900).map(|n| line(n, 1, true)).collect();
        for text in [freed, at_start + &rest] {
            let text = written(&checked((NAMES.to_owned() + &text).leak()));
            assert!(text.contains("Leak? None in sight"), "{text}");
        }
    }

    #[test]
    fn an_address_that_was_given_out_again_is_not_freed_twice() {
        let text =
            format!("{NAMES}a,1,0,1000,20,32,0,0\nf,1,0,1000\na,1,0,1000,20,32,0,0\nf,1,0,1000\n");
        assert!(checked(text.leak()).is_clean(true));
    }

    #[test]
    fn what_stays_live_is_a_mistake_in_a_whole_trace_only() {
        let text = format!("{NAMES}a,1,0,1000,20,32,0,0\np,3000000,0,7,2,0,0\nf,1,0,2000\n");
        let check = checked(text.leak());
        assert_eq!((check.live, check.freed_without_allocation), (2, 1));
        assert!(check.is_clean(false) && !check.is_clean(true));
        let text = written(&check);
        let (pages, site) = (text.find("pages of order 2"), text.find("kmalloc in leaky"));
        assert!(pages.is_some() && pages < site, "most bytes first: {text}");
    }

    #[test]
    fn a_free_without_an_event_is_neither_a_leak_nor_freed_twice() {
        let text = format!("{NAMES}a,1,0,1000,20,32,0,0\na,1,0,1000,40,64,0,0\nf,1,0,1000\n");
        let check = checked(text.leak());
        assert_eq!((check.freed_by_implication, check.live, check.freed_twice), (1, 0, 0));
    }
}
