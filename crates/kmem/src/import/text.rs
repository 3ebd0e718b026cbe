//! Reads lines of `perf script` and of the kernel's `trace` file:
//!
//! ```text
//! COMM PID [CPU] SECONDS: kmem:EVENT: KEY=VALUE ...
//! COMM-PID [CPU] FLAGS SECONDS: EVENT: KEY=VALUE ...
//! CPU:1 [LOST 123 EVENTS]
//! ```
//!
//! The parser ignores the text before the bracket, because program names may hold anything, even
//! brackets.

use std::io::{self, Write};

use super::compact::{Compact, Counts};
use super::lost::losses;
use super::words::Words;
use super::{Fields, Kind, Recorded, What, call_chain, has_failed, what};
use crate::input_error::{InputError, Mismatch};
use crate::trace::HEADER;
use crate::trace::source::Text;

/// Longest line that is read.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Lines without an event after which an input that had none yet is no recording.
const PATIENCE: u64 = 10_000;

/// Why a recording was not taken over.
#[derive(Debug)]
pub enum ImportError {
    /// It is not one.
    Input(InputError),
    /// It could not be written.
    Output(io::Error),
}

impl From<InputError> for ImportError {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<io::Error> for ImportError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Reads `text` to its end and writes a compact trace.
///
/// # Errors
/// Text without any event, or that cannot be read; an output that takes no more.
pub fn import(text: &mut impl Text, out: impl Write) -> Result<Counts, ImportError> {
    let mut sink = Lines { compact: Compact::new(out), pending: None };
    let mut buffer = vec![0; 4 * MAX_LINE_BYTES];
    let (mut kept, mut lines, mut events) = (0, 0_u64, 0_u64);
    let no_events = |name: &str, line: u64| {
        Mismatch::new("kmem events of perf script or ftrace", "none").at_line(name, line.max(1))
    };
    loop {
        let read = text.read(&mut buffer[kept..])?;
        let end = kept + read;
        let mut next = 0;
        while next < end {
            let ahead = &buffer[next..end];
            let Some(length) = memchr::memchr(b'\n', ahead).or((read == 0).then_some(ahead.len()))
            else {
                break;
            };
            lines += 1;
            if lines == 1 && ahead.starts_with(HEADER.as_bytes()) {
                let expected = "kmem events of perf script or ftrace";
                let mismatch = Mismatch::new(expected, "a compact trace, which needs no import");
                return Err(mismatch.at_line(text.name(), lines).into());
            }
            events += u64::from(sink.take(&ahead[..length])?);
            // Behind the last line there may be no line break.
            next = end.min(next + length + 1);
            if events == 0 && lines > PATIENCE {
                return Err(no_events(text.name(), lines).into());
            }
        }
        if read == 0 {
            break;
        }
        kept = end - next;
        buffer.copy_within(next..end, 0);
        if kept > MAX_LINE_BYTES {
            let mismatch = Mismatch::new("a line of at most 65536 bytes", "a longer one");
            return Err(mismatch.at_line(text.name(), lines + 1).into());
        }
    }
    sink.settle(None)?;
    let compact = sink.compact;
    let counts = compact.counts();
    match events {
        0 => Err(no_events(text.name(), lines).into()),
        _ if counts.written == 0 && counts.hidden > 0 => {
            let expected = "addresses (record as root, or boot with no_hash_pointers)";
            let mismatch = Mismatch::new(expected, "pointers that the kernel has hidden");
            Err(mismatch.in_file(text.name()).into())
        }
        _ if counts.written == 0 => {
            let found = format!("{events} events of other kinds or without memory");
            Err(Mismatch::new("an event of allocated memory", found).in_file(text.name()).into())
        }
        _ => Ok(compact.finish()?),
    }
}

/// Lines as events of a trace.
struct Lines<W> {
    compact: Compact<W>,
    /// The line of an allocation of pages whose call chain may follow.
    pending: Option<String>,
}

impl<W: Write> Lines<W> {
    /// Takes one line; returns whether it was an event.
    fn take(&mut self, line: &[u8]) -> io::Result<bool> {
        let Ok(line) = std::str::from_utf8(line) else { return Ok(false) };
        if self.pending.is_some() {
            match call_chain::function(line) {
                Some(function) if call_chain::is_allocator(function) => return Ok(false),
                Some(site) => return self.settle(Some(site)).map(|()| false),
                None if call_chain::is_heading(line) => return Ok(false),
                None => self.settle(None)?,
            }
        }
        if let Some(losses) = losses(line) {
            self.compact.lose(losses)?;
            return Ok(false);
        }
        let Some((_, _, name, _)) = event(line) else { return Ok(false) };
        match Kind::of(name) {
            None => self.compact.leave_out(),
            Some(Kind::PageAllocate) => self.pending = Some(line.to_owned()),
            Some(_) => self.add(line, None)?,
        }
        Ok(true)
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
        let Some((time_ns, cpu, name, fields)) = event(line) else { return Ok(()) };
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
            None => {
                compact.leave_out();
                Ok(())
            }
        }
    }
}

/// Whether an address is the text that the kernel shows before it can hash addresses.
fn is_hidden(address: &str) -> bool {
    address.contains("ptrval")
}

/// Returns whether a line is an event that can be imported.
pub fn is_event(line: &[u8]) -> bool {
    let found = std::str::from_utf8(line).ok().and_then(event);
    found.is_some_and(|(_, _, name, _)| Kind::of(name).is_some())
}

/// Finds time, CPU, name and fields of an event.
fn event(line: &str) -> Option<(u64, u32, &str, &str)> {
    // The first bracket that goes on as an event does.
    line.match_indices('[').find_map(|(at, _)| {
        let (cpu, rest) = line[at + 1..].split_once(']')?;
        let cpu = cpu.trim().parse().ok()?;
        let (before, rest) = rest.split_once(": ")?;
        // Nothing but flags may stand before the time.
        let mut words = before.split_ascii_whitespace().rev();
        let time_ns = nanoseconds(words.next()?)?;
        if words.count() > 1 {
            return None;
        }
        let (name, fields) = rest.trim_start().split_once(": ")?;
        let name = name.strip_prefix("kmem:").unwrap_or(name);
        Some((time_ns, cpu, name, fields))
    })
}

/// Reads seconds with up to nine decimals.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, decimals) = text.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(seconds) || !is_number(decimals) || decimals.len() > 9 {
        return None;
    }
    let nanoseconds: u64 = format!("{decimals:0<9}").parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::losses::Losses;
    use crate::trace::source::Source;

    fn imported(text: &str) -> Result<(Counts, Vec<String>), String> {
        let text = text.to_owned().leak().as_bytes();
        let mut source = Source::bytes("t", text).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        match import(&mut source, &mut out) {
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
    fn a_program_cannot_pass_its_name_off_as_an_event() {
        let line = "evil [0] x 1 [001] 5.000000: kmem:kfree: call_site=f ptr=0x10";
        let (time, cpu, name, _) = event(line).expect("it is one");
        assert_eq!((time, cpu, name), (5_000_000_000, 1, "kfree"));
        let fields = Words("call_site=f ptr=0x10");
        let freed = what(Kind::Kfree, &fields);
        assert_eq!(freed, Some(What::Free { address: 16, of_cache: false }));
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
