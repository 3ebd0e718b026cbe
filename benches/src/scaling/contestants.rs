//! The allocators of the comparison, for each layer: ours, the model of Linux (frames), and a
//! published one in one lock.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use buddy::{Buddy, FrameAllocator, Mode, ZeroedMemory};
use hosted::Mapped;
use kmalloc::Kmalloc;
#[cfg(feature = "counted")]
use page_frame::sync::{AccessKind, report};
use page_frame::{Cpu, DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE};
use slab::{Cache, DeferredFrees, GracePeriods, Registry};

use crate::exclusive::Exclusive;
use crate::objects::slub_like::SlubLike;
use crate::pages::allocator::SharedPages;
use crate::pages::linux_like::{LinuxLike, Lists};
use crate::scaling::lock::{CommonLock, CommonLocks};
use crate::scaling::shape::Allocator;

/// 64 GiB of frames.
const FRAMES: usize = 64 << 18;
/// Bytes of address space for objects and memory of any size.
const BYTES: usize = 16 << 30;
/// Bytes of address space for the model of SLUB, which has metadata for each frame.
const SLUB_BYTES: usize = 2 << 30;
/// Objects that each CPU frees, on average, in a grace period.
const FREES_IN_GRACE_PERIOD: usize = 256;
/// Blocks of one order that are freed at once.
const FREED_AT_ONCE: usize = 31;

/// CPUs for an allocator: simulated ones, or threads.
pub trait Cpus: Cpu + Copy + Send + Sync + 'static {}

impl<C: Cpu + Copy + Send + Sync + 'static> Cpus for C {}

/// Charges a simulated CPU for a call beside its accesses.
#[inline]
fn call() {
    #[cfg(feature = "counted")]
    crate::scaling::machine::charge_call();
}

/// Charges a simulated CPU for the time in which it holds the lock of a rival, and for a line of
/// that rival's.
#[inline]
fn hold<T>(rival: &T) {
    #[cfg(feature = "counted")]
    {
        report(AccessKind::Write, rival, 1);
        crate::scaling::machine::charge(crate::scaling::LOCKED_CYCLES);
    }
    let _ = rival;
}

fn metadata(bytes: usize) -> (ZeroedMemory<'static>, Mapped) {
    let memory = Mapped::reserve(bytes).expect("memory for metadata");
    // SAFETY: a fresh mapping is zero and page-aligned; the callers keep it behind the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(memory.start(), memory.bytes()) };
    (zeroed, memory)
}

/// `buddy` over frames that are only numbers.
pub struct Frames<C: Cpu> {
    buddy: FrameAllocator<'static, C>,
    _metadata: Mapped,
}

impl<C: Cpus> Frames<C> {
    /// Makes one with all frames free.
    ///
    /// # Panics
    /// When there is no memory for the metadata.
    pub fn new(cpu: C) -> Self {
        let range = [FrameRange::new(FrameNumber::new(0), FrameNumber::new(FRAMES))];
        let layout = FrameAllocator::<C>::metadata_layout(&range, cpu.slots());
        let (zeroed, memory) = metadata(layout.expect("a good range").size());
        let buddy = FrameAllocator::new_in(zeroed, &range, cpu, Mode::Cached);
        Self { buddy: buddy.expect("a good range"), _metadata: memory }
    }
}

impl<C: Cpus> Allocator for Frames<C> {
    type Request = Order;
    type Block = (FrameNumber, Order);

    fn allocate(&self, order: Order) -> Self::Block {
        call();
        (self.buddy.allocate_frames(order).expect("memory is free"), order)
    }

    fn free(&self, (frame, order): Self::Block) {
        call();
        self.buddy.free_frames(frame, order).expect("the programs free once");
    }

    fn free_many(&self, blocks: Vec<Self::Block>) {
        for order in Order::all() {
            let frames = blocks.iter().filter(|block| block.1 == order).map(|block| block.0);
            let frames: Vec<FrameNumber> = frames.collect();
            for frames in frames.chunks(FREED_AT_ONCE) {
                call();
                self.buddy.free_many(order, frames).expect("the programs free once");
            }
        }
    }
}

/// The model of Linux.
pub struct Linux<C>(LinuxLike<C, CommonLock<Lists>>);

impl<C: Cpus> Linux<C> {
    /// Makes one with all frames free.
    pub fn new(cpu: C) -> Self {
        Self(LinuxLike::new(FRAMES, cpu))
    }
}

impl<C: Cpus> Allocator for Linux<C> {
    type Request = Order;
    type Block = (usize, Order);

    fn allocate(&self, order: Order) -> Self::Block {
        call();
        (self.0.allocate(order).expect("memory is free"), order)
    }

    fn free(&self, (frame, order): Self::Block) {
        call();
        self.0.free(frame, order);
    }

    fn free_many(&self, blocks: Vec<Self::Block>) {
        for blocks in blocks.chunks(FREED_AT_ONCE) {
            call();
            self.0.free_many(blocks);
        }
    }
}

/// `buddy_system_allocator` in one lock.
pub struct LockedFrames(CommonLock<buddy_system_allocator::FrameAllocator<32>>);

impl LockedFrames {
    /// Makes one with all frames free.
    pub fn new() -> Self {
        let mut frames = buddy_system_allocator::FrameAllocator::new();
        frames.add_frame(0, FRAMES);
        Self(CommonLock::new(frames))
    }
}

impl Default for LockedFrames {
    fn default() -> Self {
        Self::new()
    }
}

impl Allocator for LockedFrames {
    type Request = Order;
    type Block = (usize, Order);

    fn allocate(&self, order: Order) -> Self::Block {
        let frame = self.0.with(|frames| {
            hold(frames);
            frames.alloc(order.pages())
        });
        (frame.expect("memory is free"), order)
    }

    fn free(&self, (frame, order): Self::Block) {
        self.0.with(|frames| {
            hold(frames);
            frames.dealloc(frame, order.pages());
        });
    }
}

type Pages<C> = Buddy<'static, DirectMap, C>;

fn pages<C: Cpus>(cpu: C) -> (Pages<C>, [Mapped; 2]) {
    let memory = Mapped::reserve(BYTES).expect("address space");
    let ranges = [memory.frames()];
    let layout = Pages::<C>::metadata_layout(&ranges, cpu.slots()).expect("a good range");
    let (zeroed, metadata) = metadata(layout.size());
    // SAFETY: the frames are a fresh mapping without another user, which the map covers.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, memory.direct_map(), cpu, Mode::Cached) };
    (buddy.expect("a good range"), [memory, metadata])
}

/// A start of memory.
pub struct Start(NonNull<u8>);

// SAFETY: the holder of the value owns the memory.
unsafe impl Send for Start {}

/// A cache of `slab` over `buddy`.
pub struct Objects<C: Cpus> {
    cache: Cache<(Pages<C>, C)>,
    _memory: [Mapped; 2],
}

impl<C: Cpus> Objects<C> {
    /// Makes a cache of objects of `layout`.
    ///
    /// # Panics
    /// When there is no address space.
    pub fn new(cpu: C, layout: Layout) -> Self {
        let (buddy, memory) = pages(cpu);
        let registry = Registry::new(buddy, cpu).expect("a page is free");
        let cache = registry.cache("scaling", layout).build().expect("a good layout");
        Self { cache, _memory: memory }
    }
}

impl<C: Cpus> Allocator for Objects<C> {
    type Request = ();
    type Block = Start;

    fn allocate(&self, (): ()) -> Start {
        call();
        Start(self.cache.allocate().expect("memory is free"))
    }

    fn free(&self, object: Start) {
        call();
        // SAFETY: the programs free each object once.
        unsafe { self.cache.free(object.0) };
    }
}

/// Grace periods of a simulation without readers: each one ends after a number of frees.
struct FreesPassed {
    frees: AtomicU64,
    frees_in_one: u64,
}

impl FreesPassed {
    /// Makes one for the frees of `cpus` CPUs. It lives for ever.
    fn of(cpus: usize) -> &'static Self {
        let frees_in_one = (cpus * FREES_IN_GRACE_PERIOD) as u64;
        Box::leak(Box::new(Self { frees: AtomicU64::new(0), frees_in_one }))
    }

    fn note_free(&self) {
        // Relaxed, here and below: it orders nothing.
        self.frees.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: clause 1: the programs read no object.
unsafe impl GracePeriods for FreesPassed {
    fn start(&self) -> u64 {
        self.frees.load(Ordering::Relaxed) + self.frees_in_one
    }

    fn has_ended(&self, token: u64) -> bool {
        self.frees.load(Ordering::Relaxed) >= token
    }

    fn wait(&self, _token: u64) -> bool {
        true
    }
}

type CpuFrees<C> = Mutex<DeferredFrees<'static, (Pages<C>, C), &'static FreesPassed>>;

/// A cache of `slab` over `buddy`, whose frees wait for grace periods.
///
/// Fields are dropped in this order: the objects last.
pub struct DeferredObjects<C: Cpus> {
    /// One for each CPU, which alone locks it.
    deferred: Vec<CpuFrees<C>>,
    grace: &'static FreesPassed,
    cpu: C,
    objects: Arc<Objects<C>>,
}

impl<C: Cpus> DeferredObjects<C> {
    /// Makes a cache of objects of `layout`.
    ///
    /// # Panics
    /// When there is no address space.
    pub fn new(cpu: C, layout: Layout) -> Self {
        let (objects, grace) = (Arc::new(Objects::new(cpu, layout)), FreesPassed::of(cpu.slots()));
        // SAFETY: the frees are dropped before `objects`, which does not move.
        let cache = unsafe { NonNull::from(&objects.cache).as_ref() };
        let deferred = || Mutex::new(cache.deferred_frees(grace, usize::MAX));
        let deferred = std::iter::repeat_with(deferred).take(cpu.slots()).collect();
        Self { deferred, grace, cpu, objects }
    }
}

impl<C: Cpus> Allocator for DeferredObjects<C> {
    type Request = ();
    type Block = Start;

    fn allocate(&self, (): ()) -> Start {
        self.objects.allocate(())
    }

    fn free(&self, object: Start) {
        call();
        let cpu = self.cpu.pin().expect("a CPU of the machine").index();
        // SAFETY: `pin` has just returned an id.
        unsafe { self.cpu.unpin() };
        let mut deferred = self.deferred[cpu].lock().unwrap_or_else(PoisonError::into_inner);
        self.grace.note_free();
        // SAFETY: the programs free each object once, and read none.
        unsafe { deferred.free(object.0) }.expect("there is no limit");
    }
}

/// The model of SLUB.
pub struct Slub<C: Cpus>(SlubLike<C, CommonLocks>);

impl<C: Cpus> Slub<C> {
    /// Makes a cache of objects of `layout`.
    ///
    /// # Panics
    /// When there is no address space.
    pub fn new(cpu: C, layout: Layout) -> Self {
        Self(SlubLike::new(cpu, layout, SLUB_BYTES))
    }
}

impl<C: Cpus> Allocator for Slub<C> {
    type Request = ();
    type Block = Start;

    fn allocate(&self, (): ()) -> Start {
        call();
        Start(self.0.allocate())
    }

    fn free(&self, object: Start) {
        call();
        self.0.free(object.0);
    }
}

/// The model of SLUB, whose frees wait for grace periods.
pub struct DeferredSlub<C: Cpus> {
    slub: Slub<C>,
    grace: &'static FreesPassed,
}

impl<C: Cpus> DeferredSlub<C> {
    /// Makes a cache of objects of `layout`.
    ///
    /// # Panics
    /// When there is no address space.
    pub fn new(cpu: C, layout: Layout) -> Self {
        Self { slub: Slub::new(cpu, layout), grace: FreesPassed::of(cpu.slots()) }
    }
}

impl<C: Cpus> Allocator for DeferredSlub<C> {
    type Request = ();
    type Block = Start;

    fn allocate(&self, (): ()) -> Start {
        self.slub.allocate(())
    }

    fn free(&self, object: Start) {
        call();
        self.grace.note_free();
        self.slub.0.free_deferred(object.0, self.grace);
    }
}

/// `kmalloc` over `buddy`.
pub struct Memory<C: Cpus> {
    kmalloc: Kmalloc<(Pages<C>, C)>,
    _memory: [Mapped; 2],
}

impl<C: Cpus> Memory<C> {
    /// Makes one.
    ///
    /// # Panics
    /// When there is no address space.
    pub fn new(cpu: C) -> Self {
        let (buddy, memory) = pages(cpu);
        let kmalloc = Kmalloc::new(Registry::new(buddy, cpu).expect("a page is free"));
        Self { kmalloc, _memory: memory }
    }
}

/// The first size in bytes of memory that grows, and the largest one.
const GROWN_BYTES: [usize; 2] = [16, 256 << 10];

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("a small size")
}

impl<C: Cpus> Allocator for Memory<C> {
    type Request = Layout;
    type Block = (Start, Layout);

    fn allocate(&self, layout: Layout) -> Self::Block {
        call();
        (Start(self.kmalloc.allocate(layout).expect("memory is free")), layout)
    }

    fn free(&self, (start, layout): Self::Block) {
        call();
        // SAFETY: the programs free memory once, with its layout.
        unsafe { self.kmalloc.free_sized(start.0, layout) };
    }

    fn grow(&self, (start, old): Self::Block) -> Self::Block {
        let bytes = old.size() + old.size() / 2;
        if bytes > GROWN_BYTES[1] {
            self.free((start, old));
            return self.allocate(layout(GROWN_BYTES[0]));
        }
        call();
        // SAFETY: the memory has this layout, and its old address is not used again.
        let moved = unsafe { self.kmalloc.reallocate(start.0, old, bytes) };
        (Start(moved.expect("memory is free")), layout(bytes))
    }
}

/// `rlsf` in one lock.
pub struct LockedMemory {
    heap: CommonLock<rlsf::Tlsf<'static, u64, u64, 40, 64>>,
    _memory: Mapped,
}

impl LockedMemory {
    /// Makes one.
    ///
    /// # Panics
    /// When there is no address space.
    pub fn new() -> Self {
        let memory = Mapped::reserve(BYTES).expect("address space");
        let start = memory.start().as_ptr().cast::<MaybeUninit<u8>>();
        // SAFETY: a fresh mapping that no other code uses, and that is dropped after the heap.
        let range = unsafe { std::slice::from_raw_parts_mut(start, BYTES - PAGE_SIZE) };
        let mut heap = rlsf::Tlsf::new();
        heap.insert_free_block(range);
        Self { heap: CommonLock::new(heap), _memory: memory }
    }
}

impl Default for LockedMemory {
    fn default() -> Self {
        Self::new()
    }
}

impl Allocator for LockedMemory {
    type Request = Layout;
    type Block = (Start, Layout);

    fn allocate(&self, layout: Layout) -> Self::Block {
        let start = self.heap.with(|heap| {
            hold(heap);
            heap.allocate(layout)
        });
        (Start(start.expect("memory is free")), layout)
    }

    fn free(&self, (start, layout): Self::Block) {
        self.heap.with(|heap| {
            hold(heap);
            // SAFETY: the programs free memory once, with its layout.
            unsafe { heap.deallocate(start.0, layout.align()) };
        });
    }

    fn grow(&self, (start, old): Self::Block) -> Self::Block {
        self.free((start, old));
        let bytes = old.size() + old.size() / 2;
        self.allocate(layout(if bytes > GROWN_BYTES[1] { GROWN_BYTES[0] } else { bytes }))
    }
}
