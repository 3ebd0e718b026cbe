//! Safe code breaks no memory safety, and a panic of the user's code leaves no lock held and no
//! set-up unfinished.
#![cfg(not(loom))]

mod addresses;
mod global;
