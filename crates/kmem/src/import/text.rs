//! Reads the text of `perf script`, of `trace-cmd report` and of the kernel's `trace` file, line by
//! line: `event_line.rs` finds events, `lost.rs` finds losses.

use std::io::{self, Write};

use super::compact::{Compact, Counts};
use super::error::ImportError;
use super::event_line::{EventLine, event, names_event};
use super::lost::losses;
use super::words::Words;
use super::{Fields, Kind, Recorded, What, call_chain, has_failed, what};
use crate::input_error::{InputError, Mismatch, quoted};
use crate::trace::HEADER;
use crate::trace::losses::Losses;
use crate::trace::plain_text::PlainText;
use crate::trace::source::Text;

/// Longest line that is read.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Lines without an event after which an input that had none yet is no recording.
const PATIENCE: u64 = 10_000;

/// What is known of the losses of a text in which none is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unshown {
    /// There were none: the tool was told to show them.
    None,
    /// Nothing, if perf wrote the text.
    Unknown,
}

/// Reads `text` to its end and writes a compact trace.
///
/// # Errors
/// Text without any event, or that cannot be read; an output that takes no more.
pub fn import(text: impl Text, out: impl Write, unshown: Unshown) -> Result<Counts, ImportError> {
    let text = &mut PlainText::new(text);
    let mut sink = Lines::new(Compact::new(out));
    let mut buffer = vec![0; 4 * MAX_LINE_BYTES];
    let (mut kept, mut lines) = (0, 0_u64);
    // Whether the rest of a line that is too long is to be skipped.
    let mut is_skipping = false;
    loop {
        let read = text.read(&mut buffer[kept..])?;
        let end = kept + read;
        let mut next = 0;
        while next < end {
            let ahead = &buffer[next..end];
            let line_break = memchr::memchr(b'\n', ahead);
            let Some(length) = line_break.or((read == 0).then_some(ahead.len())) else { break };
            lines += 1;
            if lines == 1 && without_mark(ahead).starts_with(HEADER.as_bytes()) {
                let expected = "kmem events of perf script or ftrace";
                let mismatch = Mismatch::new(expected, "a compact trace, which needs no import");
                return Err(mismatch.at_line(text.name(), lines).into());
            }
            if !std::mem::take(&mut is_skipping) {
                sink.take(lines, &ahead[..length], line_break.is_some())?;
            }
            // Behind the last line there may be no line break.
            next = end.min(next + length + 1);
            if sink.events == 0 && lines > PATIENCE {
                return Err(sink.nothing(text.name(), lines).into());
            }
        }
        if read == 0 {
            break;
        }
        kept = end - next;
        buffer.copy_within(next..end, 0);
        if kept > MAX_LINE_BYTES {
            if sink.events == 0 {
                let mismatch = Mismatch::new("a line of at most 65536 bytes", "a longer one");
                return Err(mismatch.at_line(text.name(), lines + 1).into());
            }
            // Whatever it was, it is lost; the lines behind it are not.
            if !std::mem::replace(&mut is_skipping, true) {
                sink.compact.lose(Losses::UNCOUNTED)?;
            }
            kept = 0;
        }
    }
    sink.settle(None)?;
    if sink.events == 0 {
        return Err(sink.nothing(text.name(), lines).into());
    }
    if sink.is_of_perf && !sink.shows_losses && unshown == Unshown::Unknown {
        sink.compact.lose(Losses::HIDDEN)?;
    }
    sink.compact.finish(text.name())
}

/// Returns text without a byte order mark.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Lines as events of a trace.
struct Lines<W> {
    compact: Compact<W>,
    /// Lines that were events, of whatever kind.
    events: u64,
    /// The line of an allocation of pages whose call chain may follow.
    pending: Option<String>,
    /// The number and the text of the first line that names an event and is none.
    first_broken: Option<(u64, String)>,
    /// Whether there are events as perf writes them.
    is_of_perf: bool,
    /// Whether losses are shown.
    shows_losses: bool,
}

impl<W: Write> Lines<W> {
    fn new(compact: Compact<W>) -> Self {
        Self {
            compact,
            events: 0,
            pending: None,
            first_broken: None,
            is_of_perf: false,
            shows_losses: false,
        }
    }

    /// Takes line `number`. The last one of a text may be cut, without a line break.
    fn take(&mut self, number: u64, line: &[u8], is_whole: bool) -> io::Result<()> {
        // Names of programs need not be UTF-8.
        let line = &*String::from_utf8_lossy(line);
        if self.pending.is_some() {
            match call_chain::function(line) {
                Some(function) if call_chain::is_allocator(function) => return Ok(()),
                Some(site) => return self.settle(Some(site)),
                None if call_chain::is_heading(line) => return Ok(()),
                None => self.settle(None)?,
            }
        }
        if let Some(losses) = losses(line) {
            self.shows_losses = true;
            return self.compact.lose(losses);
        }
        let Some(EventLine { name, is_of_perf, fields, .. }) = event(line) else {
            return match names_event(line) {
                true => {
                    self.first_broken.get_or_insert_with(|| (number, line.to_owned()));
                    self.compact.lose_unreadable()
                }
                false => Ok(()),
            };
        };
        self.events += 1;
        self.is_of_perf |= is_of_perf;
        match Kind::of(name) {
            None => self.compact.leave_out(),
            Some(_) if !is_whole && Words(fields).ends_in_cut_address() => {
                self.compact.lose_unreadable()?;
            }
            Some(Kind::PageAllocate) => self.pending = Some(line.to_owned()),
            Some(_) => self.add(line, None)?,
        }
        Ok(())
    }

    /// Adds the pending allocation, whose call site is `site`.
    fn settle(&mut self, site: Option<&str>) -> io::Result<()> {
        match self.pending.take() {
            Some(line) => self.add(&line, site),
            None => Ok(()),
        }
    }

    /// Adds the event of a line.
    fn add(&mut self, line: &str, found: Option<&str>) -> io::Result<()> {
        let compact = &mut self.compact;
        let Some(EventLine { time_ns, cpu, name, fields, .. }) = event(line) else {
            return Ok(());
        };
        let Some(kind) = Kind::of(name) else { return Ok(()) };
        let words = Words(fields);
        if words.text("ptr").is_some_and(is_hidden) {
            compact.count_hidden();
            return Ok(());
        }
        if has_failed(kind, &words) {
            return compact.fail(words.number("order", false).unwrap_or(0));
        }
        let mut what = what(kind, &words);
        if let Some(What::AllocatePages { site, .. }) = &mut what {
            *site = found;
        }
        match what {
            Some(what) => compact.add(&Recorded { time_ns, cpu, what }),
            None if words.text("ptr").is_some_and(is_null) => {
                compact.leave_out();
                Ok(())
            }
            None => compact.lose_unreadable(),
        }
    }

    /// Returns the error of a text without events.
    fn nothing(&self, name: &str, line: u64) -> InputError {
        if let Some((line, text)) = &self.first_broken {
            let expected = "kmem events with a time, as perf script or ftrace print them";
            return Mismatch::new(expected, quoted(text.trim().as_bytes())).at_line(name, *line);
        }
        let losses = self.compact.counts().losses;
        let found = match losses.is_none() {
            true => "none".to_owned(),
            false => format!("none; the recording lost {losses}"),
        };
        Mismatch::new("kmem events of perf script or ftrace", found).at_line(name, line.max(1))
    }
}

/// Whether an address is text that kernels print for null.
fn is_null(address: &str) -> bool {
    matches!(address, "(nil)" | "(null)")
}

/// Whether an address is the text that the kernel shows before it can hash addresses.
fn is_hidden(address: &str) -> bool {
    address.contains("ptrval")
}

/// Returns whether a line is an event that can be imported.
pub fn is_event(line: &[u8]) -> bool {
    event(&String::from_utf8_lossy(line)).is_some_and(|event| Kind::of(event.name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::source::Source;

    fn imported(text: &str) -> Result<(Counts, Vec<String>), String> {
        let text = text.to_owned().leak().as_bytes();
        let source = Source::bytes("t", text).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        match import(source, &mut out, Unshown::None) {
            Ok(counts) => {
                let text = String::from_utf8(out).expect("it is text");
                Ok((counts, text.lines().skip(2).map(str::to_owned).collect()))
            }
            Err(ImportError::Input(error)) => Err(error.to_string()),
            Err(ImportError::Output(error)) => panic!("a vector takes all: {error}"),
        }
    }

    #[test]
    fn perf_script_and_ftrace_and_old_kernels_are_read_alike() {
        let (counts, lines) = imported(
            "     perf 13226 [000]  2694.325840200:  kmem:kmalloc: call_site=f+0x127 ptr=0xffff888104412080 bytes_req=20 bytes_alloc=32 gfp_flags=GFP_KERNEL node=-1 accounted=false\n\
             a [1] b-7   [001] d..2.  2694.325841: kmem_cache_alloc: call_site=f+0x1/0x20 ptr=00000000a3f21a5c name=filp bytes_req=184 bytes_alloc=192 gfp_flags=GFP_KERNEL\n\
             x-1   [001] ....  2694.325842: kmem_cache_alloc_node: call_site=ffffffff81000000 ptr=ffff888104412080 bytes_req=24 bytes_alloc=32 gfp_flags=GFP_KERNEL node=0\n\
             x-1   [001] ....  2694.325843: mm_page_alloc: page=ffffea0000000000 pfn=1114130 order=3 migratetype=1 gfp_flags=GFP_HIGHUSER\n\
             x-1   [001] ....  2694.325843: mm_page_free_batched: page=00000000af1f8ade pfn=0x263d58 order=0\n\
             x-1   [001] ....  2694.325844: kfree: call_site=f+0x1/0x2 ptr=0000000000000000\n\
             CPU:1 [LOST 12 EVENTS]\n\
             x-1   [001] ....  2694.325845: kmem_cache_free: call_site=f+0x1/0x2 ptr=0xffff888104412080 name=filp\n",
        )
        .expect("there are events");
        assert_eq!(
            counts,
            Counts { written: 5, left_out: 2, losses: Losses::of(12), ..Counts::default() }
        );
        assert_eq!(
            lines,
            [
                "!g,0,GFP_KERNEL",
                "!s,0,f+0x127",
                "a,0,0,104412080,20,32,0,0",
                "!s,1,filp",
                "!s,2,f+0x1",
                "A,800,1,a3f21a5c,184,192,0,1,2",
                "!s,3,objects-32",
                "!s,4,ffffffff81000000",
                "A,1000,1,104412080,24,32,0,3,4",
                "!g,1,GFP_HIGHUSER",
                "p,1000,1,110012,3,1,1",
                "# lost 12 events",
                "F,2000,1,104412080",
            ]
        );
    }

    #[test]
    fn the_call_site_of_pages_is_the_first_function_outside_of_the_allocator() {
        let page = "mm_page_alloc: page=0x10 pfn=0x10 order=0 migratetype=1 gfp_flags=G";
        let (counts, lines) = imported(&format!(
            "a 7 [000] 1.000000001: kmem:{page}\n\
             \tffffffff8162184b __alloc_frozen_pages_noprof+0x2f ([kernel.kallsyms])\n\
             \tffffffff8165add6 alloc_pages_mpol+0x1 ([kernel.kallsyms])\n\
             \tffffffff816c93f8 anon_pipe_write+0x9 ([kernel.kallsyms])\n\
             \tffffffff816bb758 vfs_write+0x9 ([kernel.kallsyms])\n\n\
             a-7 [000] ..... 1.000001: {page}\n\
             a-7 [000] ..... 1.000002: <stack trace>\n => __alloc_pages_noprof\n => do_anonymous_page\n\
             a-7 [000] ..... 1.000003: {page}\n\
             a-7 [000] ..... 1.000004: {page}\n",
        ))
        .expect("there are events");
        assert_eq!(counts.written, 4);
        assert_eq!(
            lines,
            [
                "!g,0,G",
                "!s,0,anon_pipe_write+0x9",
                "p,0,0,10,0,1,0,0",
                "!s,1,do_anonymous_page",
                "p,999,0,10,0,1,0,1",
                "p,2000,0,10,0,1,0",
                "p,1000,0,10,0,1,0",
            ]
        );
    }

    #[test]
    fn a_failed_allocation_is_no_memory() {
        let (counts, lines) = imported(
            "x-1 [001] .... 1.000001: mm_page_alloc: page=00000000b1f21a5c pfn=0x1234 order=0 migratetype=0 gfp_flags=GFP_KERNEL\n\
             x-1 [001] .... 1.000002: mm_page_alloc: page=0000000000000000 pfn=0 order=9 migratetype=1 gfp_flags=G\n\
             x-1 [001] .... 1.000003: mm_page_alloc: page=(nil) pfn=0x0 order=9 migratetype=1 gfp_flags=G\n\
             x-1 [001] .... 1.000004: mm_pagevec_free: page=0xffffea0038 pfn=4660 order=0 cold=0\n",
        )
        .expect("there are events");
        assert_eq!((counts.written, counts.failed), (2, 2));
        assert_eq!(lines[2..4], ["# failed order 9", "# failed order 9"]);
        assert_eq!((&*lines[1], &*lines[4]), ("p,0,1,1234,0,0,0", "P,3000,1,1234,0"));
    }

    #[test]
    fn hidden_pointers_are_an_error_and_not_an_empty_trace() {
        let error = imported(
            "i-1 [000] .... 0.1: kmalloc: call_site=f ptr=(____ptrval____) bytes_req=96 bytes_alloc=96 gfp_flags=G\n",
        )
        .expect_err("nothing is left");
        assert!(error.contains("pointers that the kernel has hidden"), "{error}");
    }

    #[test]
    fn nothing_is_left_out_in_silence() {
        let free = "x-1 [001] .... 1.000001: kfree: call_site=f ptr=0xffff888000000100";
        for (text, written, losses) in [
            (format!("x-1 [9999] .... 1.0: kfree: call_site=f ptr=0x100\n{free}\n"), 1, 1),
            (format!("{free}\nx-1 [001] .... 1.0: kmalloc: call_site=f ptr=0x100\n"), 1, 1),
            (format!("{free}\nx-1 [001] +2.0us: kfree: call_site=f ptr=0x100\n"), 1, 1),
            // The last line is cut in the middle of its address.
            (format!("{free}\n{}", &free[..free.len() - 3]), 1, 1),
            (format!("{free}\n{free}"), 2, 0),
            // kmalloc(0) is no memory.
            (
                format!(
                    "{free}\nx-1 [001] .... 1.0: kmalloc: ptr=0x10 bytes_req=0 bytes_alloc=0\n\
                     x-1 [001] .... 1.0: kfree: call_site=f ptr=0x10\n"
                ),
                1,
                0,
            ),
        ] {
            let (counts, _) = imported(&text).expect("there is an event");
            assert_eq!((counts.written, counts.losses), (written, Losses::of(losses)), "{text}");
        }
    }

    #[test]
    fn programs_with_names_of_other_encodings_are_events_too() {
        let source = Source::bytes(
            "t",
            b"caf\xe9-1 [001] .... 1.0: kfree: call_site=f ptr=ffff888000000100\n",
        )
        .expect("bytes can be read");
        let counts = import(source, &mut Vec::new(), Unshown::Unknown).expect("an event");
        assert_eq!((counts.written, counts.losses), (1, Losses::default()));
    }

    #[test]
    fn perf_script_is_trusted_about_losses_only_if_it_was_told_to_show_them() {
        let text = "p 7 [001] 1.0: kmem:kfree: call_site=f ptr=0xffff888000000100\n";
        for (text, unshown, losses) in [
            (text.to_owned(), Unshown::Unknown, Losses::HIDDEN),
            (text.to_owned(), Unshown::None, Losses::default()),
            (
                format!("{text}p 7 [001] 1.0: PERF_RECORD_LOST lost 3\n"),
                Unshown::Unknown,
                Losses::of(3),
            ),
        ] {
            let source = Source::bytes("t", text.leak().as_bytes()).expect("readable");
            let counts = import(source, &mut Vec::new(), unshown).expect("an event");
            assert_eq!(counts.losses, losses);
        }
    }

    #[test]
    fn a_line_that_is_too_long_costs_itself_alone() {
        let free = "x-1 [001] .... 1.0: kfree: call_site=f ptr=ffff888000000100\n";
        let long = "y".repeat(600_000);
        let (counts, _) = imported(&format!("{free}{long}\n{free}")).expect("there are events");
        assert_eq!((counts.written, counts.losses), (2, Losses::UNCOUNTED));
    }

    #[test]
    fn what_is_no_recording_is_refused() {
        for (text, expected) in [
            ("hello\nworld\n", "t:2: expected kmem events of perf script or ftrace, found none"),
            (
                "# kmem-compact 1\n",
                "t:1: expected kmem events of perf script or ftrace, found a compact trace",
            ),
            (&"x\n".repeat(20_000), "t:10001: expected kmem events"),
            (
                &"y".repeat(400_000),
                "t:1: expected a line of at most 65536 bytes, found a longer one",
            ),
        ] {
            let error = imported(text).expect_err("it is wrong");
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
