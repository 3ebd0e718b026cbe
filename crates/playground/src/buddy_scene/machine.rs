//! A buddy allocator with the names of its blocks: performs requests, and records their effects.
//!
//! A frame stands for a unit of the script, which may be smaller than a page: the allocator works
//! on numbers, and there is no memory behind them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use buddy::{BuildError, FrameAllocator, Mode, ZeroedMemory};
use page_frame::{Fault, FaultKind, FrameNumber, FrameRange, Order, SingleCpu};

use super::trace_log::{Event, TraceLog};
use crate::input::complaint::quoted;
use crate::input::names::UsedNames;
use crate::input::request::{Request, Size};
use crate::input::script::Memory;

/// An allocated block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) name: String,
    pub(crate) order: Order,
    /// The bytes that were asked for.
    pub(crate) bytes: u64,
}

/// The effect of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// A block was allocated at that unit.
    Allocated { start: usize, owned: Owned },
    /// No block was free for the request.
    Refused { name: String, size: Size, at: Option<usize> },
    /// The block at that unit was freed.
    Freed { start: usize, owned: Owned },
    /// The slot was emptied. This number of units returned.
    Drained(usize),
}

/// The effects of a step: each deed with the events that it caused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) deeds: Vec<(Deed, Vec<Event>)>,
}

/// The memory of the allocator's metadata.
pub(crate) struct MachineMemory(Vec<MaybeUninit<u8>>);

type Frames<'m> = FrameAllocator<'m, SingleCpu, TraceLog>;

/// The allocator and its blocks.
pub(crate) struct Machine<'m> {
    frames: Frames<'m>,
    memory: Memory,
    /// Allocated blocks by their first unit.
    live: BTreeMap<usize, Owned>,
    /// The first unit of each allocated block by name.
    starts: BTreeMap<String, usize>,
    /// Where blocks lay that are freed.
    dead: BTreeMap<String, (usize, Order)>,
    names: UsedNames,
    step: Step,
}

impl MachineMemory {
    /// Makes room for the metadata of `memory`.
    pub(crate) fn new(memory: &Memory) -> Self {
        let layout = FrameAllocator::<SingleCpu>::metadata_layout(&[range(memory)], 1);
        let bytes = layout.map_or(0, |layout| layout.size() + layout.align());
        Self(vec![MaybeUninit::uninit(); bytes])
    }
}

fn range(memory: &Memory) -> FrameRange {
    FrameRange::new(FrameNumber::new(0), FrameNumber::new(memory.units))
}

impl<'m> Machine<'m> {
    /// Builds the allocator of `memory`, all of it free.
    ///
    /// # Errors
    /// When `space` is too small.
    pub(crate) fn new(space: &'m mut MachineMemory, memory: Memory) -> Result<Self, BuildError> {
        let mode = if memory.has_slot { Mode::Cached } else { Mode::Plain };
        let metadata = ZeroedMemory::zero(&mut space.0);
        let frames = FrameAllocator::new_in(metadata, &[range(&memory)], SingleCpu::new(), mode)?;
        Ok(Self {
            frames: frames.with_trace(TraceLog::default()),
            memory,
            live: BTreeMap::new(),
            starts: BTreeMap::new(),
            dead: BTreeMap::new(),
            names: UsedNames::default(),
            step: Step::default(),
        })
    }

    /// Begins a step.
    pub(crate) fn begin_step(&mut self) {
        self.step = Step::default();
    }

    /// Ends the step, and returns what it did.
    pub(crate) fn end_step(&mut self) -> Step {
        core::mem::take(&mut self.step)
    }

    /// Performs a request. A request without a block that fits is performed too: it is refused.
    ///
    /// # Errors
    /// A sentence that says why the request is wrong. Nothing has changed then.
    pub(crate) fn perform(&mut self, request: &Request<'_>) -> Result<(), String> {
        match *request {
            Request::Allocate { name, size, at } => self.allocate(name, size, at).map(|_| ()),
            Request::FreeName(name) => self.free_name(name),
            Request::FreeStart(start) => self.free_start(start),
            Request::Drain => {
                let returned = self.frames.drain();
                self.note(Deed::Drained(returned));
                Ok(())
            }
        }
    }

    /// Allocates a block, at `at` if that is given; returns its start, or `None` if it was refused.
    ///
    /// # Errors
    /// When the name is in use.
    pub(crate) fn allocate(
        &mut self,
        name: Option<&str>,
        size: Size,
        at: Option<usize>,
    ) -> Result<Option<usize>, String> {
        let name = name.map_or_else(|| self.names.fresh(), ToString::to_string);
        if self.start_of(&name).is_some() {
            return Err(format!(
                "{name} is allocated already. Free it first, or use another name."
            ));
        }
        self.names.insert(&name);
        let found = size.order.and_then(|order| {
            let start = match at {
                None => self.frames.allocate_frames(order).ok()?,
                Some(at) => {
                    let start = FrameNumber::new(at);
                    self.frames.allocate_at(start, order).ok()?;
                    start
                }
            };
            Some((start.get(), order))
        });
        let Some((start, order)) = found else {
            self.note(Deed::Refused { name, size, at });
            return Ok(None);
        };
        let owned = Owned { name, order, bytes: size.bytes };
        self.live.insert(start, owned.clone());
        self.starts.insert(owned.name.clone(), start);
        self.note(Deed::Allocated { start, owned });
        Ok(Some(start))
    }

    fn free_name(&mut self, name: &str) -> Result<(), String> {
        match self.start_of(name) {
            Some(start) => self.free_start(start),
            None => Err(self.why_not_live(name)),
        }
    }

    fn free_start(&mut self, start: usize) -> Result<(), String> {
        let order = self.live.get(&start).map_or(Order::ZERO, |owned| owned.order);
        if let Err(fault) = self.frames.free_frames(FrameNumber::new(start), order) {
            return Err(self.explain(&fault, start));
        }
        if let Some(owned) = self.live.remove(&start) {
            self.starts.remove(&owned.name);
            self.dead.insert(owned.name.clone(), (start, owned.order));
            self.note(Deed::Freed { start, owned });
        }
        Ok(())
    }

    /// Asks the allocator to free a name that has no block, and returns its complaint in words.
    fn why_not_live(&self, name: &str) -> String {
        let Some((start, order)) = self.dead.get(name).copied() else {
            return format!("{} was never allocated, so it cannot be freed.", quoted(name));
        };
        let end = start + order.pages();
        if let Some((_, owned)) = self
            .live
            .range(..end)
            .next_back()
            .filter(|(at, owned)| **at + owned.order.pages() > start)
        {
            return format!(
                "{name} was freed before, and {} has its memory. To free {name} again would free the memory of {}.",
                owned.name, owned.name
            );
        }
        // This is a fault, because all allocated blocks are in `live`.
        match self.frames.free_frames(FrameNumber::new(start), order) {
            Err(fault) => {
                format!("{name} is free already. The allocator reports {}.", fault.kind.name())
            }
            Ok(()) => format!("{name} is free already."),
        }
    }

    /// Says in words why no block at `start` can be freed.
    fn explain(&self, fault: &Fault, start: usize) -> String {
        let at = self.memory.size_of(start);
        let inside = self
            .live
            .range(..start)
            .next_back()
            .filter(|(at, owned)| **at + owned.order.pages() > start);
        match (inside, fault.kind) {
            (Some((begin, owned)), kind) => format!(
                "No block begins at {at}: it lies inside {}, which begins at {}. The allocator reports {}.",
                owned.name,
                self.memory.size_of(*begin),
                kind.name()
            ),
            (None, FaultKind::DoubleFree) => {
                format!("The memory at {at} is free already. The allocator reports DoubleFree.")
            }
            (None, kind) => {
                format!("Nothing can be freed at {at}. The allocator reports {}.", kind.name())
            }
        }
    }

    fn note(&mut self, deed: Deed) {
        self.step.deeds.push((deed, self.frames.trace().take()));
    }

    /// Returns the first unit of the block called `name`.
    pub(crate) fn start_of(&self, name: &str) -> Option<usize> {
        self.starts.get(name).copied()
    }

    /// Whether a block of that name was freed.
    pub(crate) fn was_freed(&self, name: &str) -> bool {
        self.dead.contains_key(name)
    }

    /// Returns the allocated blocks by their first unit.
    pub(crate) const fn live(&self) -> &BTreeMap<usize, Owned> {
        &self.live
    }

    /// Returns the memory of the script.
    pub(crate) const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Returns the name that the next block without a name gets.
    pub(crate) fn fresh_name(&self) -> String {
        self.names.fresh()
    }

    /// Returns the allocator.
    pub(crate) const fn frames(&self) -> &Frames<'m> {
        &self.frames
    }

    /// Returns the blocks that the CPU's slot caches: first unit and order.
    pub(crate) fn cached(&mut self) -> Vec<(usize, Order)> {
        let mut cached = Vec::new();
        self.frames.for_each_cached(|_, start, order| cached.push((start.get(), order)));
        cached
    }

    /// Returns the free blocks: first unit and order, lowest first.
    pub(crate) fn free_blocks(&self) -> impl Iterator<Item = (usize, Order)> {
        self.frames.free_blocks().map(|(start, order)| (start.get(), order))
    }
}
