//! Which cache, which call site and which page requests hold most memory at the peak, in sentences.

use super::caller::{Caller, Source};
use super::outcome::Outcome;
use crate::picture::text::{percent, size};

/// A sentence about one name, which stands between two texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Largest {
    /// The text before the name.
    pub before: String,
    /// The name, as the trace has it.
    pub name: String,
    /// The text after it.
    pub after: String,
}

/// Returns the sentences of `outcome`: none without allocations, and none if requests failed, as
/// the peak is then that of the replay's memory.
pub fn sentences(outcome: &Outcome) -> Vec<Largest> {
    if outcome.failed() > 0 {
        return Vec::new();
    }
    let mut sentences = Vec::new();
    sentences.extend(of_caches(outcome));
    sentences.extend(of_sites(outcome));
    sentences.extend(of_pages(outcome));
    sentences
}

fn of_caches(outcome: &Outcome) -> Option<Largest> {
    let all = outcome.objects.peak_live_bytes;
    let most = outcome.caches_and_kmalloc().max_by_key(|cache| cache.peak_bytes)?;
    (most.peak_bytes > 0).then(|| Largest {
        before: format!("At the peak ({}) ", seconds(outcome.peak_micros[0])),
        name: most.name.clone(),
        after: format!(
            " holds most: {} of {} of objects.",
            percent(most.peak_bytes, all),
            size(all)
        ),
    })
}

/// A trace may name the call sites of some requests only: then the sentence says how much it knows.
fn of_sites(outcome: &Outcome) -> Option<Largest> {
    let all = outcome.objects.peak_live_bytes;
    let is_named = |caller: &&Caller| caller.is_named && caller.source != Source::Pages;
    let known: u64 = outcome.callers.iter().filter(is_named).map(|one| one.at_peak.bytes).sum();
    let most = outcome.callers.iter().filter(is_named).max_by_key(|one| one.at_peak.bytes);
    let most = most.filter(|most| most.at_peak.bytes > 0);
    let Some(most) = most.filter(|_| all > 0) else {
        let text = "The trace names no call sites of objects.".to_owned();
        return (all > 0).then(|| Largest {
            before: text,
            name: String::new(),
            after: String::new(),
        });
    };
    let share = percent(most.at_peak.bytes, all);
    let before = match known * 2 < all {
        true => format!("Call sites are known for only {} of it; ", percent(known, all)),
        false => "Of the call sites ".to_owned(),
    };
    Some(Largest { before, name: most.site.clone(), after: format!(" holds most: {share}.") })
}

fn of_pages(outcome: &Outcome) -> Option<Largest> {
    let of_pages = outcome.callers.iter().filter(|caller| caller.source == Source::Pages);
    let most = of_pages.max_by_key(|caller| caller.at_peak.bytes)?;
    let all = outcome.pages.peak_live_pages * page_frame::PAGE_SIZE as u64;
    (most.at_peak.bytes > 0).then(|| Largest {
        before: format!("Of {} of pages ({}) ", size(all), seconds(outcome.peak_micros[1])),
        name: most.site.clone(),
        after: format!(" holds most: {}.", percent(most.at_peak.bytes, all)),
    })
}

fn seconds(micros: u64) -> String {
    format!("{:.2} s", micros as f64 / 1e6)
}
