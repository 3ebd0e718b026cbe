//! Tags: one byte that describes a page.

use crate::order::Order;

/// One byte that describes a page.
///
/// | value | meaning |
/// |---|---|
/// | 0 | free, the tail of a block or run, or not in the map |
/// | 1 to 30 | head of a block of order value - 1 |
/// | 31 | first page of an area that is offline |
/// | 32 | head of a page run; its owner word is the page count |
/// | 33 | page of a slab; its owner is the slab's header |
/// | 64 to 191 | page of a slab of the size class value - 64; its owner is the slab's header |
/// | 192 to 221 | head of a deferred block of order value - 192: freed, not yet merged |
///
/// ```
/// use page_frame::{Order, Tag};
/// let order = Order::new(3).unwrap();
/// assert_eq!((Tag::block(order).as_block(), Tag::block(order).get()), (Some(order), 4));
/// assert_eq!(Tag::class(7).and_then(Tag::as_class), Some(7));
/// assert_eq!(Tag::class(Tag::CLASSES), None);
/// assert!(Tag::SLAB.is_slab() && Tag::SLAB.as_class().is_none());
/// assert!(Tag::deferred(order).as_deferred() == Some(order) && !Tag::deferred(order).is_slab());
/// assert_eq!([Tag::NONE, Tag::OFFLINE, Tag::RUN].map(Tag::get), [0, 31, 32]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Tag(u8);

impl Tag {
    /// Free, the tail of a block or run, or not in the map. Example: see [`Tag`].
    pub const NONE: Self = Self(0);
    /// First page of an area, or of the part of an area that exists, that is offline.
    /// Example: see [`Tag`].
    pub const OFFLINE: Self = Self(31);
    /// Head of a page run. Example: see [`Tag`].
    pub const RUN: Self = Self(32);
    /// Page of a slab whose cache has no size class. Example: see [`Tag`].
    pub const SLAB: Self = Self(33);
    /// The number of size classes that have a tag. Example: see [`Tag`].
    pub const CLASSES: usize = 128;
    /// The first tag of deferred blocks: all from here on have the two highest bits set.
    const DEFERRED: u8 = 192;

    /// Returns the tag of the head of a block of `order`. Example: see [`Tag`].
    #[inline]
    pub const fn block(order: Order) -> Self {
        Self(order.get() + 1)
    }

    /// Returns the tag of slab pages of size class `class`, or `None` from [`Tag::CLASSES`] on.
    /// Example: see [`Tag`].
    #[inline]
    pub const fn class(class: usize) -> Option<Self> {
        if class < Self::CLASSES { Some(Self(64 + class as u8)) } else { None }
    }

    /// Returns the order when this is the head of a block. Example: see [`Tag`].
    #[inline]
    pub const fn as_block(self) -> Option<Order> {
        match self.0.checked_sub(1) {
            Some(order) => Order::new(order),
            None => None,
        }
    }

    /// Returns the size class when this is a page of a slab that has one. Example: see [`Tag`].
    #[inline]
    pub const fn as_class(self) -> Option<usize> {
        match self.0.checked_sub(64) {
            Some(class) if (class as usize) < Self::CLASSES => Some(class as usize),
            _ => None,
        }
    }

    /// Returns the tag of the head of a deferred block of `order`: freed, not yet merged.
    /// Example: see [`Tag`].
    #[inline]
    pub const fn deferred(order: Order) -> Self {
        Self(Self::DEFERRED + order.get())
    }

    /// Returns the order when this is the head of a deferred block. Example: see [`Tag`].
    #[inline]
    pub const fn as_deferred(self) -> Option<Order> {
        match self.0.checked_sub(Self::DEFERRED) {
            Some(order) => Order::new(order),
            None => None,
        }
    }

    /// Returns whether this is a page of a slab, with or without a size class.
    /// Example: see [`Tag`].
    #[inline]
    pub const fn is_slab(self) -> bool {
        self.0 >= Self::SLAB.0 && self.0 < Self::DEFERRED
    }

    /// Returns the byte. Example: see [`Tag`].
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Returns the tag with this value.
    #[inline(always)]
    pub(crate) const fn from_byte(byte: u8) -> Self {
        Self(byte)
    }
}
