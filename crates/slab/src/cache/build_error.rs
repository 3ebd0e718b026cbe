//! Why a cache cannot be built.

use core::fmt;

use page_frame::{Order, OutOfMemory};

use crate::slabs::geometry::GeometryError;

/// Why there is no such cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// There is no slab for such objects.
    Geometry(GeometryError),
    /// Not one object fits into the largest slab that was allowed.
    OrderTooSmall {
        /// The order that one object needs.
        needed: Order,
        /// The order that was allowed.
        allowed: Order,
    },
    /// There was no memory for the cache; or it was to be built in an interrupt that came upon the
    /// registry's lock.
    OutOfMemory,
}

impl BuildError {
    /// Says what is wrong with a size and an alignment that make no layout.
    pub(crate) fn bad_layout(size: usize, alignment: usize) -> Self {
        Self::Geometry(if alignment.is_power_of_two() {
            GeometryError::TooLarge { size, alignment }
        } else {
            GeometryError::NotPowerOfTwo { alignment }
        })
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Geometry(error) => error.fmt(f),
            Self::OrderTooSmall { needed, allowed } => {
                let (needed, allowed) = (needed.get(), allowed.get());
                write!(f, "an object needs a slab of order {needed}, order {allowed} is allowed")
            }
            Self::OutOfMemory => OutOfMemory.fmt(f),
        }
    }
}

impl core::error::Error for BuildError {}
