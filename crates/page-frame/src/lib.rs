//! page-frame
#![no_std]
