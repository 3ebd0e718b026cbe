//! The machine when an operating system is below: memory from `mmap`, a CPU slot per thread.
//!
//! The four libraries know no operating system. A program that wants them as its allocator takes from here what a kernel
//! has by itself: a range of memory ([`Mapped`], whose pages cost nothing until they are touched) and an answer to
//! "which CPU am I" ([`Threads`], where each thread counts as a CPU). It asks the system and the C library for them, and needs no
//! standard library, which a `malloc` would bring into every program.
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

#![cfg_attr(not(test), no_std)]

#[cfg(all(not(test), any(feature = "std", not(all(target_arch = "x86_64", target_os = "linux")))))]
extern crate std;

mod fork;
mod frame_set;
mod membarrier;
mod os_error;
mod pages;
mod purge;
mod space;
#[cfg(test)]
mod test_blocks;
mod thp;
mod threads;
mod tls;

/// How many bytes of objects a thread's magazine holds in programs: eight times as many as in a kernel, where a machine's
/// CPUs are few and its caches many.
///
/// Measured with 4, 16 and 32 KiB, in nanoseconds (2 cores, one run each, noisy): 10,000 objects allocated and freed 33, 16 and
/// 13; 300 replaced at random 24, 18 and 17; two threads that serve requests 40, 32 and 22.
pub const MAGAZINE_BYTES: usize = 32 << 10;

pub use fork::forking::Forking;
pub use os_error::OsError;
pub use pages::Pages;
pub use purge::background::Background;
pub use purge::purger::Purger;
pub use space::mapping::Mapped;
pub use threads::{HeapThreads, Threads};
pub use tls::THREAD_SLOTS;
