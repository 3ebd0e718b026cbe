//! hosted
#![no_std]
