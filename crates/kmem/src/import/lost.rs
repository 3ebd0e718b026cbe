//! Losses that recordings report.

use crate::trace::losses::Losses;

/// Returns the losses that a line reports:
///
/// ```text
/// CPU:1 [LOST 123 EVENTS]        the trace file; the number is missing where unknown
/// CPU:1 [123 EVENTS DROPPED]     trace-cmd report, with or without a number
/// CPU 1: 123 events lost         trace-cmd record
/// overrun: 123                   per_cpu/cpu1/stats, trace-cmd stat; also `dropped events: 123`
/// ... PERF_RECORD_LOST lost 123  perf script --show-lost-events; also PERF_RECORD_LOST_SAMPLES
/// ... PERF_RECORD_THROTTLE       the kernel stopped an event for a while
/// # entries-in-buffer/entries-written: 22733/999999   #P:2
///                                the head of the trace file: the rest was overwritten
/// ```
///
/// A number that is none of 64 bits counts as unknown.
pub(super) fn losses(line: &str) -> Option<Losses> {
    if let Some((_, rest)) = line.split_once("entries-in-buffer/entries-written:") {
        let (kept, written) = rest.split_ascii_whitespace().next()?.split_once('/')?;
        let lost = written.parse::<u64>().ok()?.checked_sub(kept.parse().ok()?)?;
        return (lost > 0).then_some(Losses::of(lost));
    }
    for record in ["PERF_RECORD_LOST_SAMPLES", "PERF_RECORD_LOST"] {
        if let Some((_, rest)) = line.split_once(record) {
            let number =
                rest.strip_prefix(':').unwrap_or(rest).trim_start().strip_prefix("lost")?;
            return at_least_one(counted(number.split_ascii_whitespace().next()?));
        }
    }
    let line = line.trim();
    if line.ends_with("PERF_RECORD_THROTTLE") {
        return Some(Losses::UNCOUNTED);
    }
    for name in ["overrun: ", "commit overrun: ", "dropped events: "] {
        if let Some(number) = line.strip_prefix(name) {
            return at_least_one(counted(number));
        }
    }
    let is_of_cpu = line.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("cpu"));
    if !is_of_cpu || !line[3..].starts_with([' ', ':']) {
        return None;
    }
    let text = match line.split_once('[') {
        Some((_, text)) => text.strip_suffix(']')?,
        None => line[4..].split_once(':')?.1,
    };
    let mut number = None;
    let (mut is_loss, mut has_events) = (false, false);
    for word in text.split_ascii_whitespace() {
        match &*word.to_ascii_uppercase() {
            "LOST" | "DROPPED" => is_loss = true,
            "EVENT" | "EVENTS" => has_events = true,
            word if word.bytes().all(|byte| byte.is_ascii_digit() || byte == b',') => {
                number = Some(counted(word));
            }
            _ => return None,
        }
    }
    let losses = number.unwrap_or(Losses::UNCOUNTED);
    (is_loss && has_events).then_some(losses).and_then(at_least_one)
}

/// Reads a number of lost events, which may have commas.
fn counted(text: &str) -> Losses {
    text.replace(',', "").parse().map_or(Losses::UNCOUNTED, Losses::of)
}

/// Returns the losses unless none was lost.
fn at_least_one(losses: Losses) -> Option<Losses> {
    (!losses.is_none()).then_some(losses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_kept_with_and_without_a_number() {
        for (line, expected) in [
            ("CPU:1 [LOST 12 EVENTS]", Some(Losses::of(12))),
            ("CPU:2 [LOST EVENTS]", Some(Losses::UNCOUNTED)),
            ("CPU:7 [204600 EVENTS DROPPED]", Some(Losses::of(204_600))),
            ("  CPU:7 [EVENTS DROPPED]", Some(Losses::UNCOUNTED)),
            ("perf 1 [000] 2.0: PERF_RECORD_LOST lost 3", Some(Losses::of(3))),
            ("# entries-in-buffer/entries-written: 22733/999999   #P:2", Some(Losses::of(977_266))),
            ("# entries-in-buffer/entries-written: 22/22   #P:2", None),
            ("CPU:1 [LOST 1,234 EVENTS]", Some(Losses::of(1234))),
            ("cpu 1 [lost 12 events]", Some(Losses::of(12))),
            ("CPU:1 [LOST 99999999999999999999 EVENTS]", Some(Losses::UNCOUNTED)),
            ("CPU 3: 17 events lost", Some(Losses::of(17))),
            ("overrun: 33", Some(Losses::of(33))),
            ("overrun: 0", None),
            ("dropped events: 4", Some(Losses::of(4))),
            ("perf 1 [000] 2.0: PERF_RECORD_LOST_SAMPLES lost 3", Some(Losses::of(3))),
            ("0x12 [0x30]: PERF_RECORD_LOST: lost 77", Some(Losses::of(77))),
            ("perf 1 [000] 2.0: PERF_RECORD_THROTTLE", Some(Losses::UNCOUNTED)),
            ("CPU 3 is empty", None),
            ("cpus=8", None),
            ("cpu", None),
            ("CPU:7 [FOUND EVENTS]", None),
            ("x [LOST EVENTS]", None),
        ] {
            assert_eq!(losses(line), expected, "{line}");
        }
    }
}
