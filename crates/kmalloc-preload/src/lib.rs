//! `malloc` and its relatives for unmodified programs: the C ABI over `kmalloc`, with pages and
//! threads of `hosted`.
//!
//! ```text
//! cargo build --profile preload -p kmalloc-preload
//! LD_PRELOAD=target/preload/libkmalloc_preload.so program            # as it is
//! KMALLOC_CHECK=1 LD_PRELOAD=target/preload/libkmalloc_preload.so program   # hardened
//! KMALLOC_STATS=1 LD_PRELOAD=target/preload/libkmalloc_preload.so program   # slabinfo at the end
//! ```
//!
//! # Theory
//! The dynamic loader binds every `malloc` of the program and of its libraries to this library. The
//! loader itself calls it before anything else is set up, and destructors call it after everything
//! has been torn down. So the library uses nothing of the standard library that allocates, and the
//! first call sets up all global state.
//!
//! - `calls`, `aligned`: the functions of the C ABI.
//! - `heap`: the plain and the hardened allocator, and which of them serves.
//! - `early`: memory for requests that arrive during set-up.
//! - `guard_pages`: pages without access behind large allocations.
//! - `sized_delete`: the frees of C++ that name a size.
//! - `foreign`: allocations of other allocators that reach this library.
//! - `space`: the addresses of this library's memory.
//! - `environment`: options from environment variables.
//! - `process`: load and exit of the process, the handlers before and after a fork (`fork`), and
//!   the place of these handlers among those of other libraries (`atfork`).
//! - `filter`: filters of system calls that the program installs.
//! - `next`: functions of the C library behind those that this library replaces.
//! - `stats`: statistics for people and files.
//! - `mallinfo`: statistics and options for programs.
//! - `stats_file`: the file that a user named for statistics.
//! - `errno`: how a C function reports failure.
//! - `fd_writer`: text written to a file descriptor without allocating.
//! - `panic_handler`: the one item that replaces the standard library.
//!
//! Each page of the library that is touched costs every program a page. The profile `preload` makes
//! panics abort and so builds the library without the standard library: 100 KB in place of 600.
//! Every other profile unwinds, which needs the standard library.
//!
//! # Invariants
//! - I1: a function of the ABI changes `errno` only where it fails and its manual says so.
//! - I2: the plain allocator is set up only if the checked one is not wanted. So `PLAIN.get()` also
//!   tells which one serves.

#![cfg_attr(panic = "abort", no_std)]

mod aligned;
mod calls;
mod early;
mod environment;
mod errno;
mod fd_writer;
mod filter;
mod foreign;
mod guard_pages;
mod heap;
mod mallinfo;
mod next;
#[cfg(panic = "abort")]
mod panic_handler;
mod process;
mod sized_delete;
mod space;
mod stats;
mod stats_file;
