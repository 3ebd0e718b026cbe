//! Reads one line of a compact trace. Allocates nothing, copies nothing.
//!
//! The caller decides what depends on other lines: the line number, and whether a name was defined
//! before. Everything else is decided here. An [`Unexpected`] names the expected text and the bytes
//! found instead.

use super::comment::{Comment, comment};
use super::digits::DIGITS;
use super::event::{ADDRESS_BASE, Action, MAX_CPUS, MAX_FRAMES, MAX_ORDER, MAX_REQUEST_BYTES};
use super::losses::Losses;
use super::names::MAX_NAMES;
pub use super::unexpected::Unexpected;

/// The highest migratetype accepted. Today's kernels have six types.
const MAX_MIGRATETYPE: u64 = 15;

/// The expected text for a line of an unknown kind. It names `kmem import`, because the input may
/// be a raw recording.
const A_LINE: &str =
    "an event (a, A, f, F, p, P, x), !s, !g or #, as kmem import makes them of a recording";

/// One line, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// An event with the names it refers to.
    Event {
        /// Nanoseconds since the line before.
        delta_ns: u64,
        /// CPU, below [`MAX_CPUS`].
        cpu: u16,
        /// What happened.
        action: Action,
        /// Number of a gfp mask that has to be known.
        gfp: Option<u32>,
        /// Number of a call site or cache that has to be known; the call site of an
        /// [`Action::AllocateObject`] has to be, too.
        site: Option<u32>,
    },
    /// `x`: a page block changed its migratetype. Not replayed.
    FallbackNote {
        /// Nanoseconds since the line before.
        delta_ns: u64,
    },
    /// `!s,ID,TEXT`: a call site's or cache's name.
    SiteName {
        /// Number, below [`MAX_NAMES`].
        id: u32,
        /// Name, any bytes without a line break.
        text: &'a [u8],
    },
    /// `!g,ID,TEXT`: a gfp mask's name.
    GfpName {
        /// Number, below [`MAX_NAMES`].
        id: u32,
        /// Name, any bytes without a line break.
        text: &'a [u8],
    },
    /// `# lost N events` or `# lost events`: the recording lost events here.
    Lost(Losses),
    /// `# failed order N`: an allocation of pages failed in the recorded kernel.
    Failed(u8),
    /// Any other comment.
    Comment,
}

impl Line<'_> {
    /// Returns the line of a free, which refers to no names.
    pub(super) const fn freed(delta_ns: u64, cpu: u16, action: Action) -> Self {
        Self::Event { delta_ns, cpu, action, gfp: None, site: None }
    }
}

/// Reads `line`, which is one line without its line break.
///
/// # Errors
/// The first field that violates the format, with its valid range.
pub fn parse(line: &[u8]) -> Result<Line<'_>, Unexpected<'_>> {
    let (&kind, rest) = line
        .split_first()
        .ok_or(Unexpected { expected: "an event, a name or a comment", found: line })?;
    let fields = Fields { line, rest };
    match kind {
        b'A' => allocation(fields, true),
        b'F' | b'f' => object_free(fields),
        b'p' => page_allocation(fields),
        b'P' => page_free(fields),
        b'a' => allocation(fields, false),
        b'x' => fallback_note(fields),
        b'!' => name(fields),
        b'#' => Ok(match comment(line) {
            Comment::Lost(losses) => Line::Lost(losses),
            Comment::Failed(order) => Line::Failed(order),
            Comment::Other => Line::Comment,
        }),
        _ => Err(Unexpected { expected: A_LINE, found: line }),
    }
}

fn allocation(mut fields: Fields<'_>, from_cache: bool) -> Result<Line<'_>, Unexpected<'_>> {
    let (delta_ns, cpu) = fields.time_and_cpu()?;
    let object_field = fields.rest;
    let object = fields.address()?;
    let request_field = fields.rest;
    let requested_bytes = fields.request()?;
    let allocated_field = fields.rest;
    let allocated_bytes =
        fields.decimal("ALLOC, 1 to 1073741824 bytes", MAX_REQUEST_BYTES.into())? as u32;
    let gfp = fields.id("GFP, a number below 65536")?;
    let site = fields.id(if from_cache {
        "CACHE, a number below 65536"
    } else {
        "SITE, a number below 65536"
    })?;
    let other_site = if from_cache { fields.optional_site()? } else { None };
    fields.end()?;
    if requested_bytes == 0 {
        return Err(Unexpected::field("REQ, 1 to 1073741824 bytes", request_field));
    }
    if allocated_bytes < requested_bytes {
        return Err(Unexpected::field("an ALLOC not less than REQ", allocated_field));
    }
    if u64::MAX - ADDRESS_BASE - object < u64::from(allocated_bytes - 1) {
        return Err(Unexpected::field("a PTR whose object ends below 2^64", object_field));
    }
    let action = if from_cache {
        let (cache, site) = (site, other_site.unwrap_or(site) as u16);
        Action::AllocateObject { object, requested_bytes, allocated_bytes, cache, site }
    } else {
        Action::AllocateBytes { object, requested_bytes, allocated_bytes, site }
    };
    Ok(Line::Event { delta_ns, cpu, action, gfp: Some(gfp), site: Some(site) })
}

fn object_free(mut fields: Fields<'_>) -> Result<Line<'_>, Unexpected<'_>> {
    let (delta_ns, cpu) = fields.time_and_cpu()?;
    let object = fields.address()?;
    fields.end()?;
    Ok(Line::freed(delta_ns, cpu, Action::FreeObject { object }))
}

fn page_allocation(mut fields: Fields<'_>) -> Result<Line<'_>, Unexpected<'_>> {
    let (delta_ns, cpu) = fields.time_and_cpu()?;
    let frame = fields.frame()?;
    let order = fields.order()?;
    let migratetype = fields.decimal("MT, 0 to 15", MAX_MIGRATETYPE)? as u8;
    let gfp = fields.id("GFP, a number below 65536")?;
    let site = fields.optional_site()?;
    fields.end()?;
    let (gfp_number, site_number) = (gfp as u16, site.map(|site| site as u16));
    let action =
        Action::AllocatePages { frame, order, migratetype, gfp: gfp_number, site: site_number };
    Ok(Line::Event { delta_ns, cpu, action, gfp: Some(gfp), site })
}

fn page_free(mut fields: Fields<'_>) -> Result<Line<'_>, Unexpected<'_>> {
    let (delta_ns, cpu) = fields.time_and_cpu()?;
    let frame = fields.frame()?;
    let order = fields.order()?;
    fields.end()?;
    Ok(Line::freed(delta_ns, cpu, Action::FreePages { frame, order }))
}

fn fallback_note(mut fields: Fields<'_>) -> Result<Line<'_>, Unexpected<'_>> {
    let (delta_ns, _) = fields.time_and_cpu()?;
    fields.frame()?;
    fields.order()?;
    fields.order()?;
    fields.decimal("AMT, 0 to 15", MAX_MIGRATETYPE)?;
    fields.decimal("FMT, 0 to 15", MAX_MIGRATETYPE)?;
    fields.end()?;
    Ok(Line::FallbackNote { delta_ns })
}

fn name(mut fields: Fields<'_>) -> Result<Line<'_>, Unexpected<'_>> {
    let sites = match fields.rest.first() {
        Some(b's') => true,
        Some(b'g') => false,
        _ => return Err(Unexpected { expected: "!s or !g", found: fields.line }),
    };
    fields.rest = &fields.rest[1..];
    let id = fields.id("ID, a number below 65536")?;
    fields.comma("a comma and a name")?;
    let text = fields.rest;
    if text.is_empty() {
        return Err(Unexpected { expected: "a name", found: text });
    }
    Ok(if sites { Line::SiteName { id, text } } else { Line::GfpName { id, text } })
}

/// The unread rest of a line. Every field begins with the comma before it.
struct Fields<'a> {
    line: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn time_and_cpu(&mut self) -> Result<(u64, u16), Unexpected<'a>> {
        let delta_ns = self.number::<10>(i64::MAX as u64).ok_or_else(|| match self.rest {
            // A word that begins with the letter of an event.
            [byte, ..] if *byte != b',' => Unexpected { expected: A_LINE, found: self.line },
            rest => Unexpected::field("DT, nanoseconds below 2^63", rest),
        })?;
        Ok((delta_ns, self.decimal("CPU, 0 to 1023", u64::from(MAX_CPUS) - 1)? as u16))
    }

    fn address(&mut self) -> Result<u64, Unexpected<'a>> {
        self.hexadecimal("PTR, hexadecimal up to 777fffffffff", u64::MAX - ADDRESS_BASE)
    }

    fn frame(&mut self) -> Result<u64, Unexpected<'a>> {
        self.hexadecimal("PFN, hexadecimal up to ffffffffc0000", MAX_FRAMES - (1 << MAX_ORDER))
    }

    fn order(&mut self) -> Result<u8, Unexpected<'a>> {
        Ok(self.decimal("ORDER, 0 to 18", MAX_ORDER.into())? as u8)
    }

    fn request(&mut self) -> Result<u32, Unexpected<'a>> {
        Ok(self.decimal("REQ, 1 to 1073741824 bytes", MAX_REQUEST_BYTES.into())? as u32)
    }

    fn id(&mut self, expected: &'static str) -> Result<u32, Unexpected<'a>> {
        Ok(self.decimal(expected, u64::from(MAX_NAMES) - 1)? as u32)
    }

    /// Reads the call site at the end of a line, which traces of version 1 do not have.
    fn optional_site(&mut self) -> Result<Option<u32>, Unexpected<'a>> {
        match self.rest {
            [] => Ok(None),
            _ => self.id("SITE, a number below 65536").map(Some),
        }
    }

    #[inline(always)]
    fn decimal(&mut self, expected: &'static str, max: u64) -> Result<u64, Unexpected<'a>> {
        self.number::<10>(max).ok_or_else(|| Unexpected::field(expected, self.rest))
    }

    #[inline(always)]
    fn hexadecimal(&mut self, expected: &'static str, max: u64) -> Result<u64, Unexpected<'a>> {
        self.number::<16>(max).ok_or_else(|| Unexpected::field(expected, self.rest))
    }

    /// Reads a comma and a number of at most `max`, in as many digits as cannot overflow a word: 19
    /// decimal ones or 16 hexadecimal ones. So the sum needs no check, and one compare at its
    /// end decides.
    #[inline(always)]
    fn number<const RADIX: u8>(&mut self, max: u64) -> Option<u64> {
        let max_digits = if RADIX == 16 { 16 } else { 19 };
        let (b',', bytes) = self.rest.split_first()? else { return None };
        let mut value = 0_u64;
        let mut digits = 0;
        while let Some(&byte) = bytes.get(digits) {
            let digit = DIGITS[usize::from(byte)];
            if digit >= RADIX {
                // Any byte but a comma after the digits makes this field invalid.
                if byte != b',' {
                    return None;
                }
                break;
            }
            value = value.wrapping_mul(RADIX.into()).wrapping_add(digit.into());
            digits += 1;
        }
        if digits == 0 || digits > max_digits || value > max {
            return None;
        }
        self.rest = &bytes[digits..];
        Some(value)
    }

    fn comma(&mut self, expected: &'static str) -> Result<(), Unexpected<'a>> {
        match self.rest.split_first() {
            Some((b',', rest)) => {
                self.rest = rest;
                Ok(())
            }
            _ => Err(Unexpected::field(expected, self.rest)),
        }
    }

    fn end(&self) -> Result<(), Unexpected<'a>> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Unexpected { expected: "the end of the line", found: self.rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(line: &str) -> (&'static str, String) {
        let error = parse(line.as_bytes()).expect_err("the line is wrong");
        (error.expected, String::from_utf8_lossy(error.found).into_owned())
    }

    #[test]
    fn each_kind_is_read_field_by_field() {
        assert_eq!(
            parse(b"a,5,1,10441f020,24,32,2,7"),
            Ok(Line::Event {
                delta_ns: 5,
                cpu: 1,
                action: Action::AllocateBytes {
                    object: 0x1_0441_f020,
                    requested_bytes: 24,
                    allocated_bytes: 32,
                    site: 7
                },
                gfp: Some(2),
                site: Some(7)
            })
        );
        assert_eq!(
            parse(b"A,5,1,ff,184,192,0,2"),
            Ok(Line::Event {
                delta_ns: 5,
                cpu: 1,
                action: Action::AllocateObject {
                    object: 0xff,
                    requested_bytes: 184,
                    allocated_bytes: 192,
                    cache: 2,
                    site: 2
                },
                gfp: Some(0),
                site: Some(2)
            })
        );
        let free = Action::FreeObject { object: 0x80 };
        for line in [&b"f,5,0,80"[..], b"F,5,0,80"] {
            assert_eq!(parse(line), Ok(Line::freed(5, 0, free)));
        }
        let action =
            Action::AllocatePages { frame: 0x17798d, order: 3, migratetype: 0, gfp: 3, site: None };
        assert_eq!(
            parse(b"p,17578,1,17798d,3,0,3"),
            Ok(Line::Event { delta_ns: 17578, cpu: 1, action, gfp: Some(3), site: None })
        );
        let action = Action::FreePages { frame: 0x17798d, order: 3 };
        assert_eq!(parse(b"P,17578,1,17798d,3"), Ok(Line::freed(17578, 1, action)));
        assert_eq!(parse(b"x,1,0,2a00,0,9,0,1"), Ok(Line::FallbackNote { delta_ns: 1 }));
        assert_eq!(parse(b"!s,3,a,b"), Ok(Line::SiteName { id: 3, text: b"a,b" }));
        assert_eq!(parse(b"!g,0,GFP_KERNEL"), Ok(Line::GfpName { id: 0, text: b"GFP_KERNEL" }));
        assert_eq!(parse(b"#"), Ok(Line::Comment));
    }

    #[test]
    fn numbers_hold_on_both_edges_of_their_range() {
        for (good, bad, what) in [
            ("f,9223372036854775807,0,0", "f,9223372036854775808,0,0", "DT"),
            ("f,0,1023,0", "f,0,1024,0", "CPU"),
            ("f,0,0,777fffffffff", "f,0,0,778000000000", "PTR"),
            ("P,0,0,ffffffffc0000,18", "P,0,0,ffffffffc0001,18", "PFN"),
            ("P,0,0,0,18", "P,0,0,0,19", "ORDER"),
            ("a,0,0,0,1,1,0,0", "a,0,0,0,0,1,0,0", "REQ"),
            ("a,0,0,0,1073741824,1073741824,0,0", "a,0,0,0,1073741825,1073741825,0,0", "REQ"),
            ("a,0,0,0,8,8,0,0", "a,0,0,0,8,7,0,0", "ALLOC"),
            ("a,0,0,0,8,8,65535,0", "a,0,0,0,8,8,65536,0", "GFP"),
            ("a,0,0,0,8,8,0,65535", "a,0,0,0,8,8,0,65536", "SITE"),
            ("A,0,0,777ffffffff8,8,8,0,0", "A,0,0,777ffffffff9,8,8,0,0", "PTR"),
            ("p,0,0,0,0,15,0", "p,0,0,0,0,16,0", "MT"),
            ("!s,65535,x", "!s,65536,x", "ID"),
        ] {
            assert!(parse(good.as_bytes()).is_ok(), "{good}");
            assert!(expected(bad).0.contains(what), "{bad}: {:?}", expected(bad));
        }
        let digits = "9".repeat(100);
        assert_eq!(expected(&format!("f,0,0,{digits}")).1, digits);
    }

    #[test]
    fn the_field_that_is_wrong_is_the_one_named() {
        assert_eq!(expected("f,0,0,12g4"), ("PTR, hexadecimal up to 777fffffffff", "12g4".into()));
        assert_eq!(expected("f,-1,0,12").1, "-1");
        assert_eq!(expected("f,0,,12").1, "");
        assert_eq!(expected("f,0"), ("CPU, 0 to 1023", String::new()));
        assert_eq!(expected("f,0,0,12,3"), ("the end of the line", ",3".into()));
        assert_eq!(expected("f,0,0,12\r").1, "12\r");
        assert_eq!(expected("!z,0,x").0, "!s or !g");
        assert_eq!(expected("!s,0,").0, "a name");
        assert_eq!(expected("").1, "");
        assert_eq!(expected("f"), ("DT, nanoseconds below 2^63", String::new()));
        for no_event in ["q,0,0,12", "free,0,0,12", "PERFILE2", "pages 0"] {
            assert_eq!(expected(no_event), (A_LINE, no_event.into()));
        }
    }
}
