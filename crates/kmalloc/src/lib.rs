//! kmalloc
#![no_std]
