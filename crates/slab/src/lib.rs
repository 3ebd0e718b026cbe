//! slab
#![no_std]
