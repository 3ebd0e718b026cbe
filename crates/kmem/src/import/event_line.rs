//! One line of a recording as an event:
//!
//! ```text
//! COMM PID [CPU] SECONDS: PERIOD kmem:EVENT: KEY=VALUE ...   perf script
//! COMM-PID [CPU] FLAGS SECONDS: EVENT: KEY=VALUE ...         the trace file, trace-cmd report
//! COMM-PID [CPU] FLAGS TICKS: EVENT: KEY=VALUE ...           the same with a clock that counts
//! COMM-PID CPUFLAGS MICROSECONDSus : EVENT: KEY=VALUE ...    latency format, kernel logs
//! ```
//!
//! In lines of perf the CPU and the period may be missing.
//!
//! The parser ignores the text before the bracket, because program names may hold anything, even
//! brackets.

use super::Kind;

/// The parts of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventLine<'l> {
    pub(super) time_ns: u64,
    pub(super) cpu: u32,
    /// The event's name without its system.
    pub(super) name: &'l str,
    /// Whether perf wrote the line: it names the system of an event too.
    pub(super) is_of_perf: bool,
    pub(super) fields: &'l str,
}

/// Finds the parts of a line; `None` if it is no event.
pub(super) fn event(line: &str) -> Option<EventLine<'_>> {
    bracketed(line).or_else(|| latency(line)).or_else(|| without_cpu(line))
}

/// Returns whether a line that is no event names one of memory all the same: it is broken.
pub(super) fn names_event(line: &str) -> bool {
    let has_field = ["ptr=", "pfn="].iter().any(|field| line.contains(field));
    has_field
        && line.match_indices(": ").any(|(at, _)| {
            let name = line[..at].rsplit([' ', ':', '\t']).next().unwrap_or("");
            Kind::of(name).is_some()
        })
}

/// Reads a line with the CPU in brackets.
fn bracketed(line: &str) -> Option<EventLine<'_>> {
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
        named(time_ns, cpu, rest)
    })
}

/// Reads a line whose CPU stands before the flags, and whose time is in microseconds.
fn latency(line: &str) -> Option<EventLine<'_>> {
    // A mark of the delay may stand behind the unit.
    line.match_indices("us").find_map(|(at, _)| {
        let (mark, rest) = line[at + 2..].split_once(": ")?;
        let mut words = line[..at].split_ascii_whitespace().rev();
        let micros: u64 = words.next()?.parse().ok()?;
        let flags = words.next()?;
        let digits = flags.bytes().take_while(u8::is_ascii_digit).count();
        let cpu = flags[..digits].parse().ok()?;
        if mark.len() > 1 {
            return None;
        }
        named(micros.checked_mul(1000)?, cpu, rest)
    })
}

/// Reads a line of perf that does not say the CPU. All such events count for the first one.
fn without_cpu(line: &str) -> Option<EventLine<'_>> {
    line.match_indices(": ").find_map(|(at, _)| {
        let time = line[..at].rsplit(' ').next()?;
        let time_ns = nanoseconds(time).filter(|_| time.contains('.'))?;
        named(time_ns, 0, &line[at + 2..]).filter(|event| event.is_of_perf)
    })
}

/// Reads the rest of a line behind its time: a period, and the event.
fn named(time_ns: u64, cpu: u32, rest: &str) -> Option<EventLine<'_>> {
    let (before, fields) = rest.split_once(": ")?;
    let mut words = before.split_ascii_whitespace();
    let mut name = words.next()?;
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        name = words.next()?;
    }
    if words.next().is_some() {
        return None;
    }
    let of_perf = name.strip_prefix("kmem:");
    let is_of_perf = of_perf.is_some();
    Some(EventLine { time_ns, cpu, name: of_perf.unwrap_or(name), is_of_perf, fields })
}

/// Reads seconds with up to nine decimals, or the ticks of a clock as nanoseconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((seconds, decimals)) = text.split_once('.') else {
        return is_number(text).then(|| text.parse().ok())?;
    };
    if !is_number(seconds) || !is_number(decimals) || decimals.len() > 9 {
        return None;
    }
    let nanoseconds: u64 = format!("{decimals:0<9}").parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_cannot_pass_its_name_off_as_an_event() {
        let line = "evil [0] x 1 [001] 5.000000: kmem:kfree: call_site=f ptr=0x10";
        let found = event(line).expect("it is one");
        assert_eq!((found.time_ns, found.cpu, found.name), (5_000_000_000, 1, "kfree"));
        assert_eq!(found.fields, "call_site=f ptr=0x10");
    }

    #[test]
    fn all_forms_of_lines_are_read() {
        for (line, time_ns, cpu, is_of_perf) in [
            ("p 7 [001]  1.5:  kmem:kfree: call_site=f ptr=0x10", 1_500_000_000, 1, true),
            ("p 7 [001]  1.5:     1  kmem:kfree: call_site=f ptr=0x10", 1_500_000_000, 1, true),
            ("p 7/8 [001]  1.5: kmem:kfree: call_site=f ptr=0x10", 1_500_000_000, 1, true),
            ("p 7  1.5: kmem:kfree: call_site=f ptr=0x10", 1_500_000_000, 0, true),
            ("p-7 ( 7) [002] d..1. 1.5: kfree: call_site=f ptr=10", 1_500_000_000, 2, false),
            ("p-7 [002] ..... 1234: kfree: call_site=f ptr=10", 1234, 2, false),
            ("[  9.1]  p-7   3d..1.  12us : kfree: call_site=f ptr=10", 12_000, 3, false),
            ("  p-7   3d..1.  12us!: kfree: call_site=f ptr=10", 12_000, 3, false),
        ] {
            let found = event(line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((found.time_ns, found.cpu, found.name), (time_ns, cpu, "kfree"), "{line}");
            assert_eq!(found.is_of_perf, is_of_perf, "{line}");
        }
    }

    #[test]
    fn broken_lines_of_events_are_known_as_such() {
        for line in ["p-7 [002] +1.5us: kfree: call_site=f ptr=10", "kmem:kmalloc: ptr=0x1"] {
            assert!(event(line).is_none() && names_event(line), "{line}");
        }
        for line in ["kfree", "# kfree: ptr", "usage: ptr=0", "[ 1.0] note: pfn=3"] {
            assert!(!names_event(line), "{line}");
        }
    }
}
