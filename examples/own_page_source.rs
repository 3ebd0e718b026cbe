//! A page source of one's own, and object caches over it.
//!
//! The caches name two traits: `PageSource` allocates blocks, `PageMap` says what lies at an
//! address. The page source here takes a few dozen lines over a plain `Vec`: it allocates pages
//! from front to back, and a freed block waits in a list of its order. It splits and merges
//! nothing; it prints each request. Its page map is a `PageMapArray`, named in one method of
//! `ForwardPageMap`.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::ptr::NonNull;

use page_frame::{
    ForwardPageMap, Order, OutOfMemory, PAGE_SIZE, PageBlock, PageMap, PageMapArray, PageSource,
    SingleCpu, Tag,
};
use slab::Registry;

/// A page, aligned as one.
#[derive(Clone)]
#[repr(align(4096))]
struct Page {
    _bytes: [u8; PAGE_SIZE],
}

/// Pages in a vector, for one thread.
struct VecPages {
    /// The first page: all pointers that we return are derived from it.
    start: NonNull<u8>,
    map: PageMapArray<'static>,
    /// How many pages, from the front, have been allocated at least once.
    used: Cell<usize>,
    /// Freed blocks, the index of their first page, by order.
    freed: RefCell<[Vec<usize>; Order::COUNT]>,
    /// Keeps the memory of the pages and of the map.
    _memory: [Vec<Page>; 2],
}

impl VecPages {
    fn new(pages: usize) -> Self {
        let zeroed =
            |bytes: usize| vec![Page { _bytes: [0; PAGE_SIZE] }; bytes.div_ceil(PAGE_SIZE)];
        let mut memory = zeroed(pages * PAGE_SIZE);
        let mut entries = zeroed(PageMapArray::metadata_bytes(pages));
        let start = NonNull::from(&mut memory[..]).cast();
        let entries_start = NonNull::from(&mut entries[..]).cast();
        // SAFETY: clause 1: fresh zeroed vectors, aligned to pages; they live in the same value as
        // the map, and are not used in any other way. Clause 2: the same, of the pages.
        let map = unsafe { PageMapArray::new_in(start, pages, entries_start) };
        let (used, freed) = (Cell::new(0), RefCell::default());
        Self { start, map, used, freed, _memory: [memory, entries] }
    }

    /// Returns the number of free pages.
    fn free_pages(&self) -> usize {
        let freed = self.freed.borrow();
        let waiting =
            freed.iter().zip(Order::all()).map(|(list, order)| list.len() * order.pages());
        self.map.pages() - self.used.get() + waiting.sum::<usize>()
    }

    fn index(&self, address: usize) -> usize {
        address.wrapping_sub(self.start.addr().get()) / PAGE_SIZE
    }

    /// Takes a block that was freed, or the next pages that were never used and are aligned.
    fn take(&self, order: Order) -> Option<usize> {
        if let Some(index) = self.freed.borrow_mut()[order.index()].pop() {
            return Some(index);
        }
        // A block is aligned to its size as an address, and the vector only to a page.
        let first = self.start.addr().get() / PAGE_SIZE;
        let index = (first + self.used.get()).next_multiple_of(order.pages()) - first;
        let end = index.checked_add(order.pages()).filter(|end| *end <= self.map.pages())?;
        // What alignment skips can serve single pages.
        self.freed.borrow_mut()[0].extend(self.used.get()..index);
        self.used.set(end);
        Some(index)
    }
}

// SAFETY: clause 1: `take` returns pages of the vector that are behind all handed out so far, or
// were freed, aligned to the order; the vector is not touched otherwise. Clause 2: nothing panics
// once the block is in the list.
unsafe impl PageSource for VecPages {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let index = self.take(order).ok_or(OutOfMemory)?;
        println!("    source: a block of {} pages at page {index}", order.pages());
        // SAFETY: `take` returns indices of the vector.
        let start = unsafe { self.start.add(index * PAGE_SIZE) };
        self.map.set_tag_at(index, Tag::block(order));
        // SAFETY: the pages are nobody else's, see above, and initialised with the vector.
        Ok(unsafe { PageBlock::from_raw(start, order, false) })
    }

    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let index = self.index(start.addr().get());
        println!("    source: {} pages at page {index} came back", order.pages());
        self.map.set_tag_at(index, Tag::NONE);
        self.freed.borrow_mut()[order.index()].push(index);
    }
}

// SAFETY: clause 1: always the map of the field, which lives in this value.
unsafe impl ForwardPageMap for VecPages {
    fn page_map(&self) -> &impl PageMap {
        &self.map
    }
}

/// What the caches hold: 20 bytes, as small as it gets.
struct Point {
    place: [f32; 4],
    colour: u32,
}

fn main() -> Result<(), Box<dyn Error>> {
    let pages = VecPages::new(64);
    let before = pages.free_pages();

    println!("a registry takes one block for itself:");
    let registry = Registry::new(&pages, SingleCpu::new())?;
    println!("a cache of points takes memory for itself:");
    let points = registry.cache("point", Layout::new::<Point>()).build()?;

    println!("points take a slab and, after the first few, a magazine to keep free ones in:");
    let mut all = Vec::new();
    let capacity = points.geometry().capacity();
    for number in 0..capacity {
        let point = points.allocate()?.cast::<Point>();
        let place = [number as f32; 4];
        // SAFETY: an object of our cache, of the size and alignment of a point, and ours.
        unsafe { point.write(Point { place, colour: number as u32 }) };
        all.push(point);
    }
    println!("{} points of {} bytes fill a slab", all.len(), size_of::<Point>());
    println!("one more takes the next slab:");
    let extra = points.allocate()?;

    let slab_page = all[0].addr().get();
    assert!(pages.tag(slab_page).is_slab() && !pages.owner(slab_page).is_null());
    println!("the page map knows whose page a point lies in, and that page 63 is nobody's:");
    let last = pages.start.addr().get() + 63 * PAGE_SIZE;
    println!("    {:?} and {:?}", pages.tag(slab_page), pages.tag(last));
    assert_eq!(pages.tag(last), Tag::NONE);

    println!("all points are freed, and the cache is asked for what it does not need:");
    for (number, point) in all.into_iter().enumerate() {
        // SAFETY: written above, and ours until the next call.
        let read = unsafe { point.as_ref() };
        assert_eq!(
            (read.place, read.colour),
            ([number as f32; 4], number as u32),
            "nobody else wrote here"
        );
        // SAFETY: from this cache, and not used any more.
        unsafe { points.free(point.cast()) };
    }
    // SAFETY: the last point, from this cache and not used any more.
    unsafe { points.free(extra) };
    let given = points.shrink_all();
    println!("{given} pages given back");
    assert_eq!(points.stats().slabs, 0);

    println!("cache and registry go:");
    points.destroy().map_err(|busy| busy.to_string())?;
    drop(registry);
    assert_eq!(pages.free_pages(), before);
    println!("all {before} pages are back");
    Ok(())
}
