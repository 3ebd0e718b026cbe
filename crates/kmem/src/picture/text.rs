//! Numbers and nouns as people read them.

/// Returns `number` with a comma between each three digits.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Returns `bytes` in the largest unit of which there is at least one, with three digits: `640 B`,
/// `1.25 MiB`.
pub fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (bytes.max(1).ilog2() / 10).min(4) as usize;
    if bytes.is_multiple_of(1 << (10 * unit)) {
        return format!("{} {}", bytes >> (10 * unit), units[unit]);
    }
    let number = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    let decimals = if number < 10.0 { 2 } else { usize::from(number < 100.0) };
    format!("{number:.decimals$} {}", units[unit])
}

/// Returns foreign text with its control characters and other unprintable ones escaped. Quotes and
/// backslashes stay as they are.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => printable.push(character),
            other => printable.extend(other.escape_debug()),
        }
    }
    printable
}

/// Returns `count` with its noun: `1 slab`, `2 slabs`.
pub fn counted(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('y')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{} {noun}s", thousands(count as u64)),
    }
}

/// Returns a part of `whole` in percent, with one decimal below ten.
pub fn percent(part: u64, whole: u64) -> String {
    let share = part as f64 * 100.0 / whole.max(1) as f64;
    let decimals = usize::from(share < 9.95 && part > 0);
    format!("{share:.decimals$} %")
}

/// Returns a name in at most `columns` columns. Masks lose the prefixes of their flags. A name that
/// is still too long loses its middle, as names often differ at their end.
pub fn shortened(name: &str, columns: usize) -> String {
    let name = name.replace("|__GFP_", "|");
    let characters: Vec<char> = name.chars().collect();
    if characters.len() <= columns {
        return name;
    }
    let kept = columns.saturating_sub(2);
    let (front, back) = (kept.div_ceil(2), kept / 2);
    let (front, back) = (&characters[..front], &characters[characters.len() - back..]);
    front.iter().chain(&['.', '.']).chain(back).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let grouped = [0, 999, 1_000, 1_234_567].map(thousands);
        assert_eq!(grouped, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn sizes_have_three_digits() {
        let sizes = [0, 1023, 1024, 1536, 20 << 20, (20 << 20) + 300_000, 5 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1 KiB", "1.50 KiB", "20 MiB", "20.3 MiB", "5 TiB"]);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shortened("GFP_NOFS|__GFP_ZERO", 13), "GFP_NOFS|ZERO");
        assert_eq!(shortened("abcdefghijk", 7), "abc..jk");
        assert_eq!((shortened("abc", 3), shortened("abcd", 3)), ("abc".into(), "a..".into()));
    }

    #[test]
    fn nouns_follow_their_number() {
        assert_eq!(counted(1, "slab"), "1 slab");
        assert_eq!(
            (counted(0, "slab"), counted(2, "dentry")),
            ("0 slabs".into(), "2 dentries".into())
        );
    }

    #[test]
    fn shares_have_a_decimal_where_it_matters() {
        assert_eq!(
            (percent(1, 3), percent(1, 40), percent(0, 0)),
            ("33 %".into(), "2.5 %".into(), "0 %".into())
        );
    }
}
