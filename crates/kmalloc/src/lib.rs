//! kmalloc
#![no_std]
mod class;
pub use class::{ClassIndex, LARGEST};
