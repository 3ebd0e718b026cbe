//! Names of caches, copied so that they need not outlive anything.

use core::fmt;

/// A cache's name: up to [`CacheName::LONGEST`] bytes; longer ones are cut.
///
/// ```
/// use page_frame::CacheName;
/// let name = CacheName::new("inode");
/// assert_eq!((name.as_str(), format!("{name:>8}")), ("inode", "   inode".to_string()));
/// assert_eq!(CacheName::new(&"x".repeat(100)).as_str().len(), CacheName::LONGEST);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheName {
    bytes: [u8; Self::LONGEST],
    length: u8,
}

impl CacheName {
    /// The most bytes of a name. Example: see [`CacheName`].
    pub const LONGEST: usize = 31;

    /// Copies `name`, cut at a character boundary. Example: see [`CacheName`].
    pub fn new(name: &str) -> Self {
        let mut length = name.len().min(Self::LONGEST);
        while !name.is_char_boundary(length) {
            length -= 1;
        }
        let mut bytes = [0; Self::LONGEST];
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self { bytes, length: length as u8 }
    }

    /// Returns the name. Example: see [`CacheName`].
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)])
            .expect("`new` copied whole characters")
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        assert_eq!(CacheName::new("inode").as_str(), "inode");
        let long = "12345678901234567890123456789\u{e4}\u{e4}";
        assert_eq!(CacheName::new(long).as_str(), "12345678901234567890123456789\u{e4}");
        let longer = "123456789012345678901234567890\u{e4}";
        assert_eq!(CacheName::new(longer).as_str(), "123456789012345678901234567890");
    }
}
