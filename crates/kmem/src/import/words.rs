//! The fields of an event as text: `KEY=VALUE` after `KEY=VALUE`.

use super::Fields;

/// The keys of the kernel's kmem events.
const KEYS: [&str; 14] = [
    "call_site",
    "ptr",
    "name",
    "bytes_req",
    "bytes_alloc",
    "gfp_flags",
    "node",
    "accounted",
    "page",
    "pfn",
    "order",
    "migratetype",
    "cold",
    "nid",
];

/// `KEY=VALUE` after `KEY=VALUE`.
pub(super) struct Words<'t>(pub(super) &'t str);

/// Digits of a pointer as kernels of 32 and of 64 bits print it.
const POINTER_DIGITS: [usize; 2] = [8, 16];

impl Words<'_> {
    /// Returns whether the text ends in an address that has fewer digits than an address has, as
    /// that of a file that was cut.
    pub(super) fn ends_in_cut_address(&self) -> bool {
        let Some((_, last)) = self.0.rsplit_once(' ') else { return false };
        let Some(address) = last.strip_prefix("ptr=") else { return false };
        let digits = address.strip_prefix("0x").unwrap_or(address);
        digits.bytes().all(|byte| byte.is_ascii_hexdigit())
            && !POINTER_DIGITS.contains(&digits.len())
    }
}

impl<'t> Fields<'t> for Words<'t> {
    fn number(&self, name: &str, is_address: bool) -> Option<u64> {
        let text = self.text(name)?;
        match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None if is_address => u64::from_str_radix(text, 16).ok(),
            None => text.parse().ok(),
        }
    }

    fn text(&self, name: &str) -> Option<&'t str> {
        let value = self.0.match_indices(name).find_map(|(at, _)| {
            let is_key = at == 0 || self.0.as_bytes()[at - 1] == b' ';
            self.0[at + name.len()..].strip_prefix('=').filter(|_| is_key)
        })?;
        // A value may hold blanks: it ends where the next key begins.
        let end = value.match_indices(' ').find_map(|(at, _)| {
            let (key, _) = value[at + 1..].split_once('=')?;
            KEYS.contains(&key.trim_start()).then_some(at)
        });
        let value = value[..end.unwrap_or(value.len())].trim_end();
        // A symbol's size says nothing about the place.
        let symbol = value.split_once('/').filter(|_| name == "call_site");
        Some(symbol.map_or(value, |(place, _)| place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_caches_may_hold_blanks() {
        let words =
            Words("call_site=f,g \"x\" ptr=0x10 name=QIB user (0) bytes_req=104 gfp_flags=A|B");
        assert_eq!(words.text("name"), Some("QIB user (0)"));
        assert_eq!(words.text("call_site"), Some("f,g \"x\""));
        assert_eq!((words.text("gfp_flags"), words.text("order")), (Some("A|B"), None));
    }
}
