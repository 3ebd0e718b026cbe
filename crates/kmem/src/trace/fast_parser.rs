//! A fast path for ordinary event lines: parses them without a loop over their bytes.
//!
//! A line that is in any way unusual is left to [`parse`](super::line::parse), which defines the
//! format and reports errors. For every line that this file accepts, `parse` returns the same.
//!
//! # Concepts
//! A *window* is the first 64 bytes from the start of a line. Two 64-bit masks mark which of these
//! bytes are commas and which are line breaks. So the line's end is known before its fields are
//! read, no field depends on the value of another, and a CPU processes several in parallel. Digits
//! are turned into a number eight at a time (Lamport 1975, "Multiple byte processing with full-word
//! instructions").

use std::num::NonZeroU64;

use super::event::{Action, MAX_CPUS, MAX_ORDER};
use super::line::Line;
use super::names::MAX_NAMES;

/// Number of bytes examined from the start of a line. A line that needs more is unusual.
pub(super) const WINDOW_BYTES: usize = 64;
/// Minimum length of the text in bytes: a read that starts in the window may end 16 bytes after it.
pub(super) const BYTES_NEEDED: usize = WINDOW_BYTES + 16;

/// Larger addresses and frame numbers are left to `parse`. Up to this limit no object, whose size
/// has at most eight digits here, ends beyond the address space.
const MAX_HEXADECIMAL: u64 = 0x7000_0000_0000;
const MAX_MIGRATETYPE: u64 = 15;

/// Returns `byte`, eight times.
const fn splat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Reads the event that `text` begins with, and returns how many bytes its line has, with the line
/// break. `None` means that `parse` must read the line.
///
/// `SITES` is for traces whose allocations may name a call site at their end. Without it such lines
/// are left to `parse`, and the others take fewer instructions.
#[inline(always)]
pub(super) fn event<const SITES: bool>(text: &[u8]) -> Option<(Line<'static>, usize)> {
    let text: &[u8; BYTES_NEEDED] = text.first_chunk()?;
    let (commas, line_breaks) = masks(text.first_chunk()?);
    let line_breaks = NonZeroU64::new(line_breaks)?;
    let line_bytes = line_breaks.trailing_zeros() + 1;
    // The delimiters of this line: its commas and its line break.
    let line_break = line_breaks.get() & line_breaks.get().wrapping_neg();
    let delimiters = (commas & (line_break - 1)) | line_break;
    let mut fields = Fields { text, delimiters, start: 0, wrong: 0 };
    fields.skip(1);
    let delta_ns = fields.decimal(u64::MAX);
    let cpu = fields.decimal(u64::from(MAX_CPUS) - 1) as u16;
    let (action, gfp, site) = match text[0] {
        kind @ (b'a' | b'A') => {
            let object = fields.hexadecimal(MAX_HEXADECIMAL);
            let requested_bytes = fields.decimal(u64::MAX);
            let allocated_bytes = fields.decimal(u64::MAX);
            fields.refuse_less(requested_bytes, 1);
            fields.refuse_less(allocated_bytes, requested_bytes);
            let gfp = fields.decimal(u64::from(MAX_NAMES) - 1) as u32;
            let site = fields.decimal(u64::from(MAX_NAMES) - 1) as u32;
            let (requested_bytes, allocated_bytes) =
                (requested_bytes as u32, allocated_bytes as u32);
            let action = match kind {
                b'a' => Action::AllocateBytes { object, requested_bytes, allocated_bytes, site },
                _ => {
                    let (cache, mut site) = (site, site as u16);
                    if SITES && fields.has_more() {
                        site = fields.decimal(u64::from(MAX_NAMES) - 1) as u16;
                    }
                    Action::AllocateObject { object, requested_bytes, allocated_bytes, cache, site }
                }
            };
            (action, Some(gfp), Some(site))
        }
        b'f' | b'F' => {
            let object = fields.hexadecimal(MAX_HEXADECIMAL);
            (Action::FreeObject { object }, None, None)
        }
        b'p' => {
            let frame = fields.hexadecimal(MAX_HEXADECIMAL);
            let order = fields.decimal(MAX_ORDER.into()) as u8;
            let migratetype = fields.decimal(MAX_MIGRATETYPE) as u8;
            let gfp = fields.decimal(u64::from(MAX_NAMES) - 1) as u32;
            let (gfp_number, mut site) = (gfp as u16, None);
            if SITES && fields.has_more() {
                site = Some(fields.decimal(u64::from(MAX_NAMES) - 1) as u16);
            }
            let action = Action::AllocatePages { frame, order, migratetype, gfp: gfp_number, site };
            (action, Some(gfp), site.map(u32::from))
        }
        b'P' => {
            let frame = fields.hexadecimal(MAX_HEXADECIMAL);
            let order = fields.decimal(MAX_ORDER.into()) as u8;
            (Action::FreePages { frame, order }, None, None)
        }
        _ => return None,
    };
    // The last field ends at the line break only if the line has exactly as many fields as taken.
    let is_good = fields.wrong == 0 && fields.start == line_bytes;
    is_good.then_some((Line::Event { delta_ns, cpu, action, gfp, site }, line_bytes as usize))
}

/// The fields of a line that are not read yet. A field that is not valid sets bits of `wrong`,
/// which the caller checks once at the end.
struct Fields<'w> {
    text: &'w [u8; BYTES_NEEDED],
    /// A bit for each delimiter that ends a field not read yet.
    delimiters: u64,
    /// Where the next field begins, at most one after the window's end.
    start: u32,
    wrong: u64,
}

impl Fields<'_> {
    /// Takes a field and returns how many bytes it has. After the last delimiter the result is
    /// meaningless, and `start` is beyond the window.
    #[inline(always)]
    fn take(&mut self) -> u32 {
        let end = self.delimiters.trailing_zeros();
        let length = end.wrapping_sub(self.start);
        self.delimiters &= self.delimiters.wrapping_sub(1);
        self.start = end + 1;
        length
    }

    /// Returns whether there is a field not read yet.
    #[inline(always)]
    fn has_more(&self) -> bool {
        self.delimiters != 0
    }

    /// Takes a field of exactly `length` bytes.
    #[inline(always)]
    fn skip(&mut self, length: u32) {
        self.wrong |= u64::from(self.take() ^ length);
    }

    /// Refuses the line if `value` is less than `least`. Both have at most eight digits, so a
    /// negative difference sets the highest bit.
    #[inline(always)]
    fn refuse_less(&mut self, value: u64, least: u64) {
        self.wrong |= value.wrapping_sub(least) >> 63;
    }

    /// Refuses a number whose digits are not 1 to 8 bytes long.
    #[inline(always)]
    fn refuse_length(&mut self, length: u32) {
        self.wrong |= u64::from(length.wrapping_sub(1) & !7);
    }

    /// Refuses the line if `value` is more than `max`, a constant.
    #[inline(always)]
    fn refuse_more(&mut self, value: u64, max: u64) {
        self.wrong |= match max & max.wrapping_add(1) {
            // One less than a power of two.
            0 => value & !max,
            _ => u64::from(value > max),
        };
    }

    /// The eight bytes at `at`, the first one in the least significant byte.
    #[inline(always)]
    fn word(&self, at: u32) -> u64 {
        let at = (at as usize).min(BYTES_NEEDED - 8);
        let bytes = self.text[at..].first_chunk().expect("`at` leaves eight bytes");
        u64::from_le_bytes(*bytes)
    }

    /// Takes a number of up to eight decimal digits, at most `max`.
    #[inline(always)]
    fn decimal(&mut self, max: u64) -> u64 {
        let start = self.start;
        let length = self.take();
        self.refuse_length(length);
        // The digits' values, the last one in the most significant byte, zeros in unused low bytes.
        let values =
            (self.word(start) ^ splat(0x30)) << (64_u32.wrapping_sub(length.wrapping_mul(8)) & 63);
        // Adding 0x76 sets the highest bit of a byte above nine, unless it was set before.
        self.wrong |= (values | values.wrapping_add(splat(0x76))) & splat(0x80);
        // Neighbours become numbers of two, four and eight digits: left times 10^n, plus right.
        let pairs = (values.wrapping_mul((10 << 8) | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
        let fours = (pairs.wrapping_mul((100 << 16) | 1) >> 16) & 0x0000_ffff_0000_ffff;
        let value = fours.wrapping_mul((10_000 << 32) | 1) >> 32;
        self.refuse_more(value, max);
        value
    }

    /// Takes a number of up to sixteen hexadecimal digits, in lower case, at most `max`.
    #[inline(always)]
    fn hexadecimal(&mut self, max: u64) -> u64 {
        let start = self.start;
        let length = self.take();
        let mut value = 0;
        let (mut at, mut left) = (start, length);
        // A recording's addresses have more than eight digits, its frames fewer: the
        // branch is predicted well.
        if length > 8 {
            value = self.eight_hexadecimal(self.word(start) ^ splat(0x30));
            (at, left) = (start + 8, length - 8);
        }
        let digits =
            (self.word(at) ^ splat(0x30)) << (64_u32.wrapping_sub(left.wrapping_mul(8)) & 63);
        value = value << (left.wrapping_mul(4) & 63) | self.eight_hexadecimal(digits);
        self.refuse_length(left);
        self.refuse_more(value, max);
        value
    }

    /// Returns the value of eight digits, each without its 0x30, the first one in the least
    /// significant byte.
    #[inline(always)]
    fn eight_hexadecimal(&mut self, digits: u64) -> u64 {
        // `a` to `f` without their 0x30 are 0x51 to 0x56.
        let letters = (digits >> 6) & splat(1);
        let low = digits ^ (0x50 * letters);
        let values = low.wrapping_add(9 * letters);
        // Valid when the high half of each byte is zero, and the bytes above nine are the letters.
        let is_letter = values.wrapping_add(splat(6)) & splat(0x10);
        self.wrong |= (low | values) & splat(0xf0) | (is_letter ^ letters << 4);
        let pairs = ((values << 4) | (values >> 8)) & 0x00ff_00ff_00ff_00ff;
        let fours = ((pairs << 8) | (pairs >> 16)) & 0x0000_ffff_0000_ffff;
        ((fours << 16) | (fours >> 32)) & 0xffff_ffff
    }
}

/// Returns two masks, of commas and of line breaks; bit `i` stands for byte `i`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn masks(window: &[u8; WINDOW_BYTES]) -> (u64, u64) {
    use core::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};

    #[target_feature(enable = "sse2")]
    #[inline]
    fn masks(window: &[u8; WINDOW_BYTES]) -> (u64, u64) {
        let (mut commas, mut line_breaks) = (0, 0);
        for (index, sixteen) in window.chunks_exact(16).enumerate() {
            let sixteen = *sixteen.first_chunk().expect("each chunk has sixteen bytes");
            let sixteen = u128::from_le_bytes(sixteen);
            let sixteen = _mm_set_epi64x((sixteen >> 64) as i64, sixteen as i64);
            let mask = |byte: u8| {
                let equal = _mm_cmpeq_epi8(sixteen, _mm_set1_epi8(byte as i8));
                u64::from(_mm_movemask_epi8(equal) as u16) << (16 * index)
            };
            commas |= mask(b',');
            line_breaks |= mask(b'\n');
        }
        (commas, line_breaks)
    }

    // SAFETY: every processor of this architecture has SSE2.
    unsafe { masks(window) }
}

/// Returns two masks, of commas and of line breaks; bit `i` stands for byte `i`.
#[cfg(not(target_arch = "x86_64"))]
fn masks(window: &[u8; WINDOW_BYTES]) -> (u64, u64) {
    let mask = |wanted: u8| {
        let bits = window.iter().enumerate().map(|(at, byte)| u64::from(*byte == wanted) << at);
        bits.fold(0, |mask, bit| mask | bit)
    };
    (mask(b','), mask(b'\n'))
}

#[cfg(test)]
mod tests {
    use super::super::line::parse;
    use super::super::source::Text;
    use super::*;

    /// Reads `line` by the fast path, followed by bytes that could be taken for more digits.
    fn read(line: &str) -> Option<(Line<'static>, usize)> {
        let mut text = format!("{line}\n").into_bytes();
        text.resize(text.len().max(BYTES_NEEDED) + 16, b'1');
        let with = event::<true>(&text);
        // Without call sites the same lines are read, or fewer.
        assert!(event::<false>(&text).is_none_or(|without| Some(without) == with));
        with
    }

    #[test]
    fn ordinary_lines_are_accepted_and_parsed_as_parse_does() {
        for line in [
            "a,5,1,10441f020,24,32,2,7",
            "A,99999999,1023,6fffffffffff,1,99999999,65535,65535",
            "A,0,0,0,1,1,0,0",
            "f,5,0,80",
            "F,12345678,17,0123456789ab",
            "p,17578,1,17798d,3,0,3",
            "p,1,0,700000000000,18,15,65535",
            "p,17578,1,17798d,3,0,3,65535",
            "A,5,1,10441f020,24,32,2,7,9",
            "P,17578,1,cdef,18",
        ] {
            let quick = read(line).unwrap_or_else(|| panic!("{line} is usual"));
            assert_eq!(Ok(quick.0), parse(line.as_bytes()), "{line}");
            assert_eq!(quick.1, line.len() + 1);
        }
    }

    #[test]
    fn a_recording_has_hardly_any_lines_that_are_left_to_parse() {
        let mut source = crate::bundled::source().expect("it is built in");
        let (mut text, mut part) = (Vec::new(), vec![0; 1 << 20]);
        while let read @ 1.. = source.read(&mut part).expect("it can be decoded") {
            text.extend_from_slice(&part[..read]);
        }
        let (mut at, mut lines, mut quick) = (0, 0, 0);
        while let Some(length) = memchr::memchr(b'\n', &text[at..]) {
            lines += 1;
            if let Some((event, quick_length)) = event::<false>(&text[at..]) {
                quick += 1;
                assert_eq!((Ok(event), quick_length), (parse(&text[at..at + length]), length + 1));
            }
            at += length + 1;
        }
        assert!(lines > 800_000 && quick * 100 > lines * 98, "{quick} of {lines}");
    }

    #[test]
    fn values_out_of_range_are_left_to_parse() {
        for line in [
            "",
            "f",
            "f,0,0",
            "f,0,0,",
            "f,0,,0",
            "f,,0,0",
            "f,0,0,0,0",
            "ff,0,0,0",
            "f,100000000,0,0",
            "f,0,1024,0",
            "f,0,0,700000000001",
            "f,0,0,00000000000000000",
            "f,0,0,0\r",
            "f,0,0,0G",
            "a,0,0,0,0,1,0,0",
            "a,0,0,0,8,7,0,0",
            "a,0,0,0,8,8,65536,0",
            "a,0,0,0,8,8,0,65536",
            "a,0,0,0,8,8,0,0,0",
            "A,0,0,0,8,8,0,0,65536",
            "A,0,0,0,8,8,0,0,",
            "A,0,0,0,8,8,0,0,0,0",
            "p,0,0,0,0,0,0,x",
            "P,0,0,0,19",
            "p,0,0,0,0,16,0",
            "x,1,0,2a00,0,9,0,1",
            "!s,1,2,3",
            "#,1,2,3",
            "f,0,0,0000000000000000000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(read(line), None, "{line}");
        }
        assert_eq!(event::<true>(b"f,0,0,0\n"), None, "too few bytes to look at");
    }

    #[test]
    fn every_byte_in_every_place_of_a_field_is_parsed_as_parse_does() {
        for line in ["f,12345678,17,789abcdef123", "P,1,0,12345678,9", "a,5,1,10441f020,24,32,2,7"]
        {
            for at in 0..line.len() {
                // A line break would make two lines of it.
                for byte in (0..=u8::MAX).filter(|byte| *byte != b'\n') {
                    let mut spoilt = line.as_bytes().to_vec();
                    spoilt[at] = byte;
                    let expected = spoilt.clone();
                    spoilt.resize(BYTES_NEEDED + 40, b'\n');
                    if let Some((quick, length)) = event::<true>(&spoilt) {
                        assert_eq!((Ok(quick), length), (parse(&expected), line.len() + 1));
                    } else if byte.is_ascii_digit() && line.as_bytes()[at].is_ascii_digit() {
                        // A digit in place of another seldom makes a number exceed its range.
                        let is_edge = parse(&expected).is_err() || line.starts_with('f') && at > 13;
                        assert!(is_edge, "{}", String::from_utf8_lossy(&expected));
                    }
                }
            }
        }
    }
}
