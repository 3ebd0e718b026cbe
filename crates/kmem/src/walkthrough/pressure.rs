//! The walkthrough of memory that runs short: two caches over one small buddy, behind
//! [`Reclaiming`]. One cache keeps empty slabs; when the other one needs pages, they are released,
//! and neither user notices.
//!
//! The bar shows every page of the buddy: whose slab it belongs to is what the caches say, what is
//! free what the buddy says.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

use buddy::{BlockState, Mode};
use hosted::Threads;
use page_frame::{OutOfMemory, PAGE_SIZE, Reclaiming, Shrink, ShrinkList};
use slab::{Cache, Registry};

use super::step::{self, LEFT, SCALE, Step, Walk};
use crate::memory::backed::{Backed, CountedBuddy};
use crate::picture::style::{Ink, Style};
use crate::picture::svg::Svg;
use crate::picture::text::counted;

/// Memory of the walkthrough; a page is a column.
const MEMORY_PAGES: usize = 64;

/// Height of a picture in pixels.
const HEIGHT: f64 = 58.0;

type Source<'m> = Reclaiming<&'m CountedBuddy<Threads>, ShrinkList<1>>;
type Objects<'s, 'm> = Cache<(&'s Source<'m>, Threads)>;

/// A cache and its objects in use.
struct User<'s, 'm> {
    cache: Objects<'s, 'm>,
    held: Vec<NonNull<u8>>,
    letter: char,
    ink: Ink,
}

/// The owners of the pages after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// A character and an ink for each page.
    bar: Vec<(char, Ink)>,
    free: usize,
    /// Objects in use and slabs of dentries and of inodes; `None` once the caches are destroyed.
    users: Option<[(usize, usize); 2]>,
}

/// The caches, and the steps so far.
struct Scene<'s, 'm> {
    steps: Vec<Step>,
    memory: &'m Backed<Threads>,
    dentries: User<'s, 'm>,
    inodes: User<'s, 'm>,
}

/// Plays the walkthrough.
///
/// # Errors
/// When the system gives no memory.
pub(super) fn walk() -> io::Result<Walk> {
    let memory = Backed::new(MEMORY_PAGES * PAGE_SIZE, Threads, Mode::Plain)?;
    let source = Reclaiming::new(&*memory, ShrinkList::new());
    let registry = Registry::new(&source, Threads).map_err(io::Error::other)?;
    let shrinker: &dyn Shrink = &registry;
    // SAFETY: it is taken out again below, before the registry ends.
    unsafe { source.shrinker().register(NonNull::from(shrinker)) }.map_err(io::Error::other)?;
    let played = play_on(&memory, &registry);
    let was_there = source.shrinker().unregister(NonNull::from(shrinker));
    debug_assert_eq!(was_there, Ok(true), "nobody is inside: there is one thread");
    drop(registry);
    let mut steps = played?;
    let state = State { bar: bar(&memory), free: memory.buddy().free_frames_count(), users: None };
    let caption = "The caches are destroyed, and the registry with them.".to_owned();
    steps.push(Step { caption, state: Box::new(state) });
    let introduction = format!("{MEMORY_PAGES} pages for two caches, of dentries and of inodes.\n");
    let legend =
        "D, I: a page of a slab of dentries, of inodes; d, i: of a slab without an object\n\
         in use; R: of the registry; . a free one.\n"
            .to_owned();
    Ok(Walk { introduction, legend, steps })
}

fn play_on<'m>(
    memory: &'m Backed<Threads>,
    registry: &Registry<(&Source<'m>, Threads)>,
) -> io::Result<Vec<Step>> {
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
    let mut scene = Scene { steps: Vec::new(), memory, dentries, inodes };
    run_short(&mut scene)?;
    grow_again(&mut scene);
    scene.dentries.free_all();
    scene.inodes.free_all();
    scene.show("Everything is freed; both caches keep their slabs.");
    let given = registry.shrink_all();
    scene.show(&format!(
        "The system asks for all that can be spared: {} released.",
        are(given, "page")
    ));
    Ok(scene.steps)
}

/// Returns a number of things with its verb: `1 page is`, `2 pages are`.
fn are(count: usize, noun: &str) -> String {
    format!("{} {}", counted(count, noun), if count == 1 { "is" } else { "are" })
}

/// One cache fills memory and is left with empty slabs; the other needs pages.
fn run_short(scene: &mut Scene<'_, '_>) -> io::Result<()> {
    scene.show("The registry and two empty caches.");
    while scene.memory.buddy().free_frames_count() > MEMORY_PAGES / 5 {
        scene.dentries.allocate().map_err(io::Error::other)?;
    }
    scene.show("Dentries are needed: their cache grows.");
    scene.dentries.free_all();
    scene.show("All dentries are freed. Their cache keeps the slabs.");
    let before = scene.dentries.slabs();
    while scene.dentries.slabs() == before && scene.inodes.allocate().is_ok() {}
    scene.show(&format!(
        "Inodes take the free pages. When the buddy refuses one, the registry is asked\nto shrink: {} released, and the request succeeds.",
        of_dentries(before - scene.dentries.slabs())
    ));
    let before = (scene.dentries.slabs(), scene.inodes.held.len());
    while scene.inodes.allocate().is_ok() {}
    scene.show(&format!(
        "Inodes grow on: {} more, for which {} released.\nThen memory is out, and the cache says so.",
        counted(scene.inodes.held.len() - before.1, "object"),
        of_dentries(before.0 - scene.dentries.slabs())
    ));
    Ok(())
}

fn of_dentries(slabs: usize) -> String {
    let verb = if slabs == 1 { "is" } else { "are" };
    format!("{} of dentries {verb}", counted(slabs, "slab"))
}

/// The needs turn round.
fn grow_again(scene: &mut Scene<'_, '_>) {
    let half = scene.inodes.held.len() / 2;
    scene.inodes.free(half);
    scene.show("The younger half of the inodes is freed. Their slabs are kept in turn.");
    let before = (scene.dentries.slabs(), scene.inodes.slabs());
    while scene.dentries.allocate().is_ok() {}
    scene.show(&format!(
        "Dentries are needed again: their cache grows by {}, and for that\n{} of inodes were released.",
        counted(scene.dentries.slabs() - before.0, "slab"),
        counted(before.1 - scene.inodes.slabs(), "slab")
    ));
}

/// Returns a cell for each page: what is free, and what the registry and caches have.
fn bar(memory: &Backed<Threads>) -> Vec<(char, Ink)> {
    let mut bar = Vec::new();
    for block in memory.buddy().blocks() {
        let cell = match block.state {
            BlockState::Free => ('.', Ink::Idle),
            BlockState::Allocated | BlockState::Cached => ('R', Ink::Metadata),
        };
        bar.extend(std::iter::repeat_n(cell, block.frames));
    }
    bar
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

    fn slabs(&self) -> usize {
        self.cache.stats().slabs
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

impl Scene<'_, '_> {
    /// Ends a step.
    fn show(&mut self, caption: &str) {
        let mut bar = bar(self.memory);
        let base = self.memory.start_address();
        self.dentries.mark(&mut bar, base);
        self.inodes.mark(&mut bar, base);
        let free = self.memory.buddy().free_frames_count();
        let users = [&self.dentries, &self.inodes].map(|user| (user.held.len(), user.slabs()));
        let state = Box::new(State { bar, free, users: Some(users) });
        self.steps.push(Step { caption: caption.to_owned(), state });
    }
}

impl step::State for State {
    fn plain(&self) -> String {
        let bar: String = self.bar.iter().map(|(character, _)| character).collect();
        match self.users {
            Some([(dentries, _), (inodes, _)]) => {
                format!("{bar} free {} dentries {dentries} inodes {inodes}", self.free)
            }
            None => format!("{bar} free {}", self.free),
        }
    }

    fn lines(&self, style: &Style) -> Vec<String> {
        vec![format!("|{}|", style.paint_cells(&self.bar))]
    }

    fn notes(&self) -> Vec<String> {
        let Some([dentries, inodes]) = self.users else {
            return vec![format!("all {} pages free", self.free)];
        };
        vec![format!(
            "{} free; {} in {}, {} in {}",
            counted(self.free, "page"),
            counted(dentries.0, "dentry"),
            counted(dentries.1, "slab"),
            counted(inodes.0, "inode"),
            counted(inodes.1, "slab")
        )]
    }

    /// Draws each page as a cell, hollow if its slab has no object in use, and below it what the
    /// colours are.
    fn draw(&self, svg: &mut Svg, top: f64) {
        let width = SCALE / self.bar.len().max(1) as f64;
        for (page, (letter, ink)) in self.bar.iter().enumerate() {
            let left = LEFT + page as f64 * width;
            match cell_class(*letter, *ink) {
                class @ ("taken-kept" | "other-kept") => {
                    svg.rect((left + 1.5, top + 1.0), (width - 3.0, 32.0), class, "");
                }
                class => svg.rect((left + 0.5, top), (width - 1.0, 34.0), class, ""),
            }
        }
        let legend = [
            (0.0, "taken", "dentries"),
            (130.0, "other", "inodes"),
            (245.0, "taken-kept", "empty slab"),
            (400.0, "meta", "registry"),
            (530.0, "idle", "free"),
        ];
        for (left, class, name) in legend {
            svg.rect((LEFT + left, top + 44.0), (10.0, 10.0), class, "");
            svg.text((LEFT + left + 15.0, top + 54.0), "faint", name);
        }
    }

    fn height(&self) -> f64 {
        HEIGHT
    }
}

/// Returns the class of a page's rectangle.
fn cell_class(letter: char, ink: Ink) -> &'static str {
    match (letter, ink.classes().0) {
        ('d', _) => "taken-kept",
        ('i', _) => "other-kept",
        ('.', _) | (_, "") => "idle",
        (_, class) => class,
    }
}
