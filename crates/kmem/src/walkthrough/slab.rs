//! The walkthrough of a cache: coloured slabs that fill object by object, drawn from a real cache.
//!
//! The cache shows the address, the colour and the number of free objects of each slab. Only a user
//! knows which objects are in use. Here the walkthrough is the user, and finds the slab of each
//! pointer that it holds.

use std::alloc::Layout;
use std::cell::Cell;
use std::collections::HashSet;
use std::io::{self, Write};
use std::ptr::NonNull;

use buddy::Mode;
use page_frame::{Order, PAGE_SIZE, SingleCpu};
use slab::{Cache, Geometry, Registry, SlabView};

use crate::backed::{Backed, CountedBuddy};
use crate::picture::style::{Ink, Style};
use crate::picture::text::counted;

/// Memory of the walkthrough.
const MEMORY_PAGES: usize = 64;
/// Bytes that a column of the picture stands for: a line of the CPU cache.
const LINE_BYTES: usize = 64;
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

/// A cache, the objects that are in use, and where to draw them.
struct Scene<'b, 's, W> {
    out: W,
    style: &'s Style,
    inodes: Inodes<'b>,
    held: Vec<NonNull<Inode>>,
}

/// Plays the walkthrough.
///
/// # Errors
/// When `out` does not take the text, or the system gives no memory.
pub fn play(out: &mut impl Write, style: &Style) -> io::Result<()> {
    let memory = Backed::new(MEMORY_PAGES * PAGE_SIZE, SingleCpu::new(), Mode::Plain)?;
    let registry = Registry::new(&*memory, SingleCpu::new()).map_err(io::Error::other)?;
    let builder = registry.cache("inode", LAYOUT).max_order(Order::ZERO);
    // SAFETY: `construct` takes raw memory of an inode's layout.
    let builder = unsafe { builder.constructor(construct) };
    // SAFETY: `destroy` takes constructed inodes; they stay inodes while they are in use.
    let builder = unsafe { builder.destructor(destroy) };
    let inodes = builder.build().map_err(io::Error::other)?;
    if !style.plain {
        introduce(out, &inodes.geometry())?;
    }
    let mut scene = Scene { out, style, inodes, held: Vec::new() };
    fill(&mut scene)?;
    free_and_allocate_again(&mut scene)?;
    release_everything(&mut scene, &memory)
}

/// Says in words how the slabs are cut.
fn introduce(out: &mut impl Write, cut: &Geometry) -> io::Result<()> {
    let (size, left) = (cut.stride(), cut.leftover_bytes());
    let record = cut.slab_bytes() - cut.capacity() * size - left;
    let objects = counted(cut.capacity(), "object");
    let offsets: Vec<_> =
        (0..cut.colours()).map(|colour| cut.colour_offset(colour).to_string()).collect();
    writeln!(
        out,
        "A cache of inodes, {size} bytes each. A slab is {}: {objects} and",
        counted(cut.order().pages(), "page")
    )?;
    writeln!(
        out,
        "{record} bytes of record. {left} bytes are left over, so the first object can lie at"
    )?;
    writeln!(out, "byte {} of its slab: {} colours.", offsets.join(", "), cut.colours())?;
    writeln!(
        out,
        "[###] in use   [...] free   R record   blank: left over   a column is {LINE_BYTES} bytes\n"
    )
}

/// Objects are allocated until there is a slab of every colour.
fn fill<W: Write>(scene: &mut Scene<'_, '_, W>) -> io::Result<()> {
    let (capacity, colours) =
        (scene.inodes.geometry().capacity(), scene.inodes.geometry().colours());
    scene.allocate(1)?;
    let constructed = CONSTRUCTED.get();
    scene.show(&format!(
        "The first request: the cache takes a page and constructs all {constructed} objects."
    ))?;
    scene.allocate(capacity / 2)?;
    scene.show("Requests are served from the slab, and nothing is constructed again.")?;
    scene.allocate(capacity - scene.held.len())?;
    scene.show("The slab is full.")?;
    for slab in 1..colours {
        scene.allocate(capacity / 2)?;
        let from = scene.slabs().last().map_or(0, |slab| slab.colour_offset);
        scene.show(&format!("The cache grows: the next slab's first object is at byte {from}."))?;
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
    ))
}

/// One object goes back and comes again.
fn free_and_allocate_again<W: Write>(scene: &mut Scene<'_, '_, W>) -> io::Result<()> {
    let index = scene.held.len() / 2 + 1;
    let object = scene.held.swap_remove(index);
    // SAFETY: an object in use is a constructed inode, and ours alone.
    let inode = unsafe { &mut *object.as_ptr() };
    inode.uses += 1;
    let (constructed, left) = (CONSTRUCTED.get(), (inode.lock, inode.uses));
    // SAFETY: allocated from this cache, not in use any more, and as constructed but for a count.
    unsafe { scene.inodes.free(object.cast()) };
    scene.show("An object is freed. Its lock is unlocked, its count of uses is 1.")?;
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
    ))
}

/// Everything is freed; the pages are released.
fn release_everything<W: Write>(
    scene: &mut Scene<'_, '_, W>,
    memory: &Backed<SingleCpu>,
) -> io::Result<()> {
    for object in std::mem::take(&mut scene.held) {
        // SAFETY: allocated from this cache, not in use any more, and as constructed but for a
        // count.
        unsafe { scene.inodes.free(object.cast()) };
    }
    scene.show("All are freed. The cache keeps them, constructed, for the next requests.")?;
    let given = scene.inodes.shrink_all();
    let free = memory.buddy().free_frames_count();
    scene.show(&format!(
        "Memory is asked back: every object is destroyed ({} are left),\n{} are released. Of {MEMORY_PAGES} pages, {free} are free.",
        CONSTRUCTED.get(),
        counted(given, "page")
    ))
}

impl<W: Write> Scene<'_, '_, W> {
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

    /// Draws the state, below its caption.
    fn show(&mut self, caption: &str) -> io::Result<()> {
        let slabs = self.slabs();
        let held: HashSet<usize> = self.held.iter().map(|object| object.addr().get()).collect();
        let out_of_slabs: usize = slabs.iter().map(|slab| slab.capacity - slab.free).sum();
        let cached = out_of_slabs - held.len();
        let geometry = self.inodes.geometry();
        if self.style.plain {
            let slabs: Vec<_> = slabs.iter().map(|slab| plain(slab, &geometry, &held)).collect();
            let slabs = if slabs.is_empty() { "none".to_owned() } else { slabs.join(" ") };
            writeln!(self.out, "{} in use, {cached} cached, slabs {slabs}", held.len())?;
            return self.style.rest(&mut self.out);
        }
        writeln!(self.out, "{}", self.style.paint(Ink::Caption, caption))?;
        for slab in &slabs {
            let cells = picture(slab, &geometry, &held);
            writeln!(self.out, "  |{}| set {:>2}", self.style.paint_cells(&cells), set_of(slab))?;
        }
        let kept = match cached {
            0 => String::new(),
            kept => format!(", {kept} of them cached in the CPU's magazines"),
        };
        let free = slabs.iter().map(|slab| slab.capacity).sum::<usize>() - held.len();
        writeln!(
            self.out,
            "  {}, {} in use, {free} free{kept}",
            counted(slabs.len(), "slab"),
            counted(held.len(), "object")
        )?;
        self.style.rest(&mut self.out)
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

/// Returns a slab in one word: its colour's offset, then an object a character.
fn plain(slab: &SlabView, geometry: &Geometry, held: &HashSet<usize>) -> String {
    let mark = |object| if held.contains(&object) { '#' } else { '.' };
    let objects: String = objects(slab, geometry).map(mark).collect();
    format!("{}:{objects}", slab.colour_offset)
}

/// Returns a slab to scale.
fn picture(slab: &SlabView, geometry: &Geometry, held: &HashSet<usize>) -> Vec<(char, Ink)> {
    let mut cells = vec![(' ', Ink::Caption); geometry.slab_bytes() / LINE_BYTES];
    for object in objects(slab, geometry) {
        let first = (object - slab.start) / LINE_BYTES;
        let last = first + geometry.stride() / LINE_BYTES - 1;
        let (fill, ink) = if held.contains(&object) { ('#', Ink::Taken) } else { ('.', Ink::Idle) };
        cells[first..=last].fill((fill, ink));
        (cells[first].0, cells[last].0) = ('[', ']');
    }
    if let Some(offset) = geometry.bookkeeping_offset() {
        cells[offset / LINE_BYTES..].fill(('R', Ink::Metadata));
    }
    cells
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
