//! Several zones as one page source: who asks says which zone, node and mobility, and which zones may stand in.
//!
//! # Concepts
//! - Each zone of each node is a [`Buddy`] of its own, with watermarks of its own.
//! - A [`Request`] names the highest zone that will do: a device that reaches 4 GiB names [`ZoneKind::Dma32`]. Lower zones
//!   will do too, so a request **falls back** from its zone downward, never upward: first on its own node, then on the
//!   others: the nearest first, by the [distances](ZoneList::with_distances) that firmware tells, and among those as near by
//!   number, from its own on and then from 0.
//! - Zones above `low` are asked first, then those above `min`, so that no zone is driven to its reserve while another has
//!   plenty. Requests that may use the reserve are then served to the last frame.
//! - Constraints are which source one asks, not a word of flags at each call: [`ZoneList::source`].
//!
//! # Concurrency
//! None of its own. The test against the watermark and the allocation are two steps: each CPU can pass `min` by what one
//! refill of its slot takes, at most 4096 frames (eight areas; fewer in small zones), and one drain brings those
//! home.
//!
//! # Costs
//! Two loads for each zone asked, beyond the zone's own costs, and a little gathering (`left.rs`) in those below `low`. A request
//! that fails has asked each zone six times at most, and gathered them in between.
//! Freeing finds the zone by its ranges.

use core::ptr::NonNull;

use page_frame::{
    Cpu, FrameRange, Order, OutOfMemory, PageBlock, PageMap, PageResize, PageRun, PageSource,
    PhysMap, Tag, TagRange,
};

use crate::{Buddy, Gate, Mobility, Observe, Pressure};

/// What a zone is for, by what reaches it. Lower ones serve for higher ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ZoneKind {
    /// The first 16 MiB: devices of the ISA bus.
    Dma,
    /// Below 4 GiB: devices with 32 address bits.
    Dma32,
    /// All else.
    #[default]
    Normal,
    /// Movable content only, so that all of it can be emptied.
    Movable,
}

/// What is asked for, but the size.
///
/// ```
/// let request = buddy::Request { may_use_reserve: true, ..buddy::Request::default() };
/// assert_eq!((request.zone, request.node), (buddy::ZoneKind::Normal, 0));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Request {
    /// The highest zone that will do. [`ZoneKind::Movable`] counts as `Normal` for content that cannot be moved.
    pub zone: ZoneKind,
    /// The node whose memory is nearest. Where it has none, the next nearest node's is.
    pub node: u16,
    /// Whether the content can be moved.
    pub mobility: Mobility,
    /// Whether the request may go below `min`: for interrupts, and for who frees memory.
    pub may_use_reserve: bool,
}

/// A zone of a node.
#[derive(Debug)]
pub struct NodeZone<'z, 'm, M, C, O> {
    /// The node, counted from 0.
    pub node: u16,
    /// What it is for.
    pub kind: ZoneKind,
    /// Its frames.
    pub buddy: &'z Buddy<'m, M, C, O>,
}

/// The zones of all nodes.
#[derive(Debug)]
pub struct ZoneList<'z, 'm, M, C, O> {
    /// I1: all see each frame at the same address. As no two have a frame in common (clause 1 of `Buddy::new_in`), a zone
    /// covers the addresses that it lends, and no other zone covers them.
    zones: &'z [NodeZone<'z, 'm, M, C, O>],
    /// A row for each node; empty when all are as near.
    distances: &'z [u8],
    /// How many nodes have a row.
    rows: usize,
}

/// Why no list of zones was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneListError {
    /// There is no zone at all.
    Empty,
    /// The zone at this index does not come after the one before by node and then by kind.
    Unordered {
        /// The zone's index.
        index: usize,
    },
    /// The zone at this index has its frames at other addresses than the first zone's `PhysMap` says.
    OtherMap {
        /// The zone's index.
        index: usize,
    },
    /// The distances are not as many for each node as there are nodes, or a zone's node is not among them.
    NotSquare {
        /// How many distances there are.
        distances: usize,
    },
}

impl core::fmt::Display for ZoneListError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Empty => f.write_str("there are no zones"),
            Self::Unordered { index } => {
                write!(f, "zone {index} does not come after the one before by node and kind")
            }
            Self::OtherMap { index } => {
                write!(f, "zone {index} has its frames at other addresses than the first zone says")
            }
            Self::NotSquare { distances } => {
                write!(f, "{distances} distances are not a row for each node of one for each node")
            }
        }
    }
}

impl core::error::Error for ZoneListError {}

impl<'z, 'm, M: PhysMap, C: Cpu, O: Observe + Gate> ZoneList<'z, 'm, M, C, O> {
    /// Makes a list of `zones`, which ascend by node and within a node by kind, and see each frame at the same address.
    ///
    /// # Errors
    /// [`ZoneListError`] when there is none, the order is another, or the maps of frames to addresses differ: then an address
    /// would not tell its zone.
    pub fn new(zones: &'z [NodeZone<'z, 'm, M, C, O>]) -> Result<Self, ZoneListError> {
        if zones.is_empty() {
            return Err(ZoneListError::Empty);
        }
        let key = |zone: &NodeZone<'_, '_, M, C, O>| (zone.node, zone.kind);
        if let Some(index) = zones.windows(2).position(|pair| key(&pair[0]) >= key(&pair[1])) {
            return Err(ZoneListError::Unordered { index: index + 1 });
        }
        // By clause 1 of `PhysMap` consecutive frames have consecutive pages, so maps that agree on one frame agree on all.
        let start = |zone: &NodeZone<'_, '_, M, C, O>| zone.buddy.zone.span().start;
        let agrees = |zone: &NodeZone<'_, '_, M, C, O>| {
            zone.buddy.phys.pointer(start(zone)) == zones[0].buddy.phys.pointer(start(zone))
        };
        match zones.iter().position(|zone| !agrees(zone)) {
            Some(index) => Err(ZoneListError::OtherMap { index }),
            None => Ok(Self { zones, distances: &[], rows: 0 }),
        }
    }

    /// The same, with nodes at `distances` from each other, as ACPI's table SLIT has them: a row for each node, in it how far each
    /// node is, 10 being here. Requests fall back on the nearest node first.
    ///
    /// # Errors
    /// [`ZoneListError::NotSquare`] when the rows are not as long as there are rows, or a zone's node has none.
    pub fn with_distances(self, distances: &'z [u8]) -> Result<Self, ZoneListError> {
        let rows = distances.len().isqrt();
        let is_square = rows * rows == distances.len();
        if !is_square || self.zones.iter().any(|zone| usize::from(zone.node) >= rows) {
            return Err(ZoneListError::NotSquare { distances: distances.len() });
        }
        Ok(Self { distances, rows, ..self })
    }

    /// Returns the page source that serves `request`, a value of a few words to keep or to pass on.
    pub const fn source(&self, request: Request) -> ZoneSource<'_, 'z, 'm, M, C, O> {
        ZoneSource { list: self, request }
    }

    /// Returns the zones.
    pub const fn zones(&self) -> &'z [NodeZone<'z, 'm, M, C, O>] {
        self.zones
    }

    /// Returns how short memory is in the zone that is best off.
    pub fn pressure(&self) -> Pressure {
        let pressures = self.zones.iter().map(|zone| zone.buddy.observer().pressure());
        pressures.min().unwrap_or_default()
    }

    /// Iterates over the zones that will do for `request`, the best first.
    fn candidates(&self, request: Request) -> impl Iterator<Item = &'z NodeZone<'z, 'm, M, C, O>> {
        let highest = match request.mobility {
            Mobility::Movable => request.zone,
            _ => request.zone.min(ZoneKind::Normal),
        };
        let zones = self.nodes_from(request.node);
        zones.flat_map(move |zones| zones.iter().rev().filter(move |zone| zone.kind <= highest))
    }

    /// Iterates over the nodes that have zones, those nearest to `node` first. O(zones) for each.
    fn nodes_from(&self, node: u16) -> impl Iterator<Item = &'z [NodeZone<'z, 'm, M, C, O>]> {
        let (zones, distances, rows) = (self.zones, self.distances, self.rows);
        let key = move |zones: &[NodeZone<'z, 'm, M, C, O>]| {
            let other = zones[0].node;
            let (row, column) = (usize::from(node), usize::from(other));
            let is_known = row < rows && column < rows;
            let distance = if is_known { distances[row * rows + column] } else { 0 };
            // Among those as near: from the node itself on, and then from 0.
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

    /// Calls `ask` with each zone that will do for `request` and may give `pages` frames, until one has an answer.
    fn ask<R>(
        &self,
        request: Request,
        pages: usize,
        mut ask: impl FnMut(&'z Buddy<'m, M, C, O>) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        for zone in self.candidates(request) {
            // What was left in an area counts as free only when it is home.
            if zone.buddy.observer().pressure() != Pressure::None {
                zone.buddy.gather_next();
            }
        }
        self.ask_once(request, pages, &mut ask).or_else(|_| {
            let gather = |zone: &NodeZone<'z, 'm, M, C, O>| zone.buddy.gather_until(usize::MAX);
            match self.candidates(request).map(gather).sum() {
                0 => Err(OutOfMemory),
                1.. => self.ask_once(request, pages, &mut ask),
            }
        })
    }

    fn ask_once<R>(
        &self,
        request: Request,
        pages: usize,
        ask: &mut impl FnMut(&'z Buddy<'m, M, C, O>) -> Result<R, OutOfMemory>,
    ) -> Result<R, OutOfMemory> {
        let has_plenty = |gate: &O| gate.pressure() == Pressure::None && gate.allows(pages);
        let has_enough = |gate: &O| gate.allows(pages);
        let has_reserve = |_: &O| request.may_use_reserve;
        let tests: [&dyn Fn(&O) -> bool; 3] = [&has_plenty, &has_enough, &has_reserve];
        for test in tests {
            // Those that pass an earlier test too are asked again: meanwhile others may have given to them.
            for zone in self.candidates(request).filter(|zone| test(zone.buddy.observer())) {
                if let Ok(answer) = ask(zone.buddy) {
                    return Ok(answer);
                }
            }
        }
        Err(OutOfMemory)
    }

    /// Returns the zone that `address` lies in; the first one where it lies in none, which then calls it foreign.
    #[inline]
    fn zone_of(&self, address: usize) -> &'z Buddy<'m, M, C, O> {
        // The highest zone first: it has most of the memory.
        let covering = self.zones.iter().rev().find(|zone| zone.buddy.covers(address));
        covering.unwrap_or(&self.zones[0]).buddy
    }
}

impl<M: PhysMap, C: Cpu, O: Observe> Buddy<'_, M, C, O> {
    /// Whether `address` lies in a frame of this buddy. O(ranges).
    #[inline]
    pub fn covers(&self, address: usize) -> bool {
        let frame = self.phys.frame(address);
        if !self.zone.span().contains(frame) {
            return false;
        }
        let end = frame.checked_add(1).unwrap_or(frame);
        self.zone.from_start == [self.zone.span()] || self.zone.has(FrameRange::new(frame, end))
    }
}

/// The zones as seen by requests of one sort.
#[derive(Debug)]
pub struct ZoneSource<'l, 'z, 'm, M, C, O> {
    list: &'l ZoneList<'z, 'm, M, C, O>,
    request: Request,
}

impl<M, C, O> Clone for ZoneSource<'_, '_, '_, M, C, O> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M, C, O> Copy for ZoneSource<'_, '_, '_, M, C, O> {}

impl<M, C, O> ZoneSource<'_, '_, '_, M, C, O> {
    /// Returns what it asks for.
    pub const fn request(&self) -> Request {
        self.request
    }
}

// SAFETY: clauses 1 and 2 are those of the buddies that serve. By I1 of `ZoneList`, `zone_of` finds for a block the buddy
// that lent it.
unsafe impl<M: PhysMap, C: Cpu, O: Observe + Gate> PageSource for ZoneSource<'_, '_, '_, M, C, O> {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        self.list.ask(self.request, order.pages(), |buddy| {
            let frame = buddy.allocate_as(order, self.request.mobility)?;
            // SAFETY: just allocated.
            Ok(unsafe { buddy.block(frame, order) })
        })
    }

    #[track_caller]
    unsafe fn free(&self, block: PageBlock) {
        let buddy = self.list.zone_of(block.start().addr().get());
        // SAFETY: the caller's clauses; the block came from the zone whose frame its first page is.
        unsafe { buddy.free(block) }
    }
}

// SAFETY: each method forwards to the map of the zone that the address lies in; where it lies in none, that of the first
// zone answers as for any address out of its range.
unsafe impl<M: PhysMap, C: Cpu, O: Observe + Gate> PageMap for ZoneSource<'_, '_, '_, M, C, O> {
    #[inline]
    fn tag(&self, address: usize) -> Tag {
        self.list.zone_of(address).tag(address)
    }

    #[inline]
    fn tag_range(&self) -> TagRange {
        let ranges = self.list.zones.iter().map(|zone| zone.buddy.tag_range());
        ranges.max_by_key(TagRange::pages).unwrap_or(TagRange::EMPTY)
    }

    #[inline]
    fn owner(&self, address: usize) -> *mut () {
        self.list.zone_of(address).owner(address)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: the caller's clause; a block lies in one zone.
        unsafe { zone.set_owner(start, pages, tag, owner) }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: the caller owns the block, which lies in the zone of its first page.
        unsafe { zone.clear_owner(start, order) }
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: the run lies in the zone of its first page, as resizing never leaves a zone.
        unsafe { zone.set_run(start, pages) }
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        let zone = self.list.zone_of(start.addr().get());
        // SAFETY: the block that the run was lies in one zone.
        unsafe { zone.clear_run(start, order) }
    }

    #[inline]
    fn pointer(&self, address: usize) -> NonNull<u8> {
        self.list.zone_of(address).pointer(address)
    }
}

// SAFETY: as for blocks. Runs never cross from one zone into another: each buddy grows them within its own frames.
unsafe impl<M: PhysMap, C: Cpu, O: Observe + Gate> PageResize for ZoneSource<'_, '_, '_, M, C, O> {
    fn allocate_run(&self, pages: usize, alignment: Order) -> Result<PageRun, OutOfMemory> {
        self.list.ask(self.request, pages, |buddy| buddy.allocate_run(pages, alignment))
    }

    #[track_caller]
    unsafe fn free_run(&self, start: NonNull<u8>, pages: usize) {
        let buddy = self.list.zone_of(start.addr().get());
        // SAFETY: the caller's run, from the zone that its first page lies in.
        unsafe { buddy.free_run(start, pages) }
    }

    unsafe fn resize_run(&self, start: NonNull<u8>, pages: usize, new_pages: usize) -> bool {
        let buddy = self.list.zone_of(start.addr().get());
        let growth = new_pages.saturating_sub(pages);
        if growth > 0 && !self.request.may_use_reserve && !buddy.observer().allows(growth) {
            return false;
        }
        // SAFETY: the caller's run of so many pages, in the zone of its first page.
        unsafe { buddy.resize_run(start, pages, new_pages) }
    }
}
