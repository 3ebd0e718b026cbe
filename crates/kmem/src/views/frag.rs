//! Explains which requests the free blocks of a zone can serve.
//!
//! The share of free memory that a request cannot use is [`buddy::Fragmentation::unusable`], in
//! thousandths. Tables call it "out of reach".

use std::io::{self, Write};

use buddy::Fragmentation;
use page_frame::{Order, PAGE_SIZE};

use crate::kernel_files::free_blocks::Zone;
use crate::picture::style::{Ink, Style};
use crate::picture::text::{counted, percent, size, thousands};

/// The order that huge pages need: 2 MiB.
pub const HUGE: u8 = 9;

impl Zone {
    /// Returns the fragmentation of the zone for a request of `order`.
    pub fn fragmentation(&self, order: Order) -> Fragmentation {
        let counts = || (0_u32..).zip(&self.free_counts);
        Fragmentation {
            free_frames: counts().map(|(order, count)| count << order).sum(),
            free_blocks: self.free_counts.iter().sum(),
            fitting_blocks: counts()
                .filter(|(found, _)| *found >= u32::from(order.get()))
                .map(|(found, count)| count << (found - u32::from(order.get())))
                .sum(),
            pages: order.pages(),
        }
    }

    /// Iterates over the orders that have a column in the zone's line.
    fn orders(&self) -> impl Iterator<Item = Order> {
        Order::all().take(self.free_counts.len())
    }
}

/// Writes which orders a zone can still serve, and why a request of `order` succeeds or fails, at
/// most 80 columns wide.
///
/// # Errors
/// When writing to `out` fails.
pub fn describe(out: &mut dyn Write, zone: &Zone, order: Order, style: &Style) -> io::Result<()> {
    let all = zone.fragmentation(Order::ZERO);
    heading(out, zone, style)?;
    writeln!(out, "  order      size  free blocks  of free  can be had  out of reach")?;
    for order in zone.orders() {
        let seen = zone.fragmentation(order);
        let count = zone.free_counts[order.index()];
        let share = percent((count * order.pages()) as u64, all.free_frames as u64);
        let unusable = percent(seen.unusable() as u64, 1000);
        let bar = style.paint(Ink::Taken, &bar(count * order.pages(), all.free_frames));
        let row = format!(
            "  {:>5} {:>9}  {:>11}  {share:>7}  {:>10}  {unusable:>12}  {bar}",
            order.get(),
            size(order.bytes() as u64),
            thousands(count as u64),
            thousands(seen.fitting_blocks as u64),
        );
        writeln!(out, "{}", row.trim_end())?;
    }
    writeln!(out, "  {}", verdict(zone))?;
    if let Some(marks) = &zone.watermarks {
        writeln!(out, "  {}", marks.describe(all.free_frames as u64))?;
    }
    let answer = answer(zone, order);
    writeln!(out, "  {}", style.paint(Ink::Caption, &answer))
}

/// Writes of a zone only how much is free, and why a request of `order` succeeds or fails.
///
/// # Errors
/// When writing to `out` fails.
pub fn describe_briefly(
    out: &mut dyn Write,
    zone: &Zone,
    order: Order,
    style: &Style,
) -> io::Result<()> {
    heading(out, zone, style)?;
    if let Some(marks) = &zone.watermarks {
        let free = zone.fragmentation(Order::ZERO).free_frames;
        writeln!(out, "  {}", marks.describe(free as u64))?;
    }
    writeln!(out, "  {}", answer(zone, order))
}

fn heading(out: &mut dyn Write, zone: &Zone, style: &Style) -> io::Result<()> {
    let all = zone.fragmentation(Order::ZERO);
    writeln!(
        out,
        "{}: {} free in {}",
        style.paint(Ink::Caption, &zone.name),
        size((all.free_frames * PAGE_SIZE) as u64),
        counted(all.free_blocks, "block")
    )
}

/// Says in which of several zones a request of `order` fails.
pub fn summary(zones: &[Zone], order: Order) -> String {
    let name = named(order);
    let failing: Vec<&str> =
        zones.iter().filter(|zone| !succeeds(zone, order)).map(|zone| &*zone.name).collect();
    match failing.len() {
        0 => format!("{name} succeeds in each of {} zones.", zones.len()),
        all if all == zones.len() => format!("{name} fails in each of {all} zones."),
        some => {
            let first: Vec<&str> = failing.into_iter().take(2).collect();
            let more = if some > first.len() { ", and others" } else { "" };
            format!(
                "{name} fails in {some} of {} zones:\n  {}{more}.",
                zones.len(),
                first.join("; ")
            )
        }
    }
}

fn named(order: Order) -> String {
    format!("Order {} ({})", order.get(), size(order.bytes() as u64))
}

/// Returns whether the zone serves a request of `order` without reclaim or compaction. [`answer`]
/// says it in words: the two must agree.
fn succeeds(zone: &Zone, order: Order) -> bool {
    let seen = zone.fragmentation(order);
    let min = zone.watermarks.map_or(0, |marks| marks.min as usize);
    seen.fitting_blocks > 0 && seen.free_frames >= min + order.pages()
}

/// Writes what the columns and the bar show.
///
/// # Errors
/// When writing to `out` fails.
pub fn legend(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "Each # is up to a tenth of the free memory, in blocks of that order.\n\
         Of free: the share that the bar shows. Can be had: requests of that order\n\
         which all free blocks together can serve. Out of reach: free memory in\n\
         smaller pieces."
    )
}

/// Says in a sentence whether and why a request of `order` fails.
pub fn answer(zone: &Zone, order: Order) -> String {
    let seen = zone.fragmentation(order);
    let bytes = |pages: usize| size((pages * PAGE_SIZE) as u64);
    let name = named(order);
    let largest = zone.orders().filter(|order| zone.free_counts[order.index()] > 0).last();
    let min = zone.watermarks.map_or(0, |marks| marks.min as usize);
    if seen.free_frames < order.pages() {
        return format!(
            "{name} fails: too little memory is free, {}.\n  Reclaim would help.",
            bytes(seen.free_frames)
        );
    }
    if seen.fitting_blocks == 0 {
        let largest = largest.map_or(0, |largest| largest.pages());
        return format!(
            "{name} fails: enough memory is free, {}, but in pieces:\n  the largest has {}. Compaction would help; reclaim alone would not.",
            bytes(seen.free_frames),
            bytes(largest)
        );
    }
    if seen.free_frames < min + order.pages() {
        return format!(
            "{name} fails although {} of that size can be cut:\n  it would leave less than the min watermark of {}. Reclaim would help.",
            counted(seen.fitting_blocks, "block"),
            bytes(min)
        );
    }
    format!("{name} succeeds: free blocks serve {} of them.", thousands(seen.fitting_blocks as u64))
}

/// Returns a one-line summary of the zone in plain words.
pub fn verdict(zone: &Zone) -> String {
    let all = zone.fragmentation(Order::ZERO);
    let Some(largest) = zone.orders().filter(|order| zone.free_counts[order.index()] > 0).last()
    else {
        return "Nothing is free: every request has to wait for reclaim.".to_owned();
    };
    let top = zone.orders().last().unwrap_or(Order::ZERO);
    let mut text = match largest == top {
        true => format!("Requests of every order up to {} can be had.", top.get()),
        false => format!(
            "Requests up to order {} ({}) can be had; from order {} on they fail,",
            largest.get(),
            size(largest.bytes() as u64),
            largest.get() + 1
        ),
    };
    let next = Order::new(largest.get() + 1).filter(|_| largest < top);
    if let Some(next) = next {
        let why = match all.free_frames / next.pages() {
            0 => "for want of memory: reclaim would help, compaction would not.".to_owned(),
            1 => "though as much is free: it is in pieces, and compaction would help.".to_owned(),
            times => format!(
                "though {} times as much is free: it is in pieces, and\n  compaction would help.",
                thousands(times as u64)
            ),
        };
        text.push_str(&format!("\n  {why}"));
    }
    let huge = Order::new(HUGE).filter(|huge| *huge <= top);
    if let Some(seen) =
        huge.map(|huge| zone.fragmentation(huge)).filter(|seen| seen.fitting_blocks > 0)
    {
        text.push_str(&format!(
            "\n  Huge pages of 2 MiB: {}, with {} of what is free.",
            thousands(seen.fitting_blocks as u64),
            percent((seen.fitting_blocks * seen.pages) as u64, all.free_frames as u64)
        ));
    }
    text
}

/// Returns a bar of up to ten columns for the share `part` of `whole`.
fn bar(part: usize, whole: usize) -> String {
    "#".repeat((part * 10).div_ceil(whole.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel_files::free_blocks::read;

    #[test]
    fn an_order_fails_for_want_of_memory_or_because_it_is_in_pieces_or_for_a_watermark() {
        let order = Order::new(9).expect("an order");
        let zone = |counts: &str| {
            one(&format!("Node 0, zone Normal {counts}")).expect("it is well formed")
        };
        let pieces = answer(&zone("10000 10 0 0 3 0 0 0 0 0 0"), order);
        assert!(
            pieces.starts_with("Order 9 (2 MiB) fails: enough memory is free, 39.3 MiB"),
            "{pieces}"
        );
        assert!(pieces.contains("the largest has 64 KiB. Compaction"), "{pieces}");
        let little = answer(&zone("100 0 0 0 0 0 0 0 0 0 0"), order);
        assert!(little.contains("too little memory is free, 400 KiB"), "{little}");
        let mut marked = zone("0 0 0 0 0 0 0 0 0 2 0");
        assert!(answer(&marked, order).contains("succeeds: free blocks serve 2"));
        marked.watermarks =
            Some(crate::kernel_files::watermarks::Watermarks { min: 600, low: 700, high: 800 });
        assert!(answer(&marked, order).contains("the min watermark of 2.34 MiB"), "{marked:?}");
    }

    /// Mutation that it catches: the summary looks only for a block that fits, not at watermarks.
    #[test]
    fn summaries_agree_with_the_answer_of_each_zone() {
        let order = Order::new(9).expect("an order");
        let zone = |line: &str| one(line).expect("it is well formed");
        let mut zones = vec![
            zone("Node 0, zone DMA 0 0 0 0 0 0 0 0 0 2 0"),
            zone("Node 0, zone Normal 90000 0 0 0 0 0 0 0 0 0 0"),
        ];
        let expected = "Order 9 (2 MiB) fails in 1 of 2 zones:\n  Node 0, zone Normal.";
        assert_eq!(summary(&zones, order), expected);
        zones[0].watermarks =
            Some(crate::kernel_files::watermarks::Watermarks { min: 600, low: 700, high: 800 });
        assert_eq!(summary(&zones, order), "Order 9 (2 MiB) fails in each of 2 zones.");
        for zone in &zones {
            let mut brief = Vec::new();
            describe_briefly(&mut brief, zone, order, &Style::still(false)).expect("a vector");
            let brief = String::from_utf8(brief).expect("it is text");
            assert!(
                brief.contains(&answer(zone, order)) && !brief.contains("can be had"),
                "{brief}"
            );
        }
    }

    /// Reads a file that has one line.
    fn one(line: &str) -> Result<Zone, String> {
        read("buddyinfo", line.as_bytes())
            .map(|mut zones| zones.remove(0))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn our_own_line_is_read_back() {
        let mut counts = [0; Order::COUNT];
        (counts[0], counts[3], counts[10]) = (3, 2, 7);
        let zone = one(&crate::kernel_files::buddyinfo::line(1, "Normal", &counts))
            .expect("it is well formed");
        assert_eq!(zone.name, "Node 1, zone Normal");
        assert_eq!(zone.free_counts, counts[..11]);
    }

    #[test]
    fn a_zone_in_pieces_and_one_that_is_full_are_told_apart() {
        let pieces = one("Node 0, zone Normal 40000 0 0 0").expect("it is well formed");
        assert!(verdict(&pieces).contains("up to order 0 (4 KiB)"), "{}", verdict(&pieces));
        assert!(verdict(&pieces).contains("in pieces"), "{}", verdict(&pieces));
        // Enough for one block of the next order, and not more.
        let two = one("Node 0, zone Normal 0 0 2 0").expect("it is well formed");
        assert!(verdict(&two).contains("as much is free: it is in pieces"), "{}", verdict(&two));
        let short = one("Node 0, zone Normal 0 0 0 1 0 0 0 0 0 0 0").expect("it is well formed");
        assert!(verdict(&short).contains("want of memory"), "{}", verdict(&short));
        let none = one("Node 0, zone Normal 0 0").expect("it is well formed");
        assert!(verdict(&none).starts_with("Nothing is free"));
        let all = one("Node 0, zone DMA32 0 0 0 0 0 0 0 0 0 1 1").expect("it is well formed");
        assert!(verdict(&all).contains("every order up to 10"), "{}", verdict(&all));
        assert!(verdict(&all).contains("2 MiB: 3, with 100 %"), "{}", verdict(&all));
    }
}
