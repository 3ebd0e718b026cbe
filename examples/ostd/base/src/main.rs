//! The kernel under test: what `cargo osdk test` would generate, and the frame allocator of choice.
#![no_std]
#![no_main]
#![feature(linkage)]
// The template is not ours.
#![allow(elided_lifetimes_in_paths, unreachable_pub, unused_extern_crates)]

extern crate osdk_test_kernel;

#[cfg(feature = "ours")]
use ostd_frames as _;

include!(concat!(env!("OUT_DIR"), "/osdk.rs"));

/// `None`: all tests of these crates.
// SAFETY: no other symbol has this name; OSTD declares it with this type.
#[unsafe(no_mangle)]
pub static KTEST_TEST_WHITELIST: Option<&[&str]> = None;

/// The crates whose tests run.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub static KTEST_CRATE_WHITELIST: Option<&[&str]> = Some(if cfg!(feature = "frames-only") {
    &["frame-tests", "ostd-frames"]
} else {
    &["ostd", "osdk-heap-allocator", "osdk-test-kernel", "frame-tests", "ostd-frames"]
});
