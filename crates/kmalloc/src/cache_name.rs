//! The names of the caches of classes, in the kernel's form: `kmalloc-96`, `kmalloc-2k`.

use core::fmt::{self, Write};

use crate::class::ClassIndex;

/// Returns the name of the cache of `class`, in the kernel's form: `kmalloc-96`, `kmalloc-2k`.
pub(crate) fn cache_name(class: ClassIndex) -> NameBuffer {
    let mut name = NameBuffer { bytes: [0; 16], length: 0 };
    let size = class.size();
    let written = match size % 1024 {
        0 => write!(name, "kmalloc-{}k", size / 1024),
        _ => write!(name, "kmalloc-{size}"),
    };
    written.expect("a class has at most five digits");
    name
}

/// A short text without a heap.
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

    #[test]
    fn every_class_has_a_name_and_no_two_the_same() {
        let name = |bytes| {
            let class = ClassIndex::for_size(bytes).expect("a class");
            cache_name(class)
        };
        assert_eq!(name(96).as_str(), "kmalloc-96");
        assert_eq!(name(2048).as_str(), "kmalloc-2k");
        assert_eq!(name(1280).as_str(), "kmalloc-1280");
        let pairs = ClassIndex::all().zip(ClassIndex::all().skip(1));
        for (one, other) in pairs {
            assert_ne!(cache_name(one).as_str(), cache_name(other).as_str());
        }
    }
}
