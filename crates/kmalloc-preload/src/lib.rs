//! `malloc` and its relatives for unmodified programs: the C ABI over `kmalloc`, with pages and threads of `hosted`.
//!
//! # Theory
//! The library is named in `LD_PRELOAD`, and the dynamic loader binds every `malloc` of the program and of its libraries to
//! this one. So it is called before anything else is set up, by the loader itself, and after everything has been torn down.
//! Nothing of the standard library that allocates is used, and no global state needs to be set up but by the first call.
//!
//! - `calls`, `aligned`: the functions of the ABI, thin.
//! - `heap`: which of two allocators serves, the plain one or the one that looks for mistakes, and where they are.
//! - `environment`: what the user asks for by environment variables.
//! - `process`: what happens when the process forks, and when it ends.
//! - `stats`: what can be said about memory: to people, to `mallinfo2`, to files.
//! - `current`, `file`: the file that keeps saying it.
//! - `out`: text without memory.
//! - `bare`: what there is in place of the standard library.
//!
//! Each page of the library that is touched is a page of every program. The profile `preload`, in which panics abort, builds it
//! without the standard library: 100 KB in place of 600. Any other profile has panics that unwind, and so the standard
//! library.
//!
//! # Invariants
//! - I1: a function of the ABI changes `errno` only where it fails and its manual says so.
//! - I2: the plain allocator is set up only if the checked one is not wanted; so `PLAIN.get()` is also the decision.

#![cfg_attr(panic = "abort", no_std)]

mod aligned;
#[cfg(panic = "abort")]
mod bare;
mod calls;
mod current;
mod environment;
mod file;
mod heap;
mod out;
mod process;
mod stats;
