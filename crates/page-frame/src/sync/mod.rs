//! Atomics, cells, fences and locks for the whole stack, real or modelled.
//!
//! Every crate of the stack takes these from here and from nowhere else. Outside loom they are
//! `core`'s and those of this folder. Under `--cfg loom` they are loom's, so that the same protocol
//! code runs under the model checker. This folder and `arch` hold the only `cfg(loom)` of the
//! libraries.
//!
//! # Differences that show
//! - loom's types have no `const fn new`: write constructors with
//!   [`const_unless_loom!`](crate::const_unless_loom).
//! - loom's types are larger than the types that they model: assert sizes with
//!   [`assert_unless_loom!`](crate::assert_unless_loom).
//! - Zeroed memory is a valid atomic only outside loom: make atomics of memory only with
//!   [`slice_in`].
//! - loom orders two locations only by `fence(SeqCst)`, so [`light_fence`] is a compiler fence
//!   outside it and a full fence inside. Two SeqCst accesses of different locations, on each of two
//!   threads, are ordered without a fence; loom does not know that order, so [`model_fence`] goes
//!   between them.

pub(crate) mod append_list;
pub(crate) mod cell;
mod counter;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod model;
pub(crate) mod once;
mod seq_cst;
#[cfg(not(loom))]
mod spin;
mod stack;

#[cfg(feature = "counted")]
pub use crate::access::hear_accesses;
pub use crate::access::{Access, AccessKind, report};
pub use crate::atomic::{
    AtomicBool, AtomicIsize, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicUsize, Ordering,
    fence,
};
pub use append_list::{AppendList, AppendNode};
pub use cell::UnsafeCell;
pub use counter::ShardedCounter;
pub use lock::{Guard, Lock};
pub use memory::{
    Zeroable, array_in, exchange_byte, exchange_half, exchange_word, load_byte, load_half,
    load_word, slice_in, slice_in_mut, store_byte, store_half, store_word,
};
pub use model::MODELLED;
pub use seq_cst::{SeqCstU8, SeqCstUsize};
pub use stack::{Linked, TakeAll, Taken};

pub use crate::arch::hint::{
    in_register, light_fence, model_fence, prefetch, propagation_fence, spin_hint,
};
pub use crate::arch::load::{load_and_add, load_eight, load_own, load_wide, store_eight};
