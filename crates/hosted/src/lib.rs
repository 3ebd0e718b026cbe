//! The allocators in a program of an operating system: a global allocator in one line, pages from
//! `mmap`, threads as CPUs.
//!
//! ```
//! #[global_allocator]
//! static HEAP: hosted::Heap = hosted::Heap::new();
//!
//! let text = "any collection".repeat(1000);
//! assert!(HEAP.stats().held_bytes >= text.len());
//! ```
//!
//! The libraries `page-frame`, `buddy`, `slab` and `kmalloc` know no operating system. This crate
//! has what a kernel has by itself:
//!
//! - [`Heap`]: all four as the global allocator of a program.
//! - [`Pages`]: a page source of any size, which purges free pages, backs dense memory with huge
//!   pages, and survives `fork` ([`Forking`]). [`Purger`] purges in a thread.
//! - [`Mapped`]: one range of address space, for programs that build a page source themselves.
//! - [`Threads`]: the threads of the process as CPUs; [`HeapThreads`] for heaps of many caches.
//!
//! It calls the system and the C library, and needs no standard library: a `malloc` built on it
//! brings none into its programs.
//!
//! # Modules
//! `space`, `frame_set`, `purge` and `thp` are the components of `Pages`, and do not know it.
//! `tls`, `numbers`, `shared_numbers`, `pause`, `proc_file`, `seccomp`, `membarrier`, `threads`,
//! `miss_hook`, `clock`, `fork_lock` and `keep_loaded` are the machine. `pages` puts all of them
//! together.

#![cfg_attr(not(any(test, miri)), no_std)]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("`hosted` supports Linux on x86-64 and on aarch64, and no other system");

#[cfg(all(not(any(test, miri)), feature = "std"))]
extern crate std;

mod frame_set;
mod heap;
mod pages;
mod purge;
mod space;
mod system;
#[cfg(test)]
mod test_blocks;
mod thp;
mod threads;

pub use heap::sizes::{DEPOT_BYTES, MAGAZINE_BYTES, MIN_OBJECTS};
pub use heap::{Heap, HeapCaches, HeapStats, HeapSystem};
pub use pages::Pages;
pub use pages::forking::Forking;
pub use pages::purger::Purger;
pub use purge::background::Background;
pub use purge::decay::PURGE_DELAY;
pub use purge::trim::Trim;
pub use system::keep_loaded::assume_never_unloaded;
pub use system::mapping::Mapped;
pub use system::os_error::OsError;
pub use system::seccomp::expect_seccomp_filter;
pub use threads::tls::THREAD_SLOTS;
pub use threads::{HeapThreads, Threads};
