//! The result of a check of the bytes around an object: the first byte that has changed.

/// A byte around an object that a stray write has changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) address: usize,
    /// The value of the byte before the stray write; `None` if it depends on the secret.
    pub(crate) expected: Option<u8>,
    pub(crate) found: u8,
}
