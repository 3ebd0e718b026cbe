//! The allocators of the comparison, for each layer: ours, the model of Linux (frames), and a
//! published one in one lock.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use buddy::{Buddy, FrameAllocator, Mode, ZeroedMemory};
use hosted::Mapped;
use kmalloc::Kmalloc;
#[cfg(feature = "counted")]
use page_frame::sync::{AccessKind, report};
use page_frame::{Cpu, DirectMap, FrameNumber, FrameRange, Order, PAGE_SIZE};
use slab::{Cache, Registry};

use crate::exclusive::Exclusive;
use crate::pages::allocator::SharedPages;
use crate::pages::linux_like::{LinuxLike, Lists};
use crate::scaling::lock::CommonLock;
use crate::scaling::shape::Allocator;

/// 64 GiB of frames.
const FRAMES: usize = 64 << 18;
/// Bytes of address space for objects and memory of any size.
const BYTES: usize = 16 << 30;

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
