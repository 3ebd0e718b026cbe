//! Recorded allocations of a Linux kernel, as compact text: one event a line, comma separated.
//!
//! ```text
//! a,DT,CPU,PTR,REQ,ALLOC,GFP,SITE     kmalloc              f,DT,CPU,PTR   kfree
//! A,DT,CPU,PTR,REQ,ALLOC,GFP,CACHE    kmem_cache_alloc     F,DT,CPU,PTR   kmem_cache_free
//! p,DT,CPU,PFN,ORDER,MT,GFP           mm_page_alloc        P,DT,CPU,PFN,ORDER   mm_page_free
//! x,DT,CPU,PFN,AORDER,FORDER,AMT,FMT  mm_page_alloc_extfrag, read and left out
//! !s,ID,TEXT   !g,ID,TEXT             names of call sites and caches, names of gfp masks
//! #...                                comment
//! ```
//!
//! In the order in which a trace passes through them:
//!
//! - [`source`] opens files, standard input and zstd streams, and yields bytes.
//! - [`read_ahead`] does so on another thread.
//! - [`line`](mod@line) parses one line; `fast_parser` parses the usual lines in less time.
//! - [`names`] keeps the names of the numbers.
//! - [`reader`] turns all of it into batches of [`event`]s.
//!
//! Memory use is bounded for any input: lines, names, numbers and zstd windows have maximum sizes,
//! and a batch has a fixed number of events.

pub mod comment;
mod digits;
pub mod event;
mod fast_parser;
pub mod line;
pub mod losses;
pub mod names;
pub mod plain_text;
pub mod read_ahead;
pub mod reader;
pub mod source;
mod unexpected;
mod zstd;
#[cfg(feature = "zstd-c")]
mod zstd_c;
mod zstd_error;
#[cfg(all(feature = "zstd-rust", not(feature = "zstd-c")))]
mod zstd_rust;

#[cfg(not(any(feature = "zstd-c", feature = "zstd-rust")))]
compile_error!("recordings are in zstd: choose the feature `zstd-c` or `zstd-rust`");

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// First words of a plain trace.
pub const HEADER: &str = "# kmem-compact";

/// The version of the format that is written. Version 1, which is read too, has no call sites of
/// caches and pages.
pub const VERSION: u32 = 2;

/// Whether the zstd decoder drops text before a fault in its stream. The decoder in C does, as it
/// decodes several blocks in a call; how much it drops depends on how the bytes arrive.
pub const DROPS_TEXT_BEFORE_FAULTS: bool = cfg!(feature = "zstd-c");

/// Returns whether there is a file at `path` that begins as a trace does, plain or in zstd frames.
pub fn is_trace(path: &Path) -> bool {
    let mut start = Vec::new();
    let file = File::open(path).ok().filter(|file| {
        // Reading a pipe would wait for a writer.
        file.metadata().is_ok_and(|about| about.is_file())
    });
    let read = file.map(|file| file.take(HEADER.len() as u64).read_to_end(&mut start));
    read.is_some_and(|read| read.is_ok())
        && !start.is_empty()
        && (start.starts_with(HEADER.as_bytes())
            || (start.len() >= zstd::MAGIC_BYTES && zstd::is_zstd(&start)))
}
