//! Memory of any size: small requests from object caches, large ones from runs of pages, over any
//! page source. It needs no other heap.
//!
//! A kernel or a firmware declares a heap, and adds memory regions to it at run time:
//!
//! ```
//! use kmalloc::Heap;
//! # use hosted::Threads as MyCpu;
//!
//! static HEAP: Heap<MyCpu> = Heap::empty(); // a kernel writes `#[global_allocator]` above it
//!
//! # let (start, bytes) = (Vec::leak(vec![0_u8; 1 << 20]).as_mut_ptr(), 1 << 20);
//! // SAFETY: the memory is valid, and from now on only the heap uses it.
//! unsafe { HEAP.add_region(start, bytes) }?;
//! # Ok::<(), kmalloc::RegionError>(())
//! ```
//!
//! With the feature `critical-section` no `MyCpu` is needed: `static HEAP: Heap = Heap::empty();`.
//!
//! - [`Heap`]: the heap of a kernel, over memory regions that are added at any time.
//! - [`Global`]: a program's `#[global_allocator]` over any page source, set up at the first
//!   request.
//! - [`Kmalloc`]: the allocator inside both: allocates, frees and resizes, by `Layout` or under the
//!   names of the Linux kernel.
//! - References to all three are `Allocator`s: of `allocator-api2` 0.2 or 0.4 with the features
//!   `allocator-api2-02` or `allocator-api2-04`, of the standard library with `nightly`.
//!
//! The checks of a [preset](slab::Hardening) find mistakes of users, for example a double free:
//!
//! ```
//! # use kmalloc::Kmalloc;
//! # use page_frame::{Arena, SingleCpu};
//! # use slab::{Hardened, Registry};
//! # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
//! # let arena = Arena::new(&mut memory)?;
//! let print = |fault: &page_frame::Fault| eprintln!("{fault}");
//! let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), print)?;
//! let kmalloc = Kmalloc::<_, Hardened>::with_hardening(registry).with_secret(0x5eed);
//! let kmalloc = kmalloc.with_min_objects(16).with_depot_bytes(256 << 10);
//! let (first, second) = (kmalloc.kmalloc(100)?, kmalloc.kmalloc(100)?);
//! // SAFETY: the hook returns, so a double free is reported and changes nothing.
//! unsafe {
//!     kmalloc.kfree(Some(first));
//!     kmalloc.kfree(Some(second));
//!     kmalloc.kfree(Some(first)); // DoubleFree
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! When memory runs out, [`Kmalloc::allocate`] lets the page source reclaim some, here by killing a
//! process. [`Kmalloc::try_allocate`] fails instead:
//!
//! ```
//! # use core::alloc::Layout;
//! # use kmalloc::Kmalloc;
//! # use page_frame::{Arena, Reclaiming, Shrink, SingleCpu};
//! # use slab::Registry;
//! struct KillProcess;
//! impl Shrink for KillProcess {
//!     fn reclaimable(&self) -> usize { 0 }
//!     fn shrink(&self, _: usize) -> usize { unreachable!("`try_allocate` does not reclaim") }
//! }
//! # let mut memory = vec![core::mem::MaybeUninit::uninit(); 1 << 20];
//! let source = Reclaiming::new(Arena::new(&mut memory)?, KillProcess);
//! let kmalloc = Kmalloc::new(Registry::new(source, SingleCpu::new())?);
//! assert!(kmalloc.try_allocate(Layout::new::<[u8; 8 << 20]>()).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Theory
//! Each request belongs to a **class**: an object size that has a cache of its own. With few
//! classes, few slabs are half empty; with many classes, little memory is wasted inside objects.
//! [`ClassIndex`] defines the classes and bounds the waste. Its functions are `const fn`, so the
//! class of a constant size is a constant. A request beyond the largest class is **large**: it
//! takes a run of whole pages from the page source.
//!
//! Allocations have no header. A caller that knows the layout of the memory that it frees passes
//! the layout, from which the class follows. Otherwise the page map has the class of each page of a
//! slab, and the number of pages of each run.
//!
//! # Costs
//! Where a doc comment says "Longest path counted", the figure is the longest of many operations in
//! a kernel under QEMU, in x86-64 instructions, the caches and the page source included. The name
//! in brackets is a row in the book's chapter on longest paths, which describes the histories. The
//! kernel fails when an operation exceeds its figure by more than a tenth.
//!
//! ```
//! use core::alloc::Layout;
//! use kmalloc::ClassIndex;
//! const CLASS: ClassIndex = ClassIndex::for_size(20).unwrap();
//! assert_eq!(CLASS.size(), 24);
//! // An aligned request takes the smallest class that is naturally aligned enough:
//! let aligned = ClassIndex::for_layout(Layout::from_size_align(20, 64)?).unwrap();
//! assert_eq!((aligned.size(), aligned.alignment()), (64, 64));
//! # Ok::<(), core::alloc::LayoutError>(())
//! ```
#![no_std]
#![cfg_attr(feature = "nightly", feature(allocator_api))]

mod borrowed_id;
mod classes;
mod interfaces;
mod kmalloc;
mod large;
mod mixed;
mod requested_size;
mod resize;
mod statics;

pub use crate::kmalloc::Kmalloc;
pub use classes::class::{ClassIndex, LARGEST};
#[cfg(any(feature = "ax-allocator", feature = "axallocator"))]
pub use interfaces::ax_allocator::KmallocByteAllocator;
/// The crate of the machines, so that a heap can be used without naming it as a dependency.
pub use page_frame;
pub use statics::global::{Global, SetUp};
pub use statics::heap::{Heap, HeapSystem, RegionError};
