//! Caches in the layout of `slabtop`: the same header, columns and sort keys.

use page_frame::PAGE_SIZE;

use crate::kernel_files::slabinfo::Line;

/// The sort key of the rows. All but the name sort the largest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// `a`: objects in use.
    Active,
    /// `b`: objects per slab.
    PerSlab,
    /// `c`: memory of all slabs.
    CacheSize,
    /// `l`: number of slabs.
    Slabs,
    /// `v`: slabs with an object in use.
    ActiveSlabs,
    /// `n`: the name.
    Name,
    /// `o`: objects in all slabs.
    #[default]
    Objects,
    /// `p`: pages per slab.
    Pages,
    /// `s`: the size of an object.
    Size,
    /// `u`: share of objects in use.
    Use,
}

impl Sort {
    /// Returns the sort key for a letter.
    pub fn of(letter: char) -> Option<Self> {
        Some(match letter {
            'a' => Self::Active,
            'b' => Self::PerSlab,
            'c' => Self::CacheSize,
            'l' => Self::Slabs,
            'v' => Self::ActiveSlabs,
            'n' => Self::Name,
            'o' => Self::Objects,
            'p' => Self::Pages,
            's' => Self::Size,
            'u' => Self::Use,
            _ => return None,
        })
    }

    fn sort(self, lines: &mut [Line]) {
        let by =
            |number: fn(&Line) -> Option<u64>| move |line: &Line| std::cmp::Reverse(number(line));
        match self {
            Self::Name => lines.sort_by(|one, other| one.name.cmp(&other.name)),
            Self::Active => lines.sort_by_key(by(|line| line.active_objects)),
            Self::PerSlab => lines.sort_by_key(by(|line| line.objects_per_slab)),
            Self::CacheSize => lines.sort_by_key(by(cache_kib)),
            Self::Slabs => lines.sort_by_key(by(|line| line.slabs)),
            Self::ActiveSlabs => lines.sort_by_key(by(|line| line.active_slabs)),
            Self::Objects => lines.sort_by_key(by(|line| line.objects)),
            Self::Pages => lines.sort_by_key(by(|line| line.pages_per_slab)),
            Self::Size => lines.sort_by_key(by(|line| line.object_bytes)),
            Self::Use => lines.sort_by_key(by(used)),
        }
    }
}

/// Returns the memory of all slabs in KiB.
fn cache_kib(line: &Line) -> Option<u64> {
    Some(line.slabs? * line.pages_per_slab? * PAGE_SIZE as u64 / 1024)
}

/// Returns the share of objects in use, in percent.
fn used(line: &Line) -> Option<u64> {
    Some((line.active_objects? * 100).checked_div(line.objects?).unwrap_or(0))
}

/// Returns the lines of the screen: header, `note`, column names, and one row for each cache,
/// sorted.
pub fn screen(mut lines: Vec<Line>, sort: Sort, note: &str) -> Vec<String> {
    let mut screen = head(&lines);
    screen.push(note.to_owned());
    screen.push("  OBJS ACTIVE  USE OBJ SIZE  SLABS OBJ/SLAB CACHE SIZE NAME".to_owned());
    sort.sort(&mut lines);
    screen.extend(lines.iter().map(|line| {
        format!(
            "{:>6} {:>6} {:>3}% {:>7}K {:>6} {:>8} {:>9}K {:<23}",
            shown(line.objects),
            shown(line.active_objects),
            shown(used(line)),
            line.object_bytes
                .map_or("?".to_owned(), |bytes| format!("{:.2}", bytes as f64 / 1024.0)),
            shown(line.slabs),
            shown(line.objects_per_slab),
            shown(cache_kib(line)),
            line.name
        )
    }));
    screen
}

/// Returns a number, or a question mark for an impossible one.
fn shown(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

/// Returns the header: sums over all caches, without impossible numbers.
fn head(lines: &[Line]) -> Vec<String> {
    let sum = |number: fn(&Line) -> Option<u64>| lines.iter().filter_map(number).sum::<u64>();
    let share = |part: f64, whole: f64| if whole > 0.0 { part * 100.0 / whole } else { 0.0 };
    let pair = |what: &str, part: u64, whole: u64| {
        let share = share(part as f64, whole as f64);
        format!(" {what:<35}: {part} / {whole} ({share:.1}%)")
    };
    let (active, all) = (sum(|line| line.active_objects), sum(|line| line.objects));
    let (active_slabs, slabs) = (sum(|line| line.active_slabs), sum(|line| line.slabs));
    let in_use = lines.iter().filter(|line| line.objects > Some(0)).count() as u64;
    let bytes = sum(|line| Some(line.objects? * line.object_bytes?)) as f64;
    let active_bytes = sum(|line| Some(line.active_objects? * line.object_bytes?)) as f64;
    let sizes = || lines.iter().filter_map(|line| line.object_bytes);
    let kib = |bytes: f64| bytes / 1024.0;
    vec![
        pair("Active / Total Objects (% used)", active, all),
        pair("Active / Total Slabs (% used)", active_slabs, slabs),
        pair("Active / Total Caches (% used)", in_use, lines.len() as u64),
        format!(
            " {:<35}: {:.2}K / {:.2}K ({:.1}%)",
            "Active / Total Size (% used)",
            kib(active_bytes),
            kib(bytes),
            share(active_bytes, bytes)
        ),
        format!(
            " {:<35}: {:.2}K / {:.2}K / {:.2}K",
            "Minimum / Average / Maximum Object",
            kib(sizes().min().unwrap_or(0) as f64),
            kib(if all > 0 { bytes / all as f64 } else { 0.0 }),
            kib(sizes().max().unwrap_or(0) as f64)
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str, objects: u64, active: u64, bytes: u64) -> Line {
        Line {
            name: name.into(),
            active_objects: Some(active),
            objects: Some(objects),
            object_bytes: Some(bytes),
            objects_per_slab: Some(10),
            pages_per_slab: Some(1),
            active_slabs: Some(active.div_ceil(10)),
            slabs: Some(objects / 10),
        }
    }

    #[test]
    fn rows_are_sorted_by_what_the_letter_says() {
        let lines = || vec![line("b", 10, 10, 64), line("a", 30, 3, 128)];
        let names = |sort| -> Vec<String> {
            let rows = screen(lines(), Sort::of(sort).expect("a letter"), "").into_iter().skip(7);
            rows.filter_map(|row| row.split_whitespace().last().map(str::to_owned)).collect()
        };
        assert_eq!(names('o'), ["a", "b"]);
        assert_eq!(names('u'), ["b", "a"]);
        assert_eq!((names('n'), names('a'), names('s')), (names('o'), names('u'), names('o')));
        assert_eq!(Sort::of('x'), None);
    }

    #[test]
    fn the_head_sums_up() {
        let text = screen(vec![line("b", 10, 10, 64), line("a", 30, 3, 128)], Sort::Objects, "");
        assert_eq!(text[0], " Active / Total Objects (% used)    : 13 / 40 (32.5%)");
        assert_eq!(text[3], " Active / Total Size (% used)       : 1.00K / 4.38K (22.9%)");
        assert_eq!(
            text[7],
            "    30      3  10%    0.12K      3       10        12K a                      "
        );
    }

    #[test]
    fn no_caches_are_no_division_by_zero() {
        assert!(screen(Vec::new(), Sort::Use, "")[0].ends_with("0 / 0 (0.0%)"));
    }
}
