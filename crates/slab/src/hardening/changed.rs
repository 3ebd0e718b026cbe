//! What a check of the bytes around an object finds.

/// A byte around an object that a stray write has changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    pub(crate) address: usize,
    /// The byte that should be there; `None` where it is secret.
    pub(crate) expected: Option<u8>,
    pub(crate) found: u8,
}
