//! Losses that recordings report.

use crate::trace::losses::Losses;

/// Returns the losses that a line reports:
///
/// ```text
/// CPU:1 [LOST 123 EVENTS]        the trace file; the number is missing where unknown
/// CPU:1 [123 EVENTS DROPPED]     trace-cmd report, with or without a number
/// ... PERF_RECORD_LOST lost 123  perf script --show-lost-events
/// # entries-in-buffer/entries-written: 22733/999999   #P:2
///                                the head of the trace file: the rest was overwritten
/// ```
pub(super) fn losses(line: &str) -> Option<Losses> {
    if let Some((_, rest)) = line.split_once("entries-in-buffer/entries-written:") {
        let (kept, written) = rest.split_ascii_whitespace().next()?.split_once('/')?;
        let lost = written.parse::<u64>().ok()?.checked_sub(kept.parse().ok()?)?;
        return (lost > 0).then_some(Losses::of(lost));
    }
    if let Some((_, number)) = line.split_once("PERF_RECORD_LOST lost ") {
        return Some(Losses::of(number.split_ascii_whitespace().next()?.parse().ok()?));
    }
    let (before, rest) = line.trim().split_once('[')?;
    if !before.starts_with("CPU:") {
        return None;
    }
    let mut words = rest.strip_suffix(']')?.split_ascii_whitespace();
    let mut number = None;
    let mut is_loss = false;
    for word in words.by_ref() {
        match word {
            "LOST" | "DROPPED" => is_loss = true,
            "EVENTS" => {}
            word => number = Some(word.parse().ok()?),
        }
    }
    is_loss.then(|| number.map_or(Losses::UNCOUNTED, Losses::of))
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
            ("CPU:7 [FOUND EVENTS]", None),
            ("x [LOST EVENTS]", None),
        ] {
            assert_eq!(losses(line), expected, "{line}");
        }
    }
}
