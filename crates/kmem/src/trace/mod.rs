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
//! Bottom up: [`line`](mod@line) reads one line, [`names`] remembers what the numbers stand for, [`source`] makes
//! bytes out of files, standard input and zstd frames, [`ahead`] has another thread do so, and [`reader`] turns all of it
//! into batches of [`event`]s.
//!
//! Memory is bounded whatever the input holds: lines, names, numbers and zstd windows all have a maximum, and a batch
//! has a fixed number of events.

pub mod ahead;
pub mod event;
pub mod line;
pub mod names;
pub mod reader;
pub mod source;
mod zstd;
