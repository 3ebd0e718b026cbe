//! Heat maps of memory, read from the allocators. Each cell is a range of pages, coloured by its
//! largest free block, by the mobility of its areas, or by the owner of its pages.

use std::collections::HashMap;
use std::io::{self, Write};
use std::ops::Range;

use buddy::{BlockState, Mobility};
use page_frame::{FrameNumber, PAGE_SIZE};

use crate::picture::style::{Ink, Style};
use crate::picture::text::{counted, size};
use crate::replay::buddy_pages::BuddyPages;
use crate::replay::stack::{PageUse, Stack};

/// Cells per row.
const COLUMNS: usize = 64;
/// Maximum number of cells in a map.
const MAX_CELLS: usize = 32 * COLUMNS;
/// Pages per cell in large memory: the pages of a huge page.
const AREA: usize = 512;
/// Number of caches that get a colour of their own.
const OWNERS: usize = 6;
/// The order from which on all blocks get the same colour.
const HUGE: u8 = 9;

/// The property that a map shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The largest free block of the page side.
    Order,
    /// The mobility of the areas of the page side.
    Mobility,
    /// The cache that holds a page of the object side.
    Owner,
}

/// A map, ready to be drawn.
#[derive(Debug, Clone)]
pub struct Map {
    title: String,
    legend: Vec<(char, Ink, String)>,
    cells: Vec<(char, Ink)>,
    pages_per_cell: usize,
}

impl Map {
    /// Draws the map, at most 80 columns wide.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn draw(&self, out: &mut dyn Write, style: &Style) -> io::Result<()> {
        let cell = (self.pages_per_cell * PAGE_SIZE) as u64;
        writeln!(out, "{}; a cell is {}", style.paint(Ink::Caption, &self.title), size(cell))?;
        let rows: Vec<_> = self.cells.chunks(COLUMNS).collect();
        let is_free = |row: usize| rows[row].iter().all(|cell| cell.1 == Ink::Idle);
        for (row, cells) in rows.iter().enumerate() {
            // In a run of free rows only the first and the last are drawn.
            if row > 1 && row + 1 < rows.len() && (row - 1..=row + 1).all(is_free) {
                if !is_free(row - 2) {
                    writeln!(out, "  {:>9} {}", ":", style.paint(Ink::Idle, ":"))?;
                }
                continue;
            }
            let at = size(row as u64 * COLUMNS as u64 * cell);
            writeln!(out, "  {at:>9} |{}|", style.paint_cells(cells))?;
        }
        let mut line = String::new();
        let mut width = 0;
        for (sign, ink, text) in &self.legend {
            let entry = text.chars().count() + 5;
            if width + entry > 76 {
                writeln!(out, "  {}", line.trim_end())?;
                (line, width) = (String::new(), 0);
            }
            line.push_str(&format!("{} {text}   ", style.paint(*ink, &sign.to_string())));
            width += entry;
        }
        writeln!(out, "  {}", line.trim_end())
    }
}

/// Returns the pages per cell, a power of two, so that `pages` pages fit into one map.
fn pages_per_cell(pages: usize) -> usize {
    pages.div_ceil(MAX_CELLS).next_power_of_two()
}

/// Adds a range of `frames` pages from `start` to each cell that it overlaps.
fn spread(start: usize, frames: usize, per_cell: usize, mut add: impl FnMut(usize, usize)) {
    let Range { start: mut next, end } = start..start + frames;
    while next < end {
        let cell_end = (next / per_cell + 1) * per_cell;
        add(next / per_cell, end.min(cell_end) - next);
        next = end.min(cell_end);
    }
}

/// Maps the page side by the largest block that is free in each cell.
pub fn by_order(pages: &BuddyPages) -> Map {
    let end = pages.end_frame();
    let per_cell = pages_per_cell(end).max(AREA.min(end.next_power_of_two()));
    // For each cell: all pages, free pages, and one more than the largest free order.
    let mut seen = vec![(0_usize, 0_usize, 0_u32); end.div_ceil(per_cell)];
    for block in pages.blocks() {
        let is_free = block.state == BlockState::Free;
        spread(block.start.get(), block.frames, per_cell, |cell, part| {
            seen[cell].0 += part;
            if is_free {
                seen[cell].1 += part;
                seen[cell].2 = seen[cell].2.max(block.frames.ilog2() + 1);
            }
        });
    }
    let cell = |(all, free, largest): (usize, usize, u32)| match (free, largest) {
        // A hole in the machine's memory.
        _ if all == 0 => (' ', Ink::Idle),
        (0, _) => ('#', Ink::Taken),
        (free, _) if free == all => ('.', Ink::Idle),
        (_, largest) => {
            let order = largest - 1;
            let sign = char::from_digit(order, 36).unwrap_or('+').to_ascii_uppercase();
            (sign, Ink::Band(1 + (order / 2).min(5) as u8))
        }
    };
    let mut legend = vec![('#', Ink::Taken, "all taken".to_owned())];
    legend.extend((0..4).map(|pair: u8| {
        let top = pair * 2 + 1;
        (char::from(b'0' + top), Ink::Band(1 + pair), format!("up to order {top} free"))
    }));
    legend.push(('8', Ink::Band(5), "order 8 free".to_owned()));
    legend.push(('.', Ink::Idle, "all free".to_owned()));
    Map {
        title: "Pages by the order of the largest free block".to_owned(),
        legend,
        cells: seen.into_iter().map(cell).collect(),
        pages_per_cell: per_cell,
    }
}

/// Maps the page side by the mobility of its areas.
pub fn by_mobility(pages: &BuddyPages) -> Map {
    let end = pages.end_frame();
    let per_cell = pages_per_cell(end).max(AREA.min(end.next_power_of_two()));
    // For each cell: all pages, and allocated pages.
    let mut seen = vec![(0_usize, 0_usize); end.div_ceil(per_cell)];
    for block in pages.blocks() {
        let is_taken = usize::from(block.state != BlockState::Free);
        spread(block.start.get(), block.frames, per_cell, |cell, part| {
            seen[cell].0 += part;
            seen[cell].1 += part * is_taken;
        });
    }
    let sign = |mobility| match mobility {
        Mobility::Unmovable => ('u', Ink::Band(2)),
        Mobility::Reclaimable => ('r', Ink::Band(1)),
        Mobility::Movable => ('m', Ink::Band(0)),
    };
    let cell = |(index, &(all, taken)): (usize, &(usize, usize))| {
        let (letter, ink) = sign(pages.mobility_at(FrameNumber::new(index * per_cell)));
        match taken {
            // A hole in the machine's memory.
            _ if all == 0 => (' ', Ink::Idle),
            0 => ('.', Ink::Idle),
            taken if taken * 2 >= per_cell => (letter.to_ascii_uppercase(), ink),
            _ => (letter, ink),
        }
    };
    let name = |mobility| match mobility {
        Mobility::Unmovable => "unmovable",
        Mobility::Reclaimable => "reclaimable",
        Mobility::Movable => "movable",
    };
    let entry = |mobility| {
        let (letter, ink) = sign(mobility);
        (letter.to_ascii_uppercase(), ink, name(mobility).to_owned())
    };
    let mut legend: Vec<_> = Mobility::ALL.map(entry).into();
    legend.push(('u', Ink::Band(2), "a small letter: less than half taken".to_owned()));
    legend.push(('.', Ink::Idle, "free".to_owned()));
    Map {
        title: "Pages by what their area was last used for".to_owned(),
        legend,
        cells: seen.iter().enumerate().map(cell).collect(),
        pages_per_cell: per_cell,
    }
}

/// Maps the object side by the owner of each page, up to the last page that is held.
pub fn by_owner(stack: &Stack) -> Map {
    let mut held: Vec<(usize, usize, String)> = Vec::new();
    let mut pages_of: HashMap<String, usize> = HashMap::new();
    stack.for_each_use(|start, pages, used| {
        let name = match used {
            PageUse::Slab(name) => name.to_owned(),
            PageUse::Large => "large runs".to_owned(),
            PageUse::Ballast => "ballast".to_owned(),
            PageUse::Cached => "in CPU slots, or freed and not yet cleared".to_owned(),
        };
        *pages_of.entry(name.clone()).or_default() += pages;
        held.push((start, pages, name));
    });
    let end = held.iter().map(|(start, pages, _)| start + pages).max().unwrap_or(1);
    let mut by_pages: Vec<_> = pages_of.into_iter().collect();
    by_pages.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    let rank = |name: &str| {
        by_pages.iter().position(|(other, _)| other == name).unwrap_or(OWNERS).min(OWNERS)
    };
    let per_cell = pages_per_cell(end);
    let mut cells = vec![[0_usize; OWNERS + 1]; end.div_ceil(per_cell)];
    for (start, pages, name) in &held {
        let owner = rank(name);
        spread(*start, *pages, per_cell, |cell, part| cells[cell][owner] += part);
    }
    let sign = |owner: usize| (char::from(b'a' + owner as u8), Ink::Band(owner as u8));
    let cell = |parts: [usize; OWNERS + 1]| {
        let taken: usize = parts.iter().sum();
        let most = (0..=OWNERS).rev().max_by_key(|owner| parts[*owner]).unwrap_or(OWNERS);
        let (letter, ink) = sign(most);
        match taken {
            0 => ('.', Ink::Idle),
            taken if taken * 2 >= per_cell => (letter.to_ascii_uppercase(), ink),
            _ => (letter, ink),
        }
    };
    let named = by_pages.iter().take(OWNERS).enumerate().map(|(owner, (name, pages))| {
        let (letter, ink) = sign(owner);
        (letter.to_ascii_uppercase(), ink, format!("{name}, {}", counted(*pages, "page")))
    });
    let mut legend: Vec<_> = named.collect();
    if by_pages.len() > OWNERS {
        let (letter, ink) = sign(OWNERS);
        let rest: usize = by_pages[OWNERS..].iter().map(|(_, pages)| pages).sum();
        legend.push((
            letter.to_ascii_uppercase(),
            ink,
            format!("others, {}", counted(rest, "page")),
        ));
    }
    legend.push(('.', Ink::Idle, "free".to_owned()));
    Map {
        title: "Pages of the object side by who holds them".to_owned(),
        legend,
        cells: cells.into_iter().map(cell).collect(),
        pages_per_cell: per_cell,
    }
}

const _: () = assert!(AREA == 1 << HUGE);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::target::{ObjectTarget, PageTarget};

    fn drawn(map: &Map) -> String {
        let mut out = Vec::new();
        map.draw(&mut out, &Style::still(false)).expect("a vector takes all");
        String::from_utf8(out).expect("it is text")
    }

    #[test]
    fn a_map_by_order_shows_what_is_taken_in_its_place() {
        let mut pages = BuddyPages::new(128 * AREA, 1).expect("there is memory");
        assert_eq!(pages.allocate(9, 0), Ok(0));
        let frame = pages.allocate(0, 0).expect("there is room") as usize;
        pages.drain();
        let map = by_order(&pages);
        assert_eq!((map.cells.len(), map.pages_per_cell), (128, AREA));
        assert_eq!(map.cells[0], ('#', Ink::Taken));
        let cell = map.cells[frame / AREA];
        assert!(cell.0 == '8', "one page of 512 leaves a block of order 8: {cell:?}");
        assert_eq!(map.cells.iter().filter(|cell| cell.0 == '.').count(), 126);
        assert!(drawn(&map).lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn mobilities_are_told_apart() {
        let mut pages = BuddyPages::new(256 * AREA, 1).expect("there is memory");
        let movable = pages.allocate(3, 1).expect("there is room") as usize;
        let unmovable = pages.allocate(9, 0).expect("there is room") as usize;
        let map = by_mobility(&pages);
        assert_eq!(map.cells[movable / AREA].0, 'm');
        assert_eq!(map.cells[unmovable / AREA].0, 'U');
    }

    #[test]
    fn owners_are_the_caches_that_hold_pages() {
        let mut stack = Stack::new(16 << 20, 1).expect("there is memory");
        let cache = stack.open_cache("inode", 640).expect("a good size");
        for _ in 0..600 {
            stack.allocate_object(cache).expect("there is room");
        }
        stack.allocate_bytes(1 << 20).expect("there is room");
        let text = drawn(&by_owner(&stack));
        assert!(text.contains("A large runs, ") && text.contains("B inode, 100 pages"), "{text}");
        let row = text.lines().nth(1).expect("a row of cells");
        assert!(row.contains('A') || row.contains('B'), "{row}");
    }
}
