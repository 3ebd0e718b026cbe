//! buddy
#![no_std]
