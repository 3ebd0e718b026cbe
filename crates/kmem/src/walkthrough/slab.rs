//! The walkthrough of a cache: coloured slabs that fill object by object, drawn from a real cache.
//!
//! The cache shows the address, the colour and the number of free objects of each slab. Only a user
//! knows which objects are in use. Here the walkthrough is the user, and finds the slab of each
//! pointer that it holds.

use std::alloc::Layout;
use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::ptr::NonNull;

use buddy::Mode;
use page_frame::{Order, PAGE_SIZE, SingleCpu};
use slab::{Cache, Geometry, Registry, SlabView};

use super::step::{self, LEFT, SCALE, Step, Walk};
use crate::memory::backed::{Backed, CountedBuddy};
use crate::picture::style::{Ink, Style};
use crate::picture::svg::Svg;
use crate::picture::text::counted;

/// Memory of the walkthrough.
const MEMORY_PAGES: usize = 64;
/// Bytes that a column of the picture stands for: a line of the CPU cache.
const LINE_BYTES: usize = 64;
/// Height of a row of a picture in pixels.
const ROW: f64 = 34.0;
/// Sets of the CPU cache that the captions speak of: 32 KiB, eight lines to a set.
const SETS: usize = 64;

/// An object that is worth constructing once.
#[repr(C)]
struct Inode {
    lock: u64,
    uses: u64,
    rest: [u64; 78],
}

const LAYOUT: Layout = Layout::new::<Inode>();
const _: () = assert!(LAYOUT.size() == 640);
/// The value of the lock after construction.
const UNLOCKED: u64 = 0x10c4_0000;

thread_local! {
    /// Calls of the constructor, less those of the destructor.
    static CONSTRUCTED: Cell<usize> = const { Cell::new(0) };
}

type Inodes<'b> = Cache<(&'b CountedBuddy<SingleCpu>, SingleCpu)>;

/// A slab after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SlabOf {
    colour_offset: usize,
    /// The set of the CPU cache in which the first object begins.
    set: usize,
    bytes: usize,
    stride: usize,
    /// Whether each object is in use.
    in_use: Vec<bool>,
    /// Where the bookkeeping begins, if it is inside.
    bookkeeping: Option<usize>,
}

/// The slabs after a step, by address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    slabs: Vec<SlabOf>,
    held: usize,
    /// Free objects in the CPU's magazines.
    cached: usize,
}

/// A cache, the objects that are in use, and the steps so far.
struct Scene<'b> {
    steps: Vec<Step>,
    inodes: Inodes<'b>,
    held: Vec<NonNull<Inode>>,
}

/// Plays the walkthrough.
///
/// # Errors
/// When the system gives no memory.
pub(super) fn walk() -> io::Result<Walk> {
    let memory = Backed::new(MEMORY_PAGES * PAGE_SIZE, SingleCpu::new(), Mode::Plain)?;
    let registry = Registry::new(&*memory, SingleCpu::new()).map_err(io::Error::other)?;
    let builder = registry.cache("inode", LAYOUT).max_order(Order::ZERO);
    // SAFETY: `construct` takes raw memory of an inode's layout.
    let builder = unsafe { builder.constructor(construct) };
    // SAFETY: `destroy` takes constructed inodes; they stay inodes while they are in use.
    let builder = unsafe { builder.destructor(destroy) };
    let inodes = builder.build().map_err(io::Error::other)?;
    let introduction = introduction(&inodes.geometry());
    let mut scene = Scene { steps: Vec::new(), inodes, held: Vec::new() };
    fill(&mut scene)?;
    free_and_allocate_again(&mut scene)?;
    release_everything(&mut scene, &memory);
    let legend = format!(
        "[###] in use   [...] free   R record   blank: left over   a column is {LINE_BYTES} bytes\n"
    );
    Ok(Walk { introduction, legend, steps: scene.steps })
}

/// Says in words how the slabs are cut.
fn introduction(cut: &Geometry) -> String {
    let (size, left) = (cut.stride(), cut.leftover_bytes());
    let record = cut.slab_bytes() - cut.capacity() * size - left;
    let objects = counted(cut.capacity(), "object");
    let offsets: Vec<_> =
        (0..cut.colours()).map(|colour| cut.colour_offset(colour).to_string()).collect();
    format!(
        "A cache of inodes, {size} bytes each. A slab is {}: {objects} and\n\
         {record} bytes of record. {left} bytes are left over, so the first object can lie at\n\
         byte {} of its slab: {} colours.\n",
        counted(cut.order().pages(), "page"),
        offsets.join(", "),
        cut.colours()
    )
}

/// Objects are allocated until there is a slab of every colour.
fn fill(scene: &mut Scene<'_>) -> io::Result<()> {
    let (capacity, colours) =
        (scene.inodes.geometry().capacity(), scene.inodes.geometry().colours());
    scene.allocate(1)?;
    let constructed = CONSTRUCTED.get();
    scene.show(&format!(
        "The first request: the cache takes a page and constructs all {constructed} objects."
    ));
    scene.allocate(capacity / 2)?;
    scene.show("Requests are served from the slab, and nothing is constructed again.");
    scene.allocate(capacity - scene.held.len())?;
    scene.show("The slab is full.");
    for slab in 1..colours {
        scene.allocate(capacity / 2)?;
        let from = scene.slabs().last().map_or(0, |slab| slab.colour_offset);
        scene.show(&format!("The cache grows: the next slab's first object is at byte {from}."));
        scene.allocate((slab + 1) * capacity - scene.held.len())?;
    }
    let slabs = scene.slabs();
    let sets: Vec<_> = slabs.iter().map(|slab| set_of(slab).to_string()).collect();
    let uncoloured: HashSet<_> = slabs.iter().map(|slab| slab.start / LINE_BYTES % SETS).collect();
    let uncoloured: Vec<_> = uncoloured.iter().map(usize::to_string).collect();
    scene.show(&format!(
        "The first objects fall into sets {} of the CPU cache,\nnot all into set {}, where they would drive each other out.",
        sets.join(", "),
        uncoloured.join(", ")
    ));
    Ok(())
}

/// One object goes back and comes again.
fn free_and_allocate_again(scene: &mut Scene<'_>) -> io::Result<()> {
    let index = scene.held.len() / 2 + 1;
    let object = scene.held.swap_remove(index);
    // SAFETY: an object in use is a constructed inode, and ours alone.
    let inode = unsafe { &mut *object.as_ptr() };
    inode.uses += 1;
    let (constructed, left) = (CONSTRUCTED.get(), (inode.lock, inode.uses));
    // SAFETY: allocated from this cache, not in use any more, and as constructed but for a count.
    unsafe { scene.inodes.free(object.cast()) };
    scene.show("An object is freed. Its lock is unlocked, its count of uses is 1.");
    scene.allocate(1)?;
    let again = scene.held[scene.held.len() - 1];
    // SAFETY: the object is allocated, and its constructor has run.
    let inode = unsafe { again.as_ref() };
    let is_same = again == object && (inode.lock, inode.uses) == left;
    let which = if is_same { "the same object, as it was left" } else { "another object" };
    scene.show(&format!(
        "The next request gets {which}: count of uses {},\nconstructor calls since then: {}.",
        inode.uses,
        CONSTRUCTED.get() - constructed
    ));
    Ok(())
}

/// Everything is freed; the pages are released.
fn release_everything(scene: &mut Scene<'_>, memory: &Backed<SingleCpu>) {
    for object in std::mem::take(&mut scene.held) {
        // SAFETY: allocated from this cache, not in use any more, and as constructed but for a
        // count.
        unsafe { scene.inodes.free(object.cast()) };
    }
    scene.show("All are freed. The cache keeps them, constructed, for the next requests.");
    let given = scene.inodes.shrink_all();
    let free = memory.buddy().free_frames_count();
    scene.show(&format!(
        "Memory is asked back: every object is destroyed ({} are left),\n{} are released. Of {MEMORY_PAGES} pages, {free} are free.",
        CONSTRUCTED.get(),
        counted(given, "page")
    ));
}

impl Scene<'_> {
    fn allocate(&mut self, objects: usize) -> io::Result<()> {
        for _ in 0..objects {
            let object = self.inodes.allocate().map_err(io::Error::other)?;
            self.held.push(object.cast());
        }
        Ok(())
    }

    /// Returns the slabs by address.
    fn slabs(&self) -> Vec<SlabView> {
        let mut slabs = Vec::new();
        self.inodes.for_each_slab(|slab| slabs.push(slab));
        slabs.sort_unstable_by_key(|slab| slab.start);
        slabs
    }

    /// Ends a step.
    fn show(&mut self, caption: &str) {
        let slabs = self.slabs();
        let held: HashSet<usize> = self.held.iter().map(|object| object.addr().get()).collect();
        let out_of_slabs: usize = slabs.iter().map(|slab| slab.capacity - slab.free).sum();
        let geometry = self.inodes.geometry();
        let slab = |slab: &SlabView| SlabOf {
            colour_offset: slab.colour_offset,
            set: set_of(slab),
            bytes: geometry.slab_bytes(),
            stride: geometry.stride(),
            in_use: objects(slab, &geometry).map(|object| held.contains(&object)).collect(),
            bookkeeping: geometry.bookkeeping_offset(),
        };
        let state = State {
            slabs: slabs.iter().map(slab).collect(),
            held: held.len(),
            cached: out_of_slabs - held.len(),
        };
        let state = Box::new(state);
        self.steps.push(Step { caption: caption.to_owned(), state });
    }
}

/// Returns the set of the CPU cache in which the first object begins.
fn set_of(slab: &SlabView) -> usize {
    (slab.start + slab.colour_offset) / LINE_BYTES % SETS
}

fn objects(slab: &SlabView, geometry: &Geometry) -> impl Iterator<Item = usize> {
    let (first, stride) = (slab.start + slab.colour_offset, geometry.stride());
    (0..slab.capacity).map(move |index| first + index * stride)
}

impl step::State for State {
    /// Returns the slabs in one word each: the colour's offset, then an object a character.
    fn plain(&self) -> String {
        let mark = |in_use: &bool| if *in_use { '#' } else { '.' };
        let slab = |slab: &SlabOf| {
            let objects: String = slab.in_use.iter().map(mark).collect();
            format!("{}:{objects}", slab.colour_offset)
        };
        let slabs: Vec<_> = self.slabs.iter().map(slab).collect();
        let slabs = if slabs.is_empty() { "none".to_owned() } else { slabs.join(" ") };
        format!("{} in use, {} cached, slabs {slabs}", self.held, self.cached)
    }

    fn lines(&self, style: &Style) -> Vec<String> {
        let line =
            |slab: &SlabOf| format!("|{}| set {:>2}", style.paint_cells(&slab.cells()), slab.set);
        self.slabs.iter().map(line).collect()
    }

    fn notes(&self) -> Vec<String> {
        let kept = match self.cached {
            0 => String::new(),
            kept => format!(", {kept} of them cached in the CPU's magazines"),
        };
        let all: usize = self.slabs.iter().map(|slab| slab.in_use.len()).sum();
        vec![format!(
            "{}, {} in use, {} free{kept}",
            counted(self.slabs.len(), "slab"),
            counted(self.held, "object"),
            all - self.held
        )]
    }

    /// Returns the height of the picture, which has a row for each slab.
    fn height(&self) -> f64 {
        self.slabs.len().max(1) as f64 * ROW - 6.0
    }

    /// Draws the slabs to scale.
    fn draw(&self, svg: &mut Svg, top: f64) {
        if self.slabs.is_empty() {
            svg.text((LEFT, top + 17.0), "faint", "no slab");
        }
        for (row, slab) in self.slabs.iter().enumerate() {
            let (top, pixels) = (top + row as f64 * ROW, SCALE / slab.bytes as f64);
            svg.path(&format!("M{LEFT} {top}h{SCALE}v26h-{SCALE}Z"), "rule", "");
            for (index, in_use) in slab.in_use.iter().enumerate() {
                let left = LEFT + (slab.colour_offset + index * slab.stride) as f64 * pixels;
                let class = if *in_use { "taken" } else { "idle" };
                let width = slab.stride as f64 * pixels - 2.0;
                svg.rect((left + 1.0, top + 2.0), (width, 22.0), class, "");
            }
            if let Some(offset) = slab.bookkeeping {
                let left = LEFT + offset as f64 * pixels;
                let width = (slab.bytes - offset) as f64 * pixels;
                svg.rect((left, top + 2.0), (width, 22.0), "meta", "record");
            }
            svg.text((LEFT + SCALE + 8.0, top + 17.0), "faint", &format!("set {}", slab.set));
        }
    }
}

impl SlabOf {
    /// Returns the slab to scale, a cell for each line of the CPU cache.
    fn cells(&self) -> Vec<(char, Ink)> {
        let mut cells = vec![(' ', Ink::Caption); self.bytes / LINE_BYTES];
        for (index, in_use) in self.in_use.iter().enumerate() {
            let first = (self.colour_offset + index * self.stride) / LINE_BYTES;
            let last = first + self.stride / LINE_BYTES - 1;
            let (fill, ink) = if *in_use { ('#', Ink::Taken) } else { ('.', Ink::Idle) };
            cells[first..=last].fill((fill, ink));
            (cells[first].0, cells[last].0) = ('[', ']');
        }
        if let Some(offset) = self.bookkeeping {
            cells[offset / LINE_BYTES..].fill(('R', Ink::Metadata));
        }
        cells
    }
}

/// # Safety
/// 1. `object` is memory of [`LAYOUT`], the caller's.
unsafe fn construct(object: NonNull<u8>) {
    CONSTRUCTED.set(CONSTRUCTED.get() + 1);
    // SAFETY: clause 1: memory of an inode's layout.
    unsafe { object.cast().write(Inode { lock: UNLOCKED, uses: 0, rest: [0; 78] }) }
}

/// # Safety
/// 1. `object` is a constructed inode, the caller's.
unsafe fn destroy(object: NonNull<u8>) {
    // SAFETY: clause 1: constructed, and the last time that it is looked at.
    let inode = unsafe { object.cast::<Inode>().as_ref() };
    assert!(inode.lock == UNLOCKED && inode.rest[77] == 0, "an inode is destroyed as it was built");
    CONSTRUCTED.set(CONSTRUCTED.get() - 1);
}
