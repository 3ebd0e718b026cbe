//! Virtual CPUs: coroutines in one thread, each with a clock in cycles.
//!
//! # Concepts
//! A CPU runs until it needs a line that is not its own alone, or is [`AHEAD_CYCLES`] ahead. Then
//! the CPU with the lowest clock continues.
//!
//! # Invariants
//! - I1: `yielder` of a CPU is null, or the yielder of its coroutine, which lives until the
//!   coroutine ends. It is used only while that coroutine runs.
//! - I2: a [`SimulatedCpu`] gives ids only in the thread of its machine, and only one at a time:
//!   that of the CPU that runs.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};

use corosensei::{Coroutine, CoroutineResult, Yielder};
use page_frame::sync::{Access, AccessKind, hear_accesses};
use page_frame::{Cpu, CpuId};

use crate::scaling::CALL_CYCLES;
use crate::scaling::lines::{LINE_BYTES, Lines, MAX_CPUS, Totals};

/// How far a CPU runs ahead of others while it uses its own lines.
const AHEAD_CYCLES: u64 = 1000;
/// The cost of an instruction that tells the processor of a wait: 40 cycles before Skylake, 140
/// since (Intel 2023, optimization manual).
const WAIT_CYCLES: u64 = 40;

/// Does the work of a CPU for some blocks, and returns how many it allocated and freed.
pub type Program = Box<dyn FnMut() -> usize>;

/// Why a coroutine stops.
enum Stop {
    /// Another CPU has a lower clock.
    Turn,
    /// It sleeps until another CPU takes the line.
    Sleep(usize),
    /// It has warmed up.
    Ready,
}

struct VirtualCpu {
    clock: u64,
    last_line: usize,
    yielder: *const Yielder<(), Stop>,
}

struct Machine {
    number: usize,
    cpus: Vec<VirtualCpu>,
    current: usize,
    /// The lowest clock of another CPU that can run.
    horizon: u64,
    lines: Lines,
    /// The CPUs that sleep, by line.
    sleepers: BTreeMap<usize, Vec<usize>>,
    /// CPUs that were woken and are not in the schedule yet.
    woken: Vec<usize>,
    /// Programs that have ended.
    ended: usize,
    /// The latest clock at which a program ended, and the totals at that of the last one. A program
    /// is dropped after that, and the last one with the allocator, which is not measured.
    end: u64,
    totals: Totals,
}

thread_local! {
    static MACHINE: RefCell<Option<Machine>> = const { RefCell::new(None) };
}

/// A machine of the calling thread, which has one at a time.
pub struct Simulation {
    number: usize,
    cpus: usize,
}

/// The figures of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Blocks that all CPUs allocated and freed.
    pub blocks: usize,
    /// Cycles from the first CPU's start to the last one's end.
    pub cycles: u64,
    /// Accesses of other CPUs' lines.
    pub totals: Totals,
}

impl Simulation {
    /// Makes a machine of `cpus` CPUs. CPU 0 is the current one until [`run`](Self::run).
    ///
    /// # Panics
    /// When the thread has a machine, or there are more CPUs than [`MAX_CPUS`].
    pub fn new(cpus: usize) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        assert!((1..=MAX_CPUS).contains(&cpus), "{cpus} CPUs");
        hear_accesses(hear);
        // Relaxed: a number.
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let idle = || VirtualCpu { clock: 0, last_line: 0, yielder: std::ptr::null() };
        let machine = Machine {
            number,
            cpus: std::iter::repeat_with(idle).take(cpus).collect(),
            current: 0,
            horizon: u64::MAX,
            lines: Lines::default(),
            sleepers: BTreeMap::new(),
            woken: Vec::new(),
            ended: 0,
            end: 0,
            totals: Totals::default(),
        };
        let before = MACHINE.replace(Some(machine));
        assert!(before.is_none(), "one machine at a time");
        Self { number, cpus }
    }

    /// Returns the CPUs for an allocator.
    pub const fn cpu(&self) -> SimulatedCpu {
        SimulatedCpu { machine: self.number, slots: self.cpus }
    }

    /// Runs a program on each CPU: first for `warm` blocks, then, when all CPUs have done that, for
    /// `blocks` blocks, which are measured.
    ///
    /// # Panics
    /// When there is not a program for each CPU, or all CPUs wait for ever.
    pub fn run(&self, programs: Vec<Program>, warm: usize, blocks: usize) -> Outcome {
        assert_eq!(programs.len(), self.cpus, "a program for each CPU");
        let coroutine = |(cpu, mut program): (usize, Program)| {
            Coroutine::new(move |yielder: &Yielder<(), Stop>, ()| {
                with_machine(|machine| machine.cpus[cpu].yielder = yielder);
                repeat(&mut program, warm);
                yielder.suspend(Stop::Ready);
                let done = repeat(&mut program, blocks);
                with_machine(|machine| machine.note_end(cpu));
                done
            })
        };
        let mut coroutines: Vec<_> = programs.into_iter().enumerate().map(coroutine).collect();
        let mut schedule = Schedule::default();
        (0..self.cpus).for_each(|cpu| schedule.add(cpu, 0));
        let (mut ready, mut start, mut blocks) = (0, 0, 0);
        while let Some(cpu) = schedule.next() {
            let result = coroutines[cpu].resume(());
            with_machine(|machine| machine.wake_into(&mut schedule));
            match result {
                CoroutineResult::Yield(Stop::Turn) => schedule.add_at_clock(cpu),
                CoroutineResult::Yield(Stop::Sleep(line)) => {
                    with_machine(|machine| machine.sleepers.entry(line).or_default().push(cpu));
                }
                CoroutineResult::Yield(Stop::Ready) => {
                    ready += 1;
                    if ready == self.cpus {
                        start = with_machine(Machine::start_together);
                        (0..self.cpus).for_each(|cpu| schedule.add(cpu, start));
                    }
                }
                CoroutineResult::Return(done) => blocks += done,
            }
            if schedule.is_empty() {
                with_machine(Machine::wake_all);
                with_machine(|machine| machine.wake_into(&mut schedule));
            }
        }
        assert!(coroutines.iter().all(Coroutine::done), "every CPU ends");
        with_machine(|machine| {
            machine.current = 0;
            Outcome { blocks, cycles: machine.end - start, totals: machine.totals }
        })
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        MACHINE.take();
    }
}

fn repeat(program: &mut Program, blocks: usize) -> usize {
    let mut done = 0;
    while done < blocks {
        done += program();
    }
    done
}

/// The CPUs that can run, by clock.
#[derive(Default)]
struct Schedule(BinaryHeap<Reverse<(u64, usize)>>);

impl Schedule {
    fn add(&mut self, cpu: usize, clock: u64) {
        self.0.push(Reverse((clock, cpu)));
    }

    fn add_at_clock(&mut self, cpu: usize) {
        self.add(cpu, with_machine(|machine| machine.cpus[cpu].clock));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Makes the CPU with the lowest clock the current one, and returns it.
    fn next(&mut self) -> Option<usize> {
        let Reverse((_, cpu)) = self.0.pop()?;
        let horizon = self.0.peek().map_or(u64::MAX, |Reverse((clock, _))| *clock);
        with_machine(|machine| (machine.current, machine.horizon) = (cpu, horizon));
        Some(cpu)
    }
}

impl Machine {
    /// Returns the yielder of the current CPU if it has to stop before an access to `lines`.
    fn stop_before(&self, mut lines: RangeInclusive<usize>) -> Option<*const Yielder<(), Stop>> {
        let cpu = &self.cpus[self.current];
        let are_private = lines.all(|line| self.lines.is_private(line, self.current));
        let slack = if are_private { AHEAD_CYCLES } else { 0 };
        let is_early = cpu.clock <= self.horizon.saturating_add(slack);
        (!is_early && !cpu.yielder.is_null()).then_some(cpu.yielder)
    }

    /// Charges the current CPU for an access to `lines`, which move at the same time.
    fn access(&mut self, lines: RangeInclusive<usize>, kind: AccessKind) {
        let now = self.cpus[self.current].clock;
        for line in lines {
            let charge = self.lines.access(self.current, line, kind, now);
            let cpu = &mut self.cpus[self.current];
            (cpu.clock, cpu.last_line) = (cpu.clock.max(charge.end), line);
            if charge.ended_copies {
                self.wake(line, charge.end);
            }
        }
    }

    /// Wakes those that sleep until another CPU takes `line`.
    fn wake(&mut self, line: usize, now: u64) {
        for sleeper in self.sleepers.remove(&line).unwrap_or_default() {
            let cpu = &mut self.cpus[sleeper];
            cpu.clock = cpu.clock.max(now);
            self.horizon = self.horizon.min(cpu.clock);
            self.woken.push(sleeper);
        }
    }

    /// Wakes every CPU: one of them waits for more than the line that it looked at last.
    fn wake_all(&mut self) {
        self.woken.extend(std::mem::take(&mut self.sleepers).into_values().flatten());
    }

    fn wake_into(&mut self, schedule: &mut Schedule) {
        for cpu in self.woken.drain(..) {
            schedule.add(cpu, self.cpus[cpu].clock);
        }
    }

    /// Notes that the program of `cpu` has made its last call. The CPU does not stop any more.
    fn note_end(&mut self, cpu: usize) {
        let cpu = &mut self.cpus[cpu];
        cpu.yielder = std::ptr::null();
        self.end = self.end.max(cpu.clock);
        self.ended += 1;
        if self.ended == self.cpus.len() {
            self.totals = self.lines.totals();
        }
    }

    /// Sets all clocks to the latest one, and starts to count. Returns that clock.
    fn start_together(&mut self) -> u64 {
        let latest = self.cpus.iter().map(|cpu| cpu.clock).max().expect("there are CPUs");
        self.cpus.iter_mut().for_each(|cpu| cpu.clock = latest);
        self.lines.start_count();
        latest
    }
}

fn with_machine<R>(f: impl FnOnce(&mut Machine) -> R) -> R {
    MACHINE.with_borrow_mut(|machine| f(machine.as_mut().expect("the simulation lives")))
}

/// The hook of `page_frame::sync`.
fn hear(access: Access) {
    if MACHINE.with_borrow(Option::is_none) {
        return;
    }
    if access.kind == AccessKind::Wait {
        return charge(WAIT_CYCLES);
    }
    let last = access.address + access.bytes.max(1) - 1;
    let lines = access.address / LINE_BYTES..=last / LINE_BYTES;
    if let Some(yielder) = with_machine(|machine| machine.stop_before(lines.clone())) {
        suspend(yielder, Stop::Turn);
    }
    with_machine(|machine| machine.access(lines, access.kind));
}

/// Sleeps until another CPU takes the line of the current CPU's last access, as if that CPU had
/// looked at the line all the time.
pub fn sleep() {
    let (yielder, line) = with_machine(|machine| {
        let cpu = &machine.cpus[machine.current];
        (cpu.yielder, cpu.last_line)
    });
    if !yielder.is_null() {
        suspend(yielder, Stop::Sleep(line));
    }
}

fn suspend(yielder: *const Yielder<(), Stop>, stop: Stop) {
    // SAFETY: I1: it is that of the current CPU, whose coroutine calls this.
    unsafe { &*yielder }.suspend(stop);
}

/// Charges the current CPU for a call beside its accesses.
pub fn charge_call() {
    charge(CALL_CYCLES);
}

/// Charges the current CPU `cycles` cycles.
pub fn charge(cycles: u64) {
    with_machine(|machine| machine.cpus[machine.current].clock += cycles);
}

/// Returns the CPU that runs.
pub fn current() -> usize {
    with_machine(|machine| machine.current)
}

/// The CPUs of a [`Simulation`], for an allocator.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedCpu {
    machine: usize,
    slots: usize,
}

// SAFETY: clauses 1 and 6: I2: one CPU runs at a time, and the code of a CPU is one coroutine.
// Clauses 2 to 4: all CPUs are in one thread, and there are no interrupts. Clause 5: the machine
// has `slots` CPUs. Clause 7: zero.
unsafe impl Cpu for SimulatedCpu {
    fn slots(&self) -> usize {
        self.slots
    }

    fn pin(&self) -> Option<CpuId> {
        MACHINE.with_borrow(|machine| {
            let machine = machine.as_ref().filter(|machine| machine.number == self.machine)?;
            Some(CpuId::new(machine.current as u32))
        })
    }

    unsafe fn unpin(&self) {}

    fn fence_all(&self) -> bool {
        // An interrupt of each other CPU, and a look at what it answered.
        charge(2 * crate::scaling::lines::TRANSFER_CYCLES);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Charges a CPU when it is dropped.
    struct Costly;

    impl Drop for Costly {
        fn drop(&mut self) {
            charge(1000);
        }
    }

    /// Mutation: the end is the latest clock after the coroutines.
    #[test]
    fn what_is_dropped_with_a_program_is_not_measured() {
        let simulation = Simulation::new(2);
        let program = || {
            let costly = Costly;
            Box::new(move || {
                let _ = &costly;
                charge(10);
                1_usize
            }) as Program
        };
        let outcome = simulation.run(vec![program(), program()], 5, 7);
        assert_eq!((outcome.blocks, outcome.cycles), (14, 70));
    }
}
