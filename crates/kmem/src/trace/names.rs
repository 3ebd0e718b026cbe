//! The table of names in a trace: each number is given a name once, before its first use.

use crate::input_error::{Mismatch, quoted};
use crate::picture::text::printable;

/// Numbers of names are less than this, so that a table stays small for any input.
pub const MAX_NAMES: u32 = 65_536;

/// Maximum length of a name in bytes: with [`MAX_NAMES`] it bounds the names of a table to 16 MiB.
pub const MAX_NAME_BYTES: usize = 256;

/// Names by number.
#[derive(Debug, Default)]
pub struct Names {
    by_id: Vec<Option<Box<str>>>,
}

impl Names {
    /// Returns the name given to `id`.
    pub fn name(&self, id: u32) -> Option<&str> {
        self.by_id.get(id as usize)?.as_deref()
    }

    /// Gives `id` the name `text`. Bytes that are not UTF-8 or not printable are escaped.
    ///
    /// # Errors
    /// When the name is too long, or `id` has a different name.
    pub(super) fn define(&mut self, id: u32, text: &[u8]) -> Result<(), Mismatch> {
        if text.len() > MAX_NAME_BYTES {
            return Err(Mismatch::new("a name of at most 256 bytes", quoted(text)));
        }
        let text = shown(text);
        let index = id as usize;
        if self.by_id.len() <= index {
            self.by_id.resize(index + 1, None);
        }
        match &self.by_id[index] {
            Some(known) if **known != *text => {
                let expected = format!("{} for number {id} again", quoted(known.as_bytes()));
                Err(Mismatch::new(expected, quoted(text.as_bytes())))
            }
            Some(_) => Ok(()),
            None => {
                self.by_id[index] = Some(text.into_boxed_str());
                Ok(())
            }
        }
    }
}

/// Names go to terminals and into files of lines, so control bytes do not survive. Blanks do: the
/// kernel writes them too.
fn shown(text: &[u8]) -> String {
    match std::str::from_utf8(text) {
        Ok(text) => printable(text),
        Err(_) => text.escape_ascii().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_be_repeated_but_not_changed() {
        let mut names = Names::default();
        names.define(7, b"filp").expect("the number is new");
        names.define(7, b"filp").expect("the name is the same");
        assert!(names.define(7, b"dentry").is_err());
        assert_eq!(names.name(7), Some("filp"));
        assert_eq!((names.name(6), names.name(8)), (None, None));
    }

    #[test]
    fn names_hold_no_control_bytes() {
        assert_eq!(shown(b"a b\x1b\xff"), "a b\\x1b\\xff");
        assert_eq!(shown("ä, \"b\" \\\u{202e}".as_bytes()), "ä, \"b\" \\\\u{202e}");
    }

    #[test]
    fn the_longest_name_is_taken_and_one_byte_more_is_not() {
        let mut names = Names::default();
        names.define(0, &[b'n'; MAX_NAME_BYTES]).expect("within the limit");
        assert!(names.define(1, &[b'n'; MAX_NAME_BYTES + 1]).is_err());
    }
}
