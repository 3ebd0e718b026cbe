//! Checks: the mistakes of its users that a cache looks for, chosen by a type.
//!
//! # Concepts
//! A **preset** is a type with one constant per check. The hit paths are compiled for it, so a
//! check that is off leaves no instruction and no byte. [`Off`], [`Hardened`] and [`Debugging`] are
//! given. A program may define its own mix:
//!
//! ```
//! struct Canaries;
//! impl slab::Hardening for Canaries {
//!     const CANARY: bool = true;
//! }
//! ```
//!
//! A check keeps its data around the object, in a **padding** that the preset adds to the layout,
//! or in the slab's links:
//!
//! ```text
//! | red zone | object | canary | red zone | requested size | history |
//! ```
//!
//! `slabs/checks` checks each object that is allocated or freed. A fault goes to the fault hook;
//! where the hook returns, the object stays isolated: it counts as in use, and the cache never
//! allocates it again.
//!
//! Each check finds these mistakes:
//!
//! | check | finds | when |
//! |---|---|---|
//! | always | a second free of the object that was freed last | at the free |
//! | `MARKS` | double frees; interior and foreign pointers, other caches' objects | at the free |
//! | `CANARY` | writes behind the object | at the free |
//! | `RED_ZONE` | writes in front of and further behind the object | at the free |
//! | `REQUESTED_SIZE` | writes in the object, beyond the requested size | at the free |
//! | `POISON` | writes after the free | at the next allocation of the object, or on demand |
//! | `SHUFFLE` | nothing; makes the order of a fresh slab's objects unpredictable | |
//! | `HISTORY` | nothing; records where an object was last allocated and freed, and when | |

pub(crate) mod canary;
pub(crate) mod changed;
pub(crate) mod history;
pub(crate) mod padding;
pub(crate) mod poison;
pub(crate) mod presets;
pub(crate) mod red_zone;
pub(crate) mod requested_size;
pub(crate) mod secret;
