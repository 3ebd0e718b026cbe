//! Why a recording was not imported.

use std::io;

use crate::input_error::InputError;

/// Why a recording was not taken over.
#[derive(Debug)]
pub enum ImportError {
    /// It is not one.
    Input(InputError),
    /// It could not be written.
    Output(io::Error),
}

impl From<InputError> for ImportError {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

impl From<io::Error> for ImportError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}
