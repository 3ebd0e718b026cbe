//! Zone lists: several zones in the order in which they serve a request.
//!
//! # Concepts
//! - Each zone of each node is a [`Buddy`](crate::Buddy) of its own, with watermarks of its own.
//! - A [`Request`] names the highest zone that may serve it: a device that reaches 4 GiB names
//!   [`ZoneKind::Dma32`]. It **falls back** from its zone downward, never upward: first on its own
//!   node, then on the other nodes, the nearest first. The [distances](ZoneList::with_distances)
//!   come from firmware. Nodes at the same distance are tried by number, from the node's own on and
//!   then from 0.
//! - A request tries zones without pressure first, then zones above `min`, so that it drives no
//!   zone to its reserve while another has plenty. A request that may use the reserve may then take
//!   the last frame.
//! - The constraints of a request choose a page source, and are not flags of each call:
//!   [`ZoneList::source`].
//!
//! # Concurrency
//! None of its own. The test against the watermark and the allocation are two steps. So each CPU
//! can pass `min` by the frames of one refill of its slot, at most 4096 frames (eight areas; fewer
//! in small zones). One drain returns them.
//!
//! # Costs
//! Two loads for each zone tried, beyond the zone's own costs, and the reconciliation of an area in
//! zones under pressure. A request that fails has tried each zone at most six times, and reconciled
//! all of its areas in between. A free finds the zone by its ranges.

use page_frame::OutOfMemory;

use crate::bitmap::placement::Mobility;
use crate::trace::Pressure;
use crate::zones::request::{Request, ZoneKind};
use crate::zones::zone::Zone;

pub use crate::zones::zone_list_error::ZoneListError;

/// A zone of a node. Example: see [`ZoneList`].
#[derive(Debug)]
pub struct NodeZone<'z, Z> {
    /// The node, counted from 0.
    pub node: u16,
    /// The kind of the zone.
    pub kind: ZoneKind,
    /// Its frames.
    pub buddy: &'z Z,
}

/// The zones of all nodes.
///
/// ```
/// use buddy::{NodeZone, Pressure, Request, ZoneKind, ZoneList};
/// use page_frame::{Order, PageSource};
/// # use buddy::{Buddy, BuildError, Mode, ZeroedMemory};
/// # use page_frame::{DirectMap, FrameNumber, FrameRange, SingleCpu};
/// # use std::mem::MaybeUninit;
/// # type ZoneBuddy<'m> = Buddy<'m, DirectMap, SingleCpu>;
/// fn zone(memory: &mut [MaybeUninit<u8>], start: usize) -> Result<ZoneBuddy<'_>, BuildError> {
///     let frames = [FrameRange::new(FrameNumber::new(start), FrameNumber::new(start + 64))];
///     let memory = ZeroedMemory::zero(memory);
///     // SAFETY: this example accesses no frame, so none has to be mapped.
///     let map = unsafe { DirectMap::at_offset(1 << 40) };
///     // SAFETY: clauses 1 and 2: no other code uses the frames, and `map` covers them.
///     unsafe { Buddy::new_in(memory, &frames, map, SingleCpu::new(), Mode::Plain) }
/// }
/// let (mut low, mut high) = ([MaybeUninit::uninit(); 1 << 16], [MaybeUninit::uninit(); 1 << 16]);
/// let (dma, normal) = (zone(&mut low, 0)?, zone(&mut high, 64)?);
/// let zones = [
///     NodeZone { node: 0, kind: ZoneKind::Dma, buddy: &dma },
///     NodeZone { node: 0, kind: ZoneKind::Normal, buddy: &normal },
/// ];
/// let list = ZoneList::new(&zones)?.with_distances(&[10])?; // one node
/// let source = list.source(Request::default());
/// let block = source.allocate(Order::new(6).unwrap())?; // all of `normal`
/// let page = source.allocate(Order::ZERO)?; // falls back on `dma`
/// assert_eq!((normal.free_frames_count(), dma.free_frames_count()), (0, 63));
/// assert_eq!((list.zones().len(), list.pressure()), (2, Pressure::None));
/// // SAFETY: both came from this list, and nothing refers into them.
/// for block in [block, page] { unsafe { source.free(block) } }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ZoneList<'z, Z> {
    /// I1: all zones map a frame to the same address. No two have a frame in common (clause 1 of
    /// `Buddy::new_in`), so exactly the zone that lent an address covers it.
    zones: &'z [NodeZone<'z, Z>],
    /// A square matrix with a row for each node; empty when all distances are equal.
    distances: &'z [u8],
    /// Number of rows.
    rows: usize,
}

impl<'z, Z: Zone> ZoneList<'z, Z> {
    /// Makes a list of `zones`, which ascend by node and within a node by kind, and map frames to
    /// the same addresses. O(zones). Example: see [`ZoneList`].
    ///
    /// # Errors
    /// [`ZoneListError::Empty`], [`ZoneListError::Unordered`], or [`ZoneListError::OtherMap`]: then
    /// an address would not identify its zone.
    pub fn new(zones: &'z [NodeZone<'z, Z>]) -> Result<Self, ZoneListError> {
        let first = zones.first().ok_or(ZoneListError::Empty)?;
        let key = |zone: &NodeZone<'_, Z>| (zone.node, zone.kind);
        if let Some(index) = zones.windows(2).position(|pair| key(&pair[0]) >= key(&pair[1])) {
            return Err(ZoneListError::Unordered { index: index + 1 });
        }
        match zones.iter().position(|zone| !zone.buddy.maps_like(first.buddy)) {
            Some(index) => Err(ZoneListError::OtherMap { index }),
            None => Ok(Self { zones, distances: &[], rows: 0 }),
        }
    }

    /// Adds the distances between nodes, as ACPI's table SLIT has them: a row for each node, and in
    /// it the distance to each node, 10 for the node itself. Requests fall back on the nearest node
    /// first. Example: see [`ZoneList`].
    ///
    /// # Errors
    /// [`ZoneListError::NotSquare`] when the distances are not a square matrix, or a zone's node
    /// has no row.
    pub fn with_distances(self, distances: &'z [u8]) -> Result<Self, ZoneListError> {
        let rows = distances.len().isqrt();
        let is_square = rows * rows == distances.len();
        if !is_square || self.zones.iter().any(|zone| usize::from(zone.node) >= rows) {
            return Err(ZoneListError::NotSquare { distances: distances.len() });
        }
        Ok(Self { distances, rows, ..self })
    }

    /// Returns the zones. Example: see [`ZoneList`].
    pub const fn zones(&self) -> &'z [NodeZone<'z, Z>] {
        self.zones
    }

    /// Returns the lowest pressure of all zones. O(zones), no lock. Example: see [`ZoneList`].
    pub fn pressure(&self) -> Pressure {
        self.zones.iter().map(|zone| zone.buddy.pressure()).min().unwrap_or_default()
    }

    /// Iterates over the zones that may serve `request`, the best first.
    fn candidates(&self, request: Request) -> impl Iterator<Item = &'z NodeZone<'z, Z>> {
        let highest = match request.mobility {
            Mobility::Movable => request.zone,
            _ => request.zone.min(ZoneKind::Normal),
        };
        let zones = self.nodes_from(request.node);
        zones.flat_map(move |zones| zones.iter().rev().filter(move |zone| zone.kind <= highest))
    }

    /// Iterates over the nodes that have zones, the nearest to `node` first. O(zones) for each.
    fn nodes_from(&self, node: u16) -> impl Iterator<Item = &'z [NodeZone<'z, Z>]> {
        let (zones, distances, rows) = (self.zones, self.distances, self.rows);
        let key = move |zones: &[NodeZone<'z, Z>]| {
            let other = zones[0].node;
            let (row, column) = (usize::from(node), usize::from(other));
            let is_known = row < rows && column < rows;
            let distance = if is_known { distances[row * rows + column] } else { 0 };
            // At the same distance: from the node itself on, and then from 0.
            (distance, other.wrapping_sub(node))
        };
        let mut last = None;
        core::iter::from_fn(move || {
            let nodes = zones.chunk_by(|zone, next| zone.node == next.node);
            let beyond = nodes.filter(|zones| last.is_none_or(|last| key(zones) > last));
            let next = beyond.min_by_key(|zones| key(zones))?;
            last = Some(key(next));
            Some(next)
        })
    }

    /// Calls `allocate` with each zone that may serve `request` and allows it to take `pages`
    /// frames, until `allocate` succeeds. Before it fails, it reconciles all deferred frees of
    /// these zones and tries again.
    pub(super) fn serve<R>(
        &self,
        request: Request,
        pages: usize,
        mut allocate: impl FnMut(&'z Z) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        for zone in self.candidates(request) {
            // Deferred frees do not count as free.
            if zone.buddy.pressure() != Pressure::None {
                zone.buddy.reconcile_next();
            }
        }
        self.serve_once(request, pages, &mut allocate).or_else(|_| {
            let freed = self.candidates(request).map(|zone| zone.buddy.reconcile_all());
            match freed.sum() {
                0 => Err(OutOfMemory),
                1.. => self.serve_once(request, pages, &mut allocate),
            }
        })
    }

    fn serve_once<R>(
        &self,
        request: Request,
        pages: usize,
        allocate: &mut impl FnMut(&'z Z) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        let has_plenty = |zone: &Z| zone.pressure() == Pressure::None && zone.allows(pages);
        let has_enough = |zone: &Z| zone.allows(pages);
        let has_reserve = |_: &Z| request.may_use_reserve;
        let tests: [&dyn Fn(&Z) -> bool; 3] = [&has_plenty, &has_enough, &has_reserve];
        for test in tests {
            // A zone that passed an earlier test is tried again: frames may have been freed
            // meanwhile.
            for zone in self.candidates(request).filter(|zone| test(zone.buddy)) {
                if let Ok(allocated) = allocate(zone.buddy) {
                    return Ok(allocated);
                }
            }
        }
        Err(OutOfMemory)
    }

    /// Returns the zone that `address` lies in. For an address in no zone it returns the first
    /// zone, which then reports a foreign address.
    #[inline]
    pub(super) fn zone_of(&self, address: usize) -> &'z Z {
        // The highest zone first: it has most of the memory.
        let covering = self.zones.iter().rev().find(|zone| zone.buddy.covers(address));
        covering.unwrap_or(&self.zones[0]).buddy
    }
}
