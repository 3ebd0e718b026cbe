//! The layout of slabs for one object size: a table of all slab orders, and the chosen one drawn to
//! scale.
//!
//! Every number comes from [`slab::Geometry`], which caches use too.

use std::alloc::Layout;
use std::io::{self, Write};

use kmalloc::ClassIndex;
use page_frame::{Order, PAGE_SIZE};
use slab::Geometry;
pub use slab::GeometryError;

use crate::picture::style::{Ink, Style};
use crate::picture::text::{counted, percent, size};

/// The size of a CPU-cache line in bytes; colours are multiples of it.
const LINE_BYTES: usize = 64;
/// Denominators of the accepted leftovers, as [`slab::Geometry`] tries them.
const FRACTIONS: [usize; 4] = [20, 8, 4, 2];
/// Minimum number of orders in the table.
const ORDERS: u8 = 4;
/// Sets of a first-level cache of 32 KiB with 8 ways: address bits 6 to 11 select one.
const SETS: usize = 64;
/// Lines that one set holds.
const WAYS: usize = 8;
/// Width of the drawing in columns.
const COLUMNS: usize = 64;
/// Number of slabs drawn, each with the next colour.
const SLABS: usize = 4;

/// Writes the plan for objects of `object_bytes` bytes aligned to `alignment`, at most 80 columns
/// wide.
///
/// # Errors
/// When writing to `out` fails. The inner result is an error when no slab can hold such objects.
pub fn plan(
    out: &mut dyn Write,
    object_bytes: usize,
    alignment: usize,
    style: &Style,
) -> io::Result<Result<(), GeometryError>> {
    let chosen = match Geometry::new(object_bytes, alignment, LINE_BYTES) {
        Ok(chosen) => chosen,
        Err(error) => return Ok(Err(error)),
    };
    let bytes = if object_bytes == 1 { "byte" } else { "bytes" };
    let heading = format!("Objects of {object_bytes} {bytes}, aligned to {alignment}");
    writeln!(out, "{}\n", style.paint(Ink::Caption, &heading))?;
    table(out, object_bytes, alignment, &chosen, style)?;
    words(out, object_bytes, alignment, &chosen)?;
    sets(out, &chosen)?;
    draw(out, &chosen, style)?;
    Ok(Ok(()))
}

/// Writes one row for each order.
fn table(
    out: &mut dyn Write,
    object_bytes: usize,
    alignment: usize,
    chosen: &Geometry,
    style: &Style,
) -> io::Result<()> {
    writeln!(
        out,
        "  order     slab  objects  per object  bookkeeping  left over   wasted  colours"
    )?;
    let orders = 0..ORDERS.max(chosen.order().get() + 1);
    for order in orders {
        let Some(cut) = Geometry::at_order(object_bytes, alignment, LINE_BYTES, order) else {
            let slab = Order::new(order).map_or(0, Order::bytes);
            writeln!(out, "  {order:>5} {:>8}  too small for one object", size(slab as u64))?;
            continue;
        };
        let used = cut.capacity() * object_bytes;
        let wasted = percent((cut.slab_bytes() - used) as u64, cut.slab_bytes() as u64);
        let bookkeeping = match cut.bookkeeping_offset() {
            Some(offset) => format!("{} B", cut.slab_bytes() - offset),
            None => "outside".to_owned(),
        };
        let mark = if cut == *chosen { ">" } else { " " };
        let row = format!(
            "{mark} {order:>5} {:>8}  {:>7}  {:>8} B  {bookkeeping:>11}  {:>7} B  {wasted:>7}  {:>7}",
            size(cut.slab_bytes() as u64),
            cut.capacity(),
            cut.slab_bytes() / cut.capacity(),
            cut.leftover_bytes(),
            cut.colours(),
        );
        let row = if cut == *chosen { style.paint(Ink::Caption, &row) } else { row };
        writeln!(out, "{row}")?;
    }
    Ok(())
}

/// Writes the chosen order, and how `kmalloc` would serve the size.
fn words(
    out: &mut dyn Write,
    object_bytes: usize,
    alignment: usize,
    chosen: &Geometry,
) -> io::Result<()> {
    writeln!(
        out,
        "\nA cache takes slabs of {}, {} in each.",
        counted(chosen.order().pages(), "page"),
        counted(chosen.capacity(), "object")
    )?;
    why(out, object_bytes, alignment, chosen)?;
    let padding = chosen.stride() - object_bytes;
    if padding > 0 {
        writeln!(
            out,
            "Each object is followed by {} for the alignment.",
            counted(padding, "byte")
        )?;
    }
    let layout = Layout::from_size_align(object_bytes, alignment).ok();
    let class = layout.and_then(ClassIndex::for_layout);
    match class.map(|class| class.size()) {
        Some(class) if class == object_bytes => {
            writeln!(out, "kmalloc has a class of exactly this size.")?;
        }
        Some(class) => writeln!(
            out,
            "kmalloc takes the class of {class} bytes: {} of each object wasted.",
            percent((class - object_bytes) as u64, class as u64)
        )?,
        None => writeln!(out, "kmalloc takes whole pages for each.")?,
    }
    Ok(())
}

/// Writes why the order was chosen, and why not one that wastes less.
fn why(
    out: &mut dyn Write,
    object_bytes: usize,
    alignment: usize,
    chosen: &Geometry,
) -> io::Result<()> {
    let order = chosen.order().get();
    let few = enough_objects(object_bytes);
    let fraction = FRACTIONS.into_iter().find(|fraction| {
        chosen.leftover_bytes() * fraction <= chosen.slab_bytes() && chosen.capacity() >= few
    });
    match fraction {
        Some(fraction) => writeln!(
            out,
            "Order {order} is the smallest with {} or more and at most 1/{fraction} left over.",
            counted(few, "object")
        )?,
        None => writeln!(out, "Order {order} is the smallest that holds an object.")?,
    }
    let wasted = |cut: &Geometry| {
        let used = cut.capacity() * object_bytes;
        (cut.slab_bytes() - used) as f64 / cut.slab_bytes() as f64
    };
    let others = (0..ORDERS.max(order + 1)).filter(|other| *other != order);
    let cuts =
        others.filter_map(|order| Geometry::at_order(object_bytes, alignment, LINE_BYTES, order));
    let better = cuts.filter(|cut| wasted(cut) < wasted(chosen) - 0.0005);
    let Some(best) = better.min_by(|one, other| wasted(one).total_cmp(&wasted(other))) else {
        return Ok(());
    };
    let share = |cut: &Geometry| {
        let used = cut.capacity() * object_bytes;
        percent((cut.slab_bytes() - used) as u64, cut.slab_bytes() as u64)
    };
    let reason = match best.order() > chosen.order() {
        true => {
            "but larger blocks are harder to get,\nand slabs of more objects are seldom empty, so that they are kept longer"
        }
        false if best.capacity() < few => {
            "but holds too few objects:\na slab would be needed for every few requests"
        }
        false => "but leaves more over in front of its bookkeeping",
    };
    writeln!(
        out,
        "Order {} wastes {} and not {}, {reason}.",
        best.order().get(),
        share(&best),
        share(chosen)
    )
}

/// Writes for which walks the colours pay.
fn sets(out: &mut dyn Write, cut: &Geometry) -> io::Result<()> {
    let [without, with] = [Walk::new(cut, false), Walk::new(cut, true)];
    let into = |walk: &Walk| format!("{} of {SETS} sets", walk.sets);
    writeln!(
        out,
        "\nA walk over the first lines of the objects, in a first-level cache of 32 KiB:"
    )?;
    if cut.colours() == 1 {
        return writeln!(
            out,
            "they fall into {} and fit up to {}.\nWithout leftover there are no colours.",
            into(&with),
            counted(with.objects, "object")
        );
    }
    writeln!(
        out,
        "without colours they fall into {} and fit up to {},\nwith colours into {} and up to {}.",
        into(&without),
        counted(without.objects, "object"),
        into(&with),
        counted(with.objects, "object")
    )?;
    match with.objects > without.objects {
        true => writeln!(out, "Colours pay for walks in between."),
        false => writeln!(out, "Colours gain nothing in this cache."),
    }
}

/// A walk over the first lines of all objects, slab after slab, as the sets of a CPU cache see it.
struct Walk {
    /// How many sets the lines of many slabs fall into.
    sets: usize,
    /// How many objects the walk has before some set gets more lines than it holds.
    objects: usize,
}

impl Walk {
    /// Counts the walk over slabs with their colours in turn, or all with the first one.
    fn new(cut: &Geometry, has_colours: bool) -> Self {
        let mut lines = [0; SETS];
        let (mut colour, mut objects, mut is_full) = (0, 0, false);
        // Each colour occurs at least once.
        let mut slabs = 0;
        while !is_full || slabs < cut.colours() {
            let offset = if has_colours { cut.colour_offset(colour) } else { 0 };
            for object in 0..cut.capacity() {
                let set = (offset + object * cut.stride()) / LINE_BYTES % SETS;
                // The same line holds the starts of several small objects.
                let is_new = object == 0
                    || (offset + object * cut.stride()) / LINE_BYTES
                        != (offset + (object - 1) * cut.stride()) / LINE_BYTES;
                lines[set] += usize::from(is_new);
                is_full |= lines[set] > WAYS;
                objects += usize::from(!is_full);
            }
            colour = cut.next_colour(colour);
            slabs += 1;
        }
        Self { sets: lines.iter().filter(|lines| **lines > 0).count(), objects }
    }
}

/// Returns how many objects of a size are enough for a slab, by the rule of [`slab::Geometry`].
fn enough_objects(object_bytes: usize) -> usize {
    match object_bytes {
        ..=512 => 8,
        513..PAGE_SIZE => 4,
        _ => 1,
    }
}

/// Draws the first slabs of a cache to scale, one per row, each with the next colour.
fn draw(out: &mut dyn Write, cut: &Geometry, style: &Style) -> io::Result<()> {
    writeln!(
        out,
        "\n[###] object   R bookkeeping   blank: left over   a column is {}",
        counted(cut.slab_bytes() / COLUMNS, "byte")
    )?;
    let mut colour = 0;
    for _ in 0..SLABS.min(cut.colours()) {
        let cells = cells(cut, cut.colour_offset(colour));
        let from = cut.colour_offset(colour);
        writeln!(out, "  |{}| at {from}", style.paint_cells(&cells))?;
        colour = cut.next_colour(colour);
    }
    match cut.colours().saturating_sub(SLABS) {
        0 => Ok(()),
        more => writeln!(out, "  and {} more", counted(more, "colour")),
    }
}

/// Returns one slab to scale whose first object begins `offset` bytes into it.
fn cells(cut: &Geometry, offset: usize) -> Vec<(char, Ink)> {
    let column_bytes = cut.slab_bytes() / COLUMNS;
    let mut cells = vec![(' ', Ink::Caption); COLUMNS];
    for object in 0..cut.capacity() {
        let start = offset + object * cut.stride();
        let (first, last) = (start / column_bytes, (start + cut.stride() - 1) / column_bytes);
        let ink = if object % 2 == 0 { Ink::Taken } else { Ink::TakenByOther };
        cells[first..=last].fill(('#', ink));
        // Brackets where an object is wide enough for them.
        if cut.stride() >= 3 * column_bytes {
            (cells[first].0, cells[last].0) = ('[', ']');
        }
    }
    if let Some(offset) = cut.bookkeeping_offset() {
        cells[offset / column_bytes..].fill(('R', Ink::Metadata));
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::style::Rest;

    const PLAIN: Style = Style { plain: false, colour: false, rest: Rest::None };

    fn planned(object_bytes: usize, alignment: usize) -> String {
        let mut out = Vec::new();
        let done = plan(&mut out, object_bytes, alignment, &PLAIN).expect("a vector takes all");
        done.expect("there is such a slab");
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn exactly_one_row_is_chosen_and_it_is_the_caches() {
        for (bytes, alignment) in
            [(1, 1), (20, 4), (640, 8), (1000, 512), (4096, 4096), (300_000, 8)]
        {
            let text = planned(bytes, alignment);
            let chosen: Vec<_> = text.lines().filter(|line| line.starts_with("> ")).collect();
            let order = Geometry::new(bytes, alignment, 64).expect("a good size").order().get();
            assert_eq!(chosen.len(), 1, "{text}");
            assert_eq!(chosen[0].split_whitespace().nth(1), Some(&*order.to_string()), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn the_reason_is_that_by_which_a_cache_chooses() {
        for bytes in (8..9000).step_by(8) {
            let Ok(chosen) = Geometry::new(bytes, 8, LINE_BYTES) else { continue };
            let few = enough_objects(bytes);
            let fits = |fraction: usize| {
                (0..=3).find(|order| {
                    Geometry::at_order(bytes, 8, LINE_BYTES, *order).is_some_and(|cut| {
                        cut.leftover_bytes() * fraction <= cut.slab_bytes() && cut.capacity() >= few
                    })
                })
            };
            let expected =
                FRACTIONS.into_iter().find_map(|fraction| Some((fraction, fits(fraction)?)));
            let (fraction, order) = expected.expect("every such size has an order");
            assert_eq!(order, chosen.order().get(), "{bytes}");
            let text = planned(bytes, 8);
            assert!(text.contains(&format!("at most 1/{fraction} left over")), "{bytes}: {text}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let text = planned(640, 8);
        assert!(text.contains("Order 3 wastes 0.4 % and not 6.2 %, but larger blocks"), "{text}");
        assert!(!planned(4096, 8).contains("wastes"), "no order is better than without waste");
    }

    #[test]
    fn the_drawing_shows_every_object_in_its_place() {
        let text = planned(640, 8);
        assert!(text.contains("|[########][########]"), "{text}");
        assert_eq!(text.matches("| at ").count(), 4);
        assert_eq!(text.matches('[').count(), 4 * 6 + 1, "{text}");
    }

    /// Mutations that it catches: the colours without effect; a set that holds another number of
    /// lines; lines counted once for each object.
    #[test]
    fn colours_pay_for_walks_that_fill_some_sets_and_leave_others_empty() {
        let walks = |bytes| {
            let cut = Geometry::new(bytes, 8, LINE_BYTES).expect("a good size");
            [false, true].map(|has_colours| {
                let walk = Walk::new(&cut, has_colours);
                (walk.sets, walk.objects)
            })
        };
        // Six objects in a page, eight lines in a set, four colours.
        assert_eq!(walks(640), [(6, 6 * 8), (24, 4 * 6 * 8)]);
        // Four objects start in each of 59 lines; five lines are bookkeeping.
        assert_eq!(walks(16)[0], (59, 8 * 59 * 4));
        // An object fills the page: there is one colour.
        assert_eq!(walks(4096), [(1, 8), (1, 8)]);
        for bytes in (8..9000).step_by(8) {
            let [without, with] = walks(bytes);
            assert!(without.0 <= with.0 && without.1 <= with.1, "{bytes}: {without:?} {with:?}");
        }
        let text = planned(640, 8);
        let expected = "without colours they fall into 6 of 64 sets and fit up to 48 objects,\n\
                        with colours into 24 of 64 sets and up to 192 objects.\n\
                        Colours pay for walks in between.\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn impossible_objects_are_refused() {
        for (bytes, alignment) in [(0, 8), (8, 3), (5 << 20, 8)] {
            let done = plan(&mut Vec::new(), bytes, alignment, &PLAIN);
            assert!(done.expect("a vector takes all").is_err());
        }
    }
}
