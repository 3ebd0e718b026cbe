//! Replays the bundled trace on an allocator of its own: here the system's, behind the one trait
//! that there is to implement.

use std::alloc::{Layout, alloc, dealloc};
use std::ops::ControlFlow;
use std::ptr::NonNull;

use kmem::bundled;
use kmem::replay::pipeline::{Options, replay};
use kmem::replay::target::{CountOnly, NoCache, OBJECT_ALIGN, ObjectTarget};
use page_frame::OutOfMemory;

struct Mine;

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, OBJECT_ALIGN).expect("a request is at most 1 GiB")
}

// SAFETY: the memory is the system's, of the layout asked for.
unsafe impl ObjectTarget for Mine {
    type Cache = usize; // the size of its objects

    fn open_cache(&mut self, _name: &str, object_bytes: usize) -> Result<usize, NoCache> {
        Ok(object_bytes)
    }

    fn allocate_object(&mut self, object_bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        self.allocate_bytes(object_bytes)
    }

    unsafe fn free_object(&mut self, object_bytes: usize, object: NonNull<u8>) {
        // SAFETY: clause 1: allocated with the size of its cache.
        unsafe { self.free_bytes(object, object_bytes) }
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<NonNull<u8>, OutOfMemory> {
        // SAFETY: a request has at least one byte.
        NonNull::new(unsafe { alloc(layout(bytes)) }).ok_or(OutOfMemory)
    }

    unsafe fn free_bytes(&mut self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: clause 1: allocated with this layout.
        unsafe { dealloc(start.as_ptr(), layout(bytes)) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options { checks: true, cpus: None };
    let played = replay(
        bundled::source()?,
        options,
        |_cpus| Ok((Mine, CountOnly)),
        |_replay, _bytes_read| ControlFlow::Continue(()),
    );
    let outcome = played.map_err(|error| format!("{error:?}"))?.finish();
    println!("{} events, {} findings", outcome.events, outcome.findings.count());
    Ok(())
}
