//! Names of caches, written without a heap.

use core::fmt::{self, Write};

/// Returns the name of the cache for objects of `size` bytes as Linux writes it: `kmalloc-96`,
/// `kmalloc-2k`.
pub(crate) fn cache_name(size: usize) -> NameBuffer {
    let mut name = NameBuffer { bytes: [0; 16], length: 0 };
    let written = match size % 1024 {
        0 => write!(name, "kmalloc-{}k", size / 1024),
        _ => write!(name, "kmalloc-{size}"),
    };
    written.expect("sizes of classes have at most five digits");
    name
}

/// A text of at most 16 bytes.
pub(crate) struct NameBuffer {
    bytes: [u8; 16],
    length: usize,
}

impl NameBuffer {
    pub(crate) fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).expect("only text was written")
    }
}

impl Write for NameBuffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classes::class::ClassIndex;

    #[test]
    fn every_class_has_a_name_and_no_two_the_same() {
        let name = |bytes| {
            let class = ClassIndex::for_size(bytes).expect("a class");
            cache_name(class.size())
        };
        assert_eq!(name(96).as_str(), "kmalloc-96");
        assert_eq!(name(2048).as_str(), "kmalloc-2k");
        assert_eq!(name(1280).as_str(), "kmalloc-1280");
        let pairs = ClassIndex::all().zip(ClassIndex::all().skip(1));
        for (one, other) in pairs {
            assert_ne!(cache_name(one.size()).as_str(), cache_name(other.size()).as_str());
        }
    }
}
