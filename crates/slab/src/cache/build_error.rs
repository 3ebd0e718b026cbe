//! Why a cache cannot be built.

use core::fmt;

use page_frame::{Order, OutOfMemory};

use crate::slabs::layout::geometry::GeometryError;

/// The reason why a cache cannot be built.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use page_frame::Order;
/// use slab::{BuildError, GeometryError};
/// let none = registry.cache("none", Layout::new::<()>()).build();
/// assert_eq!(none.unwrap_err(), BuildError::Geometry(GeometryError::ZeroSize));
/// let large = registry.cache("large", Layout::new::<[u8; 20_000]>()).max_order(Order::ZERO);
/// match large.build() {
///     Err(BuildError::OrderTooSmall { needed, .. }) => assert_eq!(needed.pages(), 8),
///     other => panic!("{other:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// No slab can hold such objects.
    Geometry(GeometryError),
    /// Not one object fits into the largest slab that was allowed.
    OrderTooSmall {
        /// The order that one object needs.
        needed: Order,
        /// The order that was allowed.
        allowed: Order,
    },
    /// There was no memory for the cache; or an interrupt tried to build it and found the
    /// registry's lock held.
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
