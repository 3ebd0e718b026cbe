//! Models of the per-CPU slots, of lists of sources and shrinkers, and of the cells and stacks in
//! `sync`.
//!
//! Each model's comment records a mutation of the code under test that it was seen to catch.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod slots;
#[cfg(loom)]
mod source;
#[cfg(loom)]
mod sync;
