//! The walkthrough of memory that runs short: two caches over one small buddy, behind
//! [`Reclaiming`]. One cache keeps empty slabs; when the other one needs pages, they are released,
//! and neither user notices.
//!
//! The bar shows every page of the buddy: whose slab it belongs to is what the caches say, what is
//! free what the buddy says.

use std::alloc::Layout;
use std::io::{self, Write};
use std::ptr::NonNull;

use buddy::{BlockState, Mode};
use hosted::Threads;
use page_frame::{OutOfMemory, PAGE_SIZE, Reclaiming, Shrink, ShrinkList};
use slab::{Cache, Registry};

use crate::backed::{Backed, CountedBuddy};
use crate::picture::style::{Ink, Style};
use crate::picture::text::counted;

/// Memory of the walkthrough; a page is a column.
const MEMORY_PAGES: usize = 64;

type Source<'m> = Reclaiming<&'m CountedBuddy<Threads>, ShrinkList<1>>;
type Objects<'s, 'm> = Cache<(&'s Source<'m>, Threads)>;

/// A cache and its objects in use.
struct User<'s, 'm> {
    cache: Objects<'s, 'm>,
    held: Vec<NonNull<u8>>,
    letter: char,
    ink: Ink,
}

/// The picture, and where it is drawn.
struct Scene<'s, 'm, W> {
    out: W,
    style: &'s Style,
    memory: &'m Backed<Threads>,
    dentries: User<'s, 'm>,
    inodes: User<'s, 'm>,
}

/// Plays the walkthrough.
///
/// # Errors
/// When `out` does not take the text, or the system gives no memory.
pub fn play(out: &mut impl Write, style: &Style) -> io::Result<()> {
    let memory = Backed::new(MEMORY_PAGES * PAGE_SIZE, Threads, Mode::Plain)?;
    let source = Reclaiming::new(&*memory, ShrinkList::new());
    let registry = Registry::new(&source, Threads).map_err(io::Error::other)?;
    let shrinker: &dyn Shrink = &registry;
    // SAFETY: it is taken out again below, before the registry ends.
    unsafe { source.shrinker().register(NonNull::from(shrinker)) }.map_err(io::Error::other)?;
    let played = play_on(out, style, &memory, &registry);
    let was_there = source.shrinker().unregister(NonNull::from(shrinker));
    debug_assert_eq!(was_there, Ok(true), "nobody is inside: there is one thread");
    drop(registry);
    played?;
    let free = memory.buddy().free_frames_count();
    if style.plain {
        writeln!(out, "{} free {free}", ".".repeat(free))?;
    } else {
        let caption = "The caches are destroyed, and the registry with them.";
        writeln!(out, "{}", style.paint(Ink::Caption, caption))?;
        writeln!(out, "  |{}|", style.paint(Ink::Idle, &".".repeat(free)))?;
        writeln!(out, "  all {free} pages free")?;
    }
    style.rest(out)
}

fn play_on<'s, 'm>(
    out: &mut impl Write,
    style: &'s Style,
    memory: &'m Backed<Threads>,
    registry: &Registry<(&'s Source<'m>, Threads)>,
) -> io::Result<()> {
    let user = |name, bytes, letter, ink| {
        let layout = Layout::from_size_align(bytes, 8).map_err(io::Error::other)?;
        // Room for all that there is: empty slabs are released only on request.
        let cache = registry.cache(name, layout).keep_empty(MEMORY_PAGES).build();
        Ok::<_, io::Error>(User {
            cache: cache.map_err(io::Error::other)?,
            held: Vec::new(),
            letter,
            ink,
        })
    };
    let dentries = user("dentry", 192, 'd', Ink::Taken)?;
    let inodes = user("inode", 640, 'i', Ink::TakenByOther)?;
    if !style.plain {
        writeln!(
            out,
            "{MEMORY_PAGES} pages for two caches, of dentries (D) and of inodes (I). A small letter is"
        )?;
        writeln!(
            out,
            "a page of a slab without an object in use, R one of the registry, . a free one.\n"
        )?;
    }
    let mut scene = Scene { out, style, memory, dentries, inodes };
    run_short(&mut scene)?;
    grow_again(&mut scene)?;
    scene.dentries.free_all();
    scene.inodes.free_all();
    scene.show("Everything is freed; both caches keep their slabs.")?;
    let given = registry.shrink_all();
    scene.show(&format!(
        "The system asks for all that can be spared: {} are released.",
        counted(given, "page")
    ))
}

/// One cache fills memory and is left with empty slabs; the other needs pages.
fn run_short<W: Write>(scene: &mut Scene<'_, '_, W>) -> io::Result<()> {
    scene.show("The registry and two empty caches.")?;
    while scene.memory.buddy().free_frames_count() > MEMORY_PAGES / 5 {
        scene.dentries.allocate().map_err(io::Error::other)?;
    }
    scene.show("Dentries are needed: their cache grows.")?;
    scene.dentries.free_all();
    scene.show("All dentries are freed. Their cache keeps the slabs.")?;
    while scene.dentries.cache.stats().shrunk == 0 && scene.inodes.allocate().is_ok() {}
    let stats = scene.dentries.cache.stats();
    scene.show(&format!(
        "Inodes take the free pages. When the buddy refuses one, the registry is asked\nto shrink: {} of dentries are released, and the request succeeds.",
        counted(stats.shrunk, "slab")
    ))?;
    let before = (stats.shrunk, scene.inodes.held.len());
    while scene.inodes.allocate().is_ok() {}
    let shrunk = scene.dentries.cache.stats().shrunk;
    scene.show(&format!(
        "Inodes grow on: {} more, for which {} more were released.\nThen memory is out, and the cache says so.",
        counted(scene.inodes.held.len() - before.1, "object"),
        counted(shrunk - before.0, "slab")
    ))
}

/// The needs turn round.
fn grow_again<W: Write>(scene: &mut Scene<'_, '_, W>) -> io::Result<()> {
    let half = scene.inodes.held.len() / 2;
    scene.inodes.free(half);
    scene.show("The younger half of the inodes is freed. Their slabs are kept in turn.")?;
    let grown = scene.dentries.cache.stats().grown;
    while scene.dentries.allocate().is_ok() {}
    let (dentries, inodes) = (scene.dentries.cache.stats(), scene.inodes.cache.stats());
    scene.show(&format!(
        "Dentries are needed again: their cache grows by {}, and for that\n{} of inodes were released.",
        counted(dentries.grown - grown, "slab"),
        counted(inodes.shrunk, "slab")
    ))
}

impl User<'_, '_> {
    fn allocate(&mut self) -> Result<(), OutOfMemory> {
        self.held.push(self.cache.allocate()?);
        Ok(())
    }

    /// Frees the objects from the one at `from` on.
    fn free(&mut self, from: usize) {
        for object in self.held.drain(from..) {
            // SAFETY: allocated from this cache, and not used.
            unsafe { self.cache.free(object) };
        }
    }

    fn free_all(&mut self) {
        self.free(0);
    }

    /// Marks the pages of the slabs in `bar`, which begins at address `base`.
    fn mark(&self, bar: &mut [(char, Ink)], base: usize) {
        let mut used: Vec<_> = self.held.iter().map(|object| object.addr().get()).collect();
        used.sort_unstable();
        self.cache.for_each_slab(|slab| {
            let end = slab.start + slab.order.bytes();
            let next = used.partition_point(|object| *object < slab.start);
            let is_used = used.get(next).is_some_and(|object| *object < end);
            let cell = match is_used {
                true => (self.letter.to_ascii_uppercase(), self.ink),
                false => (self.letter, Ink::Idle),
            };
            let first = (slab.start - base) / PAGE_SIZE;
            bar[first..first + slab.order.pages()].fill(cell);
        });
    }
}

impl<W: Write> Scene<'_, '_, W> {
    /// Draws the state, below its caption.
    fn show(&mut self, caption: &str) -> io::Result<()> {
        let mut bar = Vec::new();
        for block in self.memory.buddy().blocks() {
            let cell = match block.state {
                BlockState::Free => ('.', Ink::Idle),
                BlockState::Allocated | BlockState::Cached => ('R', Ink::Metadata),
            };
            bar.extend(std::iter::repeat_n(cell, block.frames));
        }
        let base = self.memory.start_address();
        self.dentries.mark(&mut bar, base);
        self.inodes.mark(&mut bar, base);
        let free = self.memory.buddy().free_frames_count();
        let (dentries, inodes) = (&self.dentries, &self.inodes);
        if self.style.plain {
            let bar: String = bar.iter().map(|(character, _)| character).collect();
            writeln!(
                self.out,
                "{bar} free {free} dentries {} inodes {}",
                dentries.held.len(),
                inodes.held.len()
            )?;
        } else {
            writeln!(self.out, "{}", self.style.paint(Ink::Caption, caption))?;
            writeln!(self.out, "  |{}|", self.style.paint_cells(&bar))?;
            let slabs = [dentries, inodes].map(|user| counted(user.cache.stats().slabs, "slab"));
            writeln!(
                self.out,
                "  {} free; {} in {}, {} in {}",
                counted(free, "page"),
                counted(dentries.held.len(), "dentry"),
                slabs[0],
                counted(inodes.held.len(), "inode"),
                slabs[1]
            )?;
        }
        self.style.rest(&mut self.out)
    }
}
