//! A microcontroller: 64 KiB of static memory, one CPU, and no other heap.
//!
//! The arena is the smallest page source; caches and `kmalloc` run on it as on a buddy. The program
//! prints the cost of each part in bytes.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use std::error::Error;
use std::ptr::NonNull;

use kmalloc::Kmalloc;
use page_frame::{Arena, PAGE_SIZE, SingleCpu};
use slab::Registry;

const BYTES: usize = 64 << 10;

/// All the memory that there is.
struct Memory(UnsafeCell<[MaybeUninit<u8>; BYTES]>);

// SAFETY: there is one CPU, and `main` uses it once.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); BYTES]));

/// A reading of a sensor, kept until it is sent.
#[repr(C)]
struct Reading {
    time: u32,
    values: [u16; 6],
}

fn main() -> Result<(), Box<dyn Error>> {
    let start = NonNull::new(MEMORY.0.get()).ok_or("statics have an address")?.cast::<u8>();
    // SAFETY: the static is used here alone.
    let arena = unsafe { Arena::from_raw(start, BYTES) }?;
    println!("{BYTES} bytes are {} pages, the rest is bookkeeping", arena.free_pages());

    let kmalloc = Kmalloc::new(Registry::new(&arena, SingleCpu::new())?);
    let readings = kmalloc.registry().cache("readings", Layout::new::<Reading>()).build()?;
    let geometry = readings.geometry();
    println!("{} readings of {} bytes in a page", geometry.capacity(), readings.object_size());

    let mut kept = Vec::new();
    for time in 0..500 {
        let place = readings.allocate()?.cast::<Reading>();
        // SAFETY: an object of this cache has the layout of a reading.
        unsafe { place.write(Reading { time, values: [time as u16; 6] }) };
        kept.push(place);
    }
    let message = kmalloc.kmalloc(300)?;
    println!(
        "500 readings and a message: {} of {} pages used",
        kmalloc.pages_held(),
        arena.pages()
    );

    // SAFETY: the message, which has been read.
    unsafe { kmalloc.kfree(Some(message)) };
    for (time, place) in kept.into_iter().enumerate() {
        // SAFETY: written above.
        let reading = unsafe { place.read() };
        assert_eq!((reading.time as usize, reading.values[5] as usize), (time, time));
        // SAFETY: the place of a reading of this cache, read out.
        unsafe { readings.free(place.cast()) };
    }
    readings.destroy().map_err(|busy| busy.to_string())?;
    drop(kmalloc);
    println!("all {} pages are free again", arena.free_pages());
    assert_eq!(arena.free_pages(), arena.pages());
    assert!(arena.pages() * PAGE_SIZE < BYTES);
    Ok(())
}
