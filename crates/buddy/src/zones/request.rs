//! The constraints of requests to a zone list.

use crate::bitmap::placement::Mobility;

/// The devices that reach a zone, or the content that it may hold. A lower zone may serve a request
/// for a higher one.
///
/// ```
/// use buddy::{Request, ZoneKind};
/// assert!(ZoneKind::Dma < ZoneKind::Dma32 && ZoneKind::Dma32 < ZoneKind::Normal);
/// // A device with 32 address bits: from `Dma32`, or else from `Dma`.
/// let request = Request { zone: ZoneKind::Dma32, ..Request::default() };
/// assert!(request.zone < ZoneKind::default());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneKind {
    /// The first 16 MiB, for devices of the ISA bus.
    Dma,
    /// Below 4 GiB, for devices with 32 address bits.
    Dma32,
    /// All other memory.
    #[default]
    Normal,
    /// Memory for movable content only, so that the whole zone can be emptied.
    Movable,
}

/// The constraints of a request, without its size.
///
/// ```
/// let request = buddy::Request { may_use_reserve: true, ..buddy::Request::default() };
/// assert_eq!((request.zone, request.node), (buddy::ZoneKind::Normal, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    /// The highest zone that may serve. [`ZoneKind::Movable`] counts as `Normal` for content that
    /// cannot be moved.
    pub zone: ZoneKind,
    /// The preferred node. The nearest other nodes follow.
    pub node: u16,
    /// Whether the content can be moved.
    pub mobility: Mobility,
    /// Whether the request may go below `min`: for interrupts, and for code that frees memory.
    pub may_use_reserve: bool,
}
