//! The walkthrough of magazines: objects that one CPU frees reach another CPU without touching a
//! slab.
//!
//! One thread plays both CPUs. The contents of the magazines, the depot and the slabs are read from
//! the cache.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

use buddy::Mode;
use page_frame::{CpuId, PAGE_SIZE, SwitchedCpu};
use slab::{Cache, Registry};

use super::step::{self, LEFT, Step, Walk};
use crate::memory::backed::{Backed, CountedBuddy};
use crate::picture::style::{Ink, Style};
use crate::picture::svg::Svg;
use crate::picture::text::counted;

/// Memory of the walkthrough.
const MEMORY_PAGES: usize = 64;
/// CPUs that are played.
const CPUS: usize = 2;
/// Width of an object in a picture, and height of a row, in pixels.
const CELL: f64 = 22.0;
const ROW: f64 = 34.0;
/// From the left edge to the first magazine's name: its size suits the larger text of phones.
const COLUMN: f64 = 80.0;
/// Height of a picture in pixels.
const HEIGHT: f64 = ROW * (CPUS as f64 + 1.0) - 6.0;
/// A packet, say.
const OBJECT_BYTES: usize = 256;

type Cpus<'c> = &'c SwitchedCpu;
type Packets<'m, 'c> = Cache<(&'m CountedBuddy<Cpus<'c>>, Cpus<'c>)>;

/// Where the packets are after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    held: usize,
    /// Objects in the loaded and in the previous magazine of each CPU; `None` for no magazine.
    slots: [[Option<usize>; 2]; CPUS],
    /// Full magazines.
    depot: usize,
    /// Objects for which a magazine has room.
    room: usize,
    slabs: usize,
    /// Free objects in slabs.
    free: usize,
    /// Slabs that were taken from the page source so far.
    grown: usize,
}

/// A cache, its user, and the steps so far.
struct Scene<'m, 'c> {
    steps: Vec<Step>,
    cpus: Cpus<'c>,
    packets: Packets<'m, 'c>,
    held: Vec<NonNull<u8>>,
}

/// Plays the walkthrough.
///
/// # Errors
/// When the system gives no memory.
pub(super) fn walk() -> io::Result<Walk> {
    let cpus = SwitchedCpu::new(CPUS);
    let memory = Backed::new(MEMORY_PAGES * PAGE_SIZE, &cpus, Mode::Plain)?;
    let registry = Registry::new(&*memory, &cpus).map_err(io::Error::other)?;
    let layout = Layout::from_size_align(OBJECT_BYTES, 8).map_err(io::Error::other)?;
    let packets = registry.cache("packet", layout).build().map_err(io::Error::other)?;
    let room = packets.stats().magazine_capacity;
    let introduction = format!(
        "A cache of packets, {OBJECT_BYTES} bytes each, and two CPUs. A magazine has room for {room};\n\
         each CPU has two, loaded and previous; the depot is where they exchange them.\n"
    );
    let mut scene = Scene { steps: Vec::new(), cpus: &cpus, packets, held: Vec::new() };
    receive(&mut scene, room)?;
    pass_on(&mut scene, room)?;
    release_everything(&mut scene);
    Ok(Walk { introduction, legend: String::new(), steps: scene.steps })
}

/// CPU 0 allocates.
fn receive(scene: &mut Scene<'_, '_>, room: usize) -> io::Result<()> {
    scene.show("Nothing was asked for yet: no slab, and no magazine.");
    scene.allocate(0, 1)?;
    scene.show("CPU 0 allocates a packet. It comes from a slab: a CPU that asks seldom needs no\nmagazine.");
    while scene.magazines(0)[0].is_none() && scene.held.len() < 10 * room {
        scene.allocate(0, 1)?;
    }
    let asked = scene.held.len();
    scene.show(&format!(
        "At its request number {asked} the CPU has shown that it will ask for more. It gets a\nmagazine, filled from the slabs."
    ));
    let before = scene.state();
    // One object stays, so that no request has to refill.
    let pops = scene.magazines(0)[0].unwrap_or(0).saturating_sub(1);
    scene.allocate(0, pops)?;
    let slabs = match scene.state().free == before.free {
        true => "touches no slab",
        false => "touches a slab",
    };
    scene.show(&format!(
        "{} later, each popped from the loaded magazine. That {slabs}.",
        counted(pops, "request")
    ));
    // Not a multiple of a magazine, so that it is neither full nor empty.
    scene.allocate(0, 3 * room + room / 2)?;
    scene.show("CPU 0 receives packets, and refills from the slabs.");
    Ok(())
}

/// CPU 1 frees what CPU 0 allocated, and CPU 0 gets it back.
fn pass_on(scene: &mut Scene<'_, '_>, room: usize) -> io::Result<()> {
    while scene.magazines(1)[0].is_none() && scene.held.len() > room {
        scene.free(1, 1);
    }
    scene.show("CPU 1 has done with the packets and frees them. It has got a magazine\ntoo; what it frees is not sent back to CPU 0, but kept here.");
    scene.fill(1, room);
    scene.show("Its magazine is full.");
    let depot = scene.depot();
    while scene.depot() == depot && !scene.held.is_empty() {
        scene.free(1, 1);
    }
    scene.show("Both of its magazines were full: one went to the depot, whole.");
    let (grown, depot) = (scene.packets.stats().grown, scene.depot());
    let mut asked = 0;
    while scene.depot() >= depot && asked < 10 * room {
        scene.allocate(0, 1)?;
        asked += 1;
    }
    let grown = scene.packets.stats().grown - grown;
    let took = match scene.depot() < depot {
        true => "takes the full one from the depot",
        false => "goes on without",
    };
    scene.show(&format!(
        "CPU 0 allocates {}: its magazine runs empty,\nand it {took}.\nSlabs grown for that: {grown}. The packets are warm from CPU 1's use.",
        counted(asked, "packet")
    ));
    Ok(())
}

/// Everything is freed, and the pages are released.
fn release_everything(scene: &mut Scene<'_, '_>) {
    let rest = scene.held.len();
    scene.free(1, rest);
    scene.show("CPU 1 frees all. What depot and magazines have no room for went to the slabs.");
    let given = scene.packets.shrink_all();
    let verb = if given == 1 { "is" } else { "are" };
    scene.show(&format!(
        "Memory is asked back: the magazines are emptied, those of the idle CPU too, and\n{} {verb} released.",
        counted(given, "page")
    ));
}

impl Scene<'_, '_> {
    fn be(&self, cpu: u32) {
        self.cpus.switch_to(Some(CpuId::new(cpu)));
    }

    fn allocate(&mut self, cpu: u32, objects: usize) -> io::Result<()> {
        self.be(cpu);
        for _ in 0..objects {
            self.held.push(self.packets.allocate().map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Frees the oldest packets.
    fn free(&mut self, cpu: u32, objects: usize) {
        self.be(cpu);
        for object in self.held.drain(..objects.min(self.held.len())) {
            // SAFETY: allocated from this cache, and not used any more.
            unsafe { self.packets.free(object) };
        }
    }

    /// Frees packets until the loaded magazine is full.
    fn fill(&mut self, cpu: u32, room: usize) {
        while self.magazines(cpu)[0].is_some_and(|length| length < room) && !self.held.is_empty() {
            self.free(cpu, 1);
        }
    }

    fn magazines(&self, cpu: u32) -> [Option<usize>; 2] {
        self.be(cpu);
        self.packets.magazines()
    }

    fn depot(&self) -> usize {
        self.packets.stats().depot_magazines
    }

    fn state(&self) -> State {
        let stats = self.packets.stats();
        State {
            held: self.held.len(),
            slots: [0, 1].map(|cpu| self.magazines(cpu)),
            depot: stats.depot_magazines,
            room: stats.magazine_capacity,
            slabs: stats.slabs,
            free: stats.objects - stats.objects_active,
            grown: stats.grown,
        }
    }

    /// Ends a step.
    fn show(&mut self, caption: &str) {
        let state = Box::new(self.state());
        self.steps.push(Step { caption: caption.to_owned(), state });
    }
}

impl step::State for State {
    fn plain(&self) -> String {
        let length = |length: Option<usize>| length.map_or("-".into(), |length| length.to_string());
        let slots =
            self.slots.map(|[loaded, previous]| format!("{}+{}", length(loaded), length(previous)));
        let Self { held, depot, room, free, slabs, .. } = self;
        format!(
            "{held} in use, cpu 0 {}, cpu 1 {}, depot {depot}x{room}, {free} free in {slabs} slabs",
            slots[0], slots[1]
        )
    }

    fn lines(&self, style: &Style) -> Vec<String> {
        let mut lines = Vec::new();
        for (cpu, magazines) in self.slots.into_iter().enumerate() {
            let [loaded, previous] = magazines.map(|length| self.magazine(length, style));
            // A magazine that is not there leaves its place empty.
            let gap = " ".repeat(if magazines[0].is_none() { self.room - 2 } else { 0 });
            lines.push(format!("CPU {cpu}   loaded {loaded}{gap}   previous {previous}"));
        }
        let full: Vec<_> = (0..self.depot).map(|_| self.magazine(Some(self.room), style)).collect();
        let full = if full.is_empty() { "empty".to_owned() } else { full.join(" ") };
        lines.push(format!("depot   {full}"));
        lines
    }

    fn notes(&self) -> Vec<String> {
        let slabs = counted(self.slabs, "slab");
        let (free, held) = (counted(self.free, "object"), counted(self.held, "object"));
        vec![format!("{slabs} with {} free; {held} in use", free)]
    }

    /// Draws each magazine as a row of cells, a cell for each object that it has room for.
    fn draw(&self, svg: &mut Svg, top: f64) {
        for (cpu, magazines) in self.slots.iter().enumerate() {
            let top = top + cpu as f64 * ROW;
            svg.text((LEFT, top + 17.0), "bold", &format!("CPU {cpu}"));
            for (index, (length, name)) in magazines.iter().zip(["loaded", "previous"]).enumerate()
            {
                let left = LEFT + COLUMN + index as f64 * 260.0;
                svg.text((left, top + 17.0), "faint", name);
                self.draw_magazine(svg, (left + 104.0, top), *length);
            }
        }
        let top = top + CPUS as f64 * ROW;
        svg.text((LEFT, top + 17.0), "bold", "depot");
        if self.depot == 0 {
            svg.text((LEFT + COLUMN, top + 17.0), "faint", "empty");
        }
        for magazine in 0..self.depot {
            let width = self.room as f64 * CELL + 16.0;
            let left = LEFT + COLUMN + magazine as f64 * width;
            self.draw_magazine(svg, (left, top), Some(self.room));
        }
    }

    fn height(&self) -> f64 {
        HEIGHT
    }
}

impl State {
    /// Returns a magazine with an object a column.
    fn magazine(&self, length: Option<usize>, style: &Style) -> String {
        let Some(length) = length else { return "none".to_owned() };
        let full = style.paint(Ink::Taken, &"#".repeat(length));
        let free = style.paint(Ink::Idle, &".".repeat(self.room - length));
        format!("[{full}{free}]")
    }

    fn draw_magazine(&self, svg: &mut Svg, (left, top): (f64, f64), length: Option<usize>) {
        let Some(length) = length else {
            svg.text((left, top + 17.0), "faint", "none");
            return;
        };
        for object in 0..self.room {
            let class = if object < length { "taken" } else { "idle" };
            let left = left + object as f64 * CELL;
            svg.rect((left, top), (CELL - 2.0, 24.0), class, "");
        }
    }
}
