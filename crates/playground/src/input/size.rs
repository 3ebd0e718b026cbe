//! Sizes in text: `3.6K`, `850B` and `0x400` are bytes, a number without a suffix is a number of
//! units.

use alloc::format;
use alloc::string::String;

use crate::input::complaint::quoted;

/// The meaning of a number without a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    /// Units, the smallest blocks.
    Units,
    /// Bytes, as on the course page that the example comes from.
    Bytes,
}

/// Suffixes and their bytes.
const SUFFIXES: [(&str, u64); 12] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("kb", 1 << 10),
    ("mb", 1 << 20),
    ("gb", 1 << 30),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("bytes", 1),
    ("byte", 1),
    ("b", 1),
];
/// Maximum number of digits before and after the point.
const MAX_DIGITS: usize = 12;

/// Returns the bytes of a size, rounded up to a whole byte.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) fn bytes(text: &str, plain: Plain, unit: u64) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(digits) = lower.strip_prefix("0x").filter(|digits| !digits.starts_with('+')) {
        return u64::from_str_radix(digits, 16).map_err(|_| not_a_size(text));
    }
    let plain_bytes = if plain == Plain::Units { unit } else { 1 };
    let (number, scale) = SUFFIXES
        .iter()
        .find_map(|(suffix, scale)| Some((lower.strip_suffix(suffix)?, *scale)))
        .unwrap_or((&lower, plain_bytes));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |digits: &str| {
        digits.len() <= MAX_DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit())
    };
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return Err(not_a_size(text));
    }
    let digits =
        |text: &str| text.bytes().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    let tens = 10_u128.pow(fraction.len() as u32);
    let scaled = (digits(whole) * tens + digits(fraction)) * u128::from(scale);
    u64::try_from(scaled.div_ceil(tens)).map_err(|_| format!("{} is too large.", quoted(text)))
}

fn not_a_size(text: &str) -> String {
    format!("{} is not a size. Sizes are 3, 850B, 3.6K or 0x400.", quoted(text))
}

/// Returns a number of things: `1 object`, `2 objects`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Returns `bytes` as a short text: `4K`, `3.6K`, `850B`. A fraction is rounded to one digit.
pub(crate) fn short(bytes: u64) -> String {
    let (scale, suffix) = match bytes {
        0x4000_0000.. => (1_u64 << 30, "G"),
        0x10_0000.. => (1 << 20, "M"),
        0x400.. => (1 << 10, "K"),
        0 => return "0".into(),
        _ => (1, "B"),
    };
    let tenths = (u128::from(bytes) * 10 + u128::from(scale / 2)) / u128::from(scale);
    match tenths % 10 {
        // `1K` for 1025 bytes would look like a whole block.
        0 if bytes % scale != 0 => format!("{bytes}B"),
        0 => format!("{}{suffix}", tenths / 10),
        tenth => format!("{}.{tenth}{suffix}", tenths / 10),
    }
}

/// Returns `bytes` as an exact text with the largest suffix that divides them: `4K`, `4033K`.
/// Offsets need it: rounded ones would not tell two blocks apart.
pub(crate) fn exact(bytes: u64) -> String {
    let suffixes = [(1_u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match suffixes.into_iter().find(|(scale, _)| bytes % scale == 0) {
        _ if bytes == 0 => "0".into(),
        Some((scale, suffix)) => format!("{}{suffix}", bytes / scale),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_bytes_and_plain_numbers_are_what_the_caller_says() {
        let size = |text| bytes(text, Plain::Units, 1024);
        assert_eq!(size("3"), Ok(3072));
        assert_eq!(size("3.6K"), Ok(3687)); // 3686.4
        assert_eq!(size("850B"), Ok(850));
        assert_eq!(
            size("1.5 "),
            Err("\"1.5 \" is not a size. Sizes are 3, 850B, 3.6K or 0x400.".into())
        );
        assert_eq!(size("2MiB"), Ok(2 << 20));
        assert_eq!(size("0xC00"), Ok(3072));
        assert_eq!(bytes("850", Plain::Bytes, 1024), Ok(850));
    }

    #[test]
    fn absurd_sizes_are_refused_with_a_sentence() {
        for text in [
            "",
            ".",
            "-1",
            "1e9",
            "K",
            "1.2.3",
            "0x",
            "0x+1",
            "0xfffffffffffffffff",
            "0x1K",
            "9999999999999",
            "NaN",
            "\u{660}",
        ] {
            let refused = bytes(text, Plain::Units, 1024).expect_err(text);
            assert!(refused.ends_with('.'), "{refused}");
        }
        assert_eq!(
            bytes("999999999999G", Plain::Bytes, 1),
            Err("\"999999999999G\" is too large.".into())
        );
    }

    #[test]
    fn exact_texts_name_the_byte() {
        let sizes = [0, 850, 1 << 10, 4033 << 10, 4 << 20, 3 << 30, u64::MAX];
        let texts = ["0", "850B", "1K", "4033K", "4M", "3G", "18446744073709551615B"];
        assert_eq!(sizes.map(exact), texts);
    }

    #[test]
    fn short_texts_have_at_most_one_fraction_digit() {
        assert_eq!(
            [0, 850, 1024, 3687, 16 << 10, 3 << 20].map(short),
            ["0", "850B", "1K", "3.6K", "16K", "3M"]
        );
        assert_eq!(short(1025), "1025B");
    }
}
