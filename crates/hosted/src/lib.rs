//! The machine when an operating system is below: memory from `mmap`, a CPU slot per thread.
//!
//! The four libraries know no operating system. A program that wants them as its allocator takes from here what a kernel
//! has by itself: a range of memory ([`Mapped`], whose pages cost nothing until they are touched) and an answer to
//! "which CPU am I" ([`Threads`], where each thread counts as a CPU).
//!
//! ```
//! use hosted::Mapped;
//! use page_frame::{Arena, Order, PageSource};
//! let memory = Mapped::reserve(1 << 20)?;
//! // SAFETY: the memory is used by nobody else and lives longer than the arena.
//! let arena = unsafe { Arena::from_raw(memory.start(), memory.bytes()) }?;
//! let block = arena.allocate(Order::ZERO)?;
//! // SAFETY: the block came from this arena and nothing refers into it.
//! unsafe { arena.free(block) };
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod fork;
mod gate;
mod mapped;
mod pages;
mod spans;
mod threads;
mod touched;
mod word;

pub use fork::{Forking, Hold};
pub use mapped::Mapped;
pub use pages::Pages;
pub use threads::{THREAD_SLOTS, Threads};
