//! Models of the protocols of the buddy.
//!
//! Under loom an area has two words and a section two areas. The comment of each model records a
//! mutation of the code under test that makes the model fail.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod areas;
#[cfg(loom)]
#[path = "../common/mod.rs"]
mod common;
#[cfg(loom)]
mod deferred;
#[cfg(loom)]
mod undone;
#[cfg(loom)]
mod world;
