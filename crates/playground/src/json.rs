//! Writes JSON, the format in which scenes answer the page.

use alloc::string::{String, ToString};
use core::fmt::Write;

/// An object or an array that is being written.
#[derive(Debug)]
pub(crate) struct Json {
    text: String,
    /// The character that ends it.
    end: char,
}

impl Json {
    /// Begins an object.
    pub(crate) fn object() -> Self {
        Self { text: '{'.to_string(), end: '}' }
    }

    /// Begins an array.
    pub(crate) fn array() -> Self {
        Self { text: '['.to_string(), end: ']' }
    }

    /// Makes an array of `values`.
    pub(crate) fn list<T>(
        values: impl IntoIterator<Item = T>,
        mut add: impl FnMut(&mut Self, T),
    ) -> Self {
        let mut list = Self::array();
        for value in values {
            add(&mut list, value);
        }
        list
    }

    fn comma(&mut self) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
    }

    fn key(&mut self, key: &str) {
        self.comma();
        push_quoted(&mut self.text, key);
        self.text.push(':');
    }

    /// Adds the member `key` with a number.
    pub(crate) fn number(mut self, key: &str, value: usize) -> Self {
        self.key(key);
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
        self
    }

    /// Adds the member `key` with a text.
    pub(crate) fn text(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        push_quoted(&mut self.text, value);
        self
    }

    /// Adds the member `key` with a truth value.
    pub(crate) fn flag(mut self, key: &str, value: bool) -> Self {
        self.key(key);
        self.text.push_str(if value { "true" } else { "false" });
        self
    }

    /// Adds the member `key` with another object or array.
    pub(crate) fn member(mut self, key: &str, value: Self) -> Self {
        self.key(key);
        self.text.push_str(&value.finish());
        self
    }

    /// Adds the member `key` with a text that is JSON already.
    pub(crate) fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.text.push_str(json);
        self
    }

    /// Adds the member `key`, if there is a value.
    pub(crate) fn maybe(self, key: &str, value: Option<Self>) -> Self {
        match value {
            Some(value) => self.member(key, value),
            None => self,
        }
    }

    /// Appends a number to an array.
    pub(crate) fn push_number(&mut self, value: usize) {
        self.comma();
        // Writing to a string cannot fail.
        let _ = write!(self.text, "{value}");
    }

    /// Appends a text to an array.
    pub(crate) fn push_text(&mut self, value: &str) {
        self.comma();
        push_quoted(&mut self.text, value);
    }

    /// Appends an object or array to an array.
    pub(crate) fn push(&mut self, value: Self) {
        self.comma();
        self.text.push_str(&value.finish());
    }

    /// Returns the text.
    pub(crate) fn finish(mut self) -> String {
        self.text.push(self.end);
        self.text
    }
}

/// Makes an array of texts.
pub(crate) fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> Json {
    Json::list(values, |list, value| list.push_text(value.as_ref()))
}

/// Makes an array of numbers.
pub(crate) fn numbers(values: impl IntoIterator<Item = usize>) -> Json {
    Json::list(values, Json::push_number)
}

/// Appends `text` as a JSON string. `<` is escaped too, so that the text may stand in a page.
fn push_quoted(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '<' | '\0'..='\x1f' | '\u{2028}' | '\u{2029}' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_elements_are_separated_by_commas() {
        let inner = Json::list([1, 2], |list, value| list.push_number(value));
        let json = Json::object().number("a", 1).member("b", inner).flag("c", false);
        assert_eq!(json.finish(), r#"{"a":1,"b":[1,2],"c":false}"#);
        assert_eq!(texts(["x", "y"]).finish(), r#"["x","y"]"#);
        assert_eq!(Json::array().finish(), "[]");
    }

    #[test]
    fn text_cannot_end_its_string_or_a_script_element() {
        let json = Json::object().text("t", "\"\\\n\u{1}</script>\u{2028}");
        assert_eq!(json.finish(), r#"{"t":"\"\\\n\u0001\u003c/script>\u2028"}"#);
    }
}
