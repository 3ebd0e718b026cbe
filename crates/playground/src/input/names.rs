//! Names of blocks: those that a script gives, and those for blocks without one.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};

use crate::input::complaint::quoted;
use crate::input::limits::MAX_NAME;

/// Checks that `text` can be a name: a letter, then letters, digits and underscores.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) fn check(text: &str) -> Result<&str, String> {
    let begins = text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic());
    let goes_on = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if begins && goes_on && text.len() <= MAX_NAME {
        return Ok(text);
    }
    Err(format!(
        "{} is not a name. Names begin with a letter and have at most {MAX_NAME} letters and digits.",
        quoted(text)
    ))
}

/// The names that a script has used.
#[derive(Debug, Default)]
pub(crate) struct UsedNames {
    used: BTreeSet<String>,
    /// Every automatic name with a smaller number is used.
    next: usize,
}

impl UsedNames {
    /// Records `name`.
    pub(crate) fn insert(&mut self, name: &str) {
        self.used.insert(name.to_string());
        while self.used.contains(&automatic(self.next)) {
            self.next += 1;
        }
    }

    /// Returns the first automatic name that is not used.
    pub(crate) fn fresh(&self) -> String {
        automatic(self.next)
    }
}

/// Returns the automatic name `number`: A to Z, then A1 to Z1, and so on.
fn automatic(number: usize) -> String {
    let letter = char::from(b'A' + (number % 26) as u8);
    match number / 26 {
        0 => letter.to_string(),
        round => format!("{letter}{round}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_names_skip_those_in_use() {
        let mut names = UsedNames::default();
        assert_eq!(names.fresh(), "A");
        for name in ["B", "A", "x"] {
            names.insert(name);
        }
        assert_eq!(names.fresh(), "C");
        ('C'..='Z').for_each(|letter| names.insert(&letter.to_string()));
        assert_eq!(names.fresh(), "A1");
    }

    #[test]
    fn names_begin_with_a_letter_and_are_short() {
        assert_eq!(check("A_1"), Ok("A_1"));
        for text in ["", "1A", "A-B", "\u{e9}", "ABCDEFGHIJKLMNOPQ"] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
