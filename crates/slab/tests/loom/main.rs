//! Models of the free word, and of whole caches: misses, growth, take-over, destruction.
//!
//! Each model's comment records a mutation of the code under test that it was seen to catch.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod caches;
#[cfg(loom)]
mod free_word;
