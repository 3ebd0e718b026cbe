//! The walkthrough of magazines: objects that one CPU frees reach another CPU without touching a
//! slab.
//!
//! One thread plays both CPUs. The contents of the magazines, the depot and the slabs are read from
//! the cache.

use std::alloc::Layout;
use std::io::{self, Write};
use std::ptr::NonNull;

use buddy::Mode;
use page_frame::{CpuId, PAGE_SIZE, SwitchedCpu};
use slab::{Cache, Registry};

use crate::backed::{Backed, CountedBuddy};
use crate::picture::style::{Ink, Style};
use crate::picture::text::counted;

/// Memory of the walkthrough.
const MEMORY_PAGES: usize = 64;
/// CPUs that are played.
const CPUS: usize = 2;
/// A packet, say.
const OBJECT_BYTES: usize = 256;

type Cpus<'c> = &'c SwitchedCpu;
type Packets<'m, 'c> = Cache<(&'m CountedBuddy<Cpus<'c>>, Cpus<'c>)>;

/// A cache, its user, and where to draw them.
struct Scene<'m, 'c, 's, W> {
    out: W,
    style: &'s Style,
    cpus: Cpus<'c>,
    packets: Packets<'m, 'c>,
    held: Vec<NonNull<u8>>,
}

/// Plays the walkthrough.
///
/// # Errors
/// When `out` does not take the text, or the system gives no memory.
pub fn play(out: &mut impl Write, style: &Style) -> io::Result<()> {
    let cpus = SwitchedCpu::new(CPUS);
    let memory = Backed::new(MEMORY_PAGES * PAGE_SIZE, &cpus, Mode::Plain)?;
    let registry = Registry::new(&*memory, &cpus).map_err(io::Error::other)?;
    let layout = Layout::from_size_align(OBJECT_BYTES, 8).map_err(io::Error::other)?;
    let packets = registry.cache("packet", layout).build().map_err(io::Error::other)?;
    let room = packets.stats().magazine_capacity;
    if !style.plain {
        writeln!(
            out,
            "A cache of packets, {OBJECT_BYTES} bytes each, and two CPUs. A magazine has room for {room};"
        )?;
        writeln!(
            out,
            "each CPU has two, loaded and previous; the depot is where they exchange them.\n"
        )?;
    }
    let mut scene = Scene { out, style, cpus: &cpus, packets, held: Vec::new() };
    receive(&mut scene, room)?;
    pass_on(&mut scene, room)?;
    release_everything(&mut scene)
}

/// CPU 0 allocates.
fn receive<W: Write>(scene: &mut Scene<'_, '_, '_, W>, room: usize) -> io::Result<()> {
    scene.show("Nothing was asked for yet: no slab, and no magazine.")?;
    scene.allocate(0, 1)?;
    scene.show("CPU 0 allocates a packet. It comes from a slab: a CPU that asks seldom needs no\nmagazine.")?;
    while scene.magazines(0)[0].is_none() && scene.held.len() < 10 * room {
        scene.allocate(0, 1)?;
    }
    let asked = scene.held.len();
    scene.show(&format!(
        "At its request number {asked} the CPU has shown that it will ask for more. It gets a\nmagazine, filled from the slabs."
    ))?;
    scene.allocate(0, 4)?;
    scene.show("The next requests are pops from the loaded magazine, and touch no slab.")?;
    scene.allocate(0, 3 * room)?;
    scene.show("CPU 0 receives packets, and refills from the slabs.")
}

/// CPU 1 frees what CPU 0 allocated, and CPU 0 gets it back.
fn pass_on<W: Write>(scene: &mut Scene<'_, '_, '_, W>, room: usize) -> io::Result<()> {
    while scene.magazines(1)[0].is_none() && scene.held.len() > room {
        scene.free(1, 1);
    }
    scene.show("CPU 1 has done with the packets and frees them. It has got a magazine\ntoo; what it frees is not sent back to CPU 0, but kept here.")?;
    scene.fill(1, room);
    scene.show("Its magazine is full.")?;
    let depot = scene.depot();
    while scene.depot() == depot && !scene.held.is_empty() {
        scene.free(1, 1);
    }
    scene.show("Both of its magazines are full: one goes to the depot, whole.")?;
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
    ))
}

/// Everything is freed, and the pages are released.
fn release_everything<W: Write>(scene: &mut Scene<'_, '_, '_, W>) -> io::Result<()> {
    let rest = scene.held.len();
    scene.free(1, rest);
    scene.show("CPU 1 frees all. What depot and magazines have no room for went to the slabs.")?;
    let given = scene.packets.shrink_all();
    scene.show(&format!(
        "Memory is asked back: the magazines are emptied, those of the idle CPU too, and\n{} are released.",
        counted(given, "page")
    ))
}

impl<W: Write> Scene<'_, '_, '_, W> {
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

    /// Draws the state, below its caption.
    fn show(&mut self, caption: &str) -> io::Result<()> {
        let stats = self.packets.stats();
        let room = stats.magazine_capacity;
        let in_slabs = stats.objects - stats.objects_active;
        let (held, depot) = (self.held.len(), stats.depot_magazines);
        let slots = [0, 1].map(|cpu| self.magazines(cpu));
        if self.style.plain {
            let length =
                |length: Option<usize>| length.map_or("-".into(), |length| length.to_string());
            let slots =
                slots.map(|[loaded, previous]| format!("{}+{}", length(loaded), length(previous)));
            writeln!(
                self.out,
                "{held} in use, cpu 0 {}, cpu 1 {}, depot {depot}x{room}, {in_slabs} free in {} slabs",
                slots[0], slots[1], stats.slabs
            )?;
            return self.style.rest(&mut self.out);
        }
        writeln!(self.out, "{}", self.style.paint(Ink::Caption, caption))?;
        for (cpu, magazines) in slots.into_iter().enumerate() {
            let [loaded, previous] = magazines.map(|length| self.magazine(length, room));
            // A magazine that is not there leaves its place empty.
            let gap = " ".repeat(if magazines[0].is_none() { room - 2 } else { 0 });
            writeln!(self.out, "  CPU {cpu}   loaded {loaded}{gap}   previous {previous}")?;
        }
        let full: Vec<_> = (0..depot).map(|_| self.magazine(Some(room), room)).collect();
        let full = if full.is_empty() { "empty".to_owned() } else { full.join(" ") };
        writeln!(self.out, "  depot   {full}")?;
        writeln!(
            self.out,
            "  slabs   {}, {in_slabs} free in them; {held} in use",
            counted(stats.slabs, "slab")
        )?;
        self.style.rest(&mut self.out)
    }

    /// Returns a magazine with an object a column.
    fn magazine(&self, length: Option<usize>, room: usize) -> String {
        let Some(length) = length else { return "none".to_owned() };
        let full = self.style.paint(Ink::Taken, &"#".repeat(length));
        let free = self.style.paint(Ink::Idle, &".".repeat(room - length));
        format!("[{full}{free}]")
    }
}
