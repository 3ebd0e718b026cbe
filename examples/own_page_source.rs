//! A page source of one's own, and object caches over it.
//!
//! The caches name two traits: `PageSource` hands out blocks, `PageMap` says what lies at an address. Here both are a few
//! dozen lines over a plain `Vec`: pages are given out from front to back, and a freed block waits in a list of its order.
//! It splits and merges nothing; it counts what it is asked for, and prints it.

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::ptr::{NonNull, null_mut, without_provenance_mut};

use page_frame::{Order, OutOfMemory, PAGE_SIZE, PageBlock, PageMap, PageSource, SingleCpu, Tag};
use slab::Registry;

/// A page, aligned as one.
#[derive(Clone)]
#[repr(align(4096))]
struct Page {
    _bytes: [u8; PAGE_SIZE],
}

/// What the page map keeps for a page: its tag and its owner.
type Entry = Cell<(Tag, *mut ())>;

/// Pages in a vector, for one thread.
struct VecPages {
    /// The first page: where all pointers that we hand out come from.
    start: NonNull<u8>,
    entries: Vec<Entry>,
    /// How many pages, from the front, have been handed out at least once.
    used: Cell<usize>,
    /// Freed blocks, the index of their first page, by order.
    freed: RefCell<[Vec<usize>; Order::COUNT]>,
    /// Keeps the memory.
    _pages: Vec<Page>,
}

impl VecPages {
    fn new(pages: usize) -> Self {
        let mut memory = vec![Page { _bytes: [0; PAGE_SIZE] }; pages];
        Self {
            start: NonNull::from(&mut memory[..]).cast(),
            entries: vec![Cell::new((Tag::NONE, null_mut())); pages],
            used: Cell::new(0),
            freed: RefCell::default(),
            _pages: memory,
        }
    }

    /// Returns the pages that nobody has.
    fn free_pages(&self) -> usize {
        let freed = self.freed.borrow();
        let waiting =
            freed.iter().zip(Order::all()).map(|(list, order)| list.len() * order.pages());
        self.entries.len() - self.used.get() + waiting.sum::<usize>()
    }

    fn index(&self, address: usize) -> usize {
        address.wrapping_sub(self.start.addr().get()) / PAGE_SIZE
    }

    fn entry(&self, address: usize) -> Option<&Entry> {
        self.entries.get(self.index(address))
    }

    /// Takes a block that was freed, or the next pages that were never used and are aligned.
    fn take(&self, order: Order) -> Option<usize> {
        if let Some(index) = self.freed.borrow_mut()[order.index()].pop() {
            return Some(index);
        }
        // A block is aligned to its size as an address, and the vector only to a page.
        let first = self.start.addr().get() / PAGE_SIZE;
        let index = (first + self.used.get()).next_multiple_of(order.pages()) - first;
        let end = index.checked_add(order.pages()).filter(|end| *end <= self.entries.len())?;
        // What alignment skips can serve single pages.
        self.freed.borrow_mut()[0].extend(self.used.get()..index);
        self.used.set(end);
        Some(index)
    }
}

// SAFETY: clause 1: `take` returns pages of the vector that are behind all handed out so far, or were freed, aligned to
// the order; the vector is not touched otherwise. Clause 2: nothing panics once the block is in the list.
unsafe impl PageSource for VecPages {
    fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
        let index = self.take(order).ok_or(OutOfMemory)?;
        println!("    source: a block of {} pages at page {index}", order.pages());
        // SAFETY: `take` returns indices of the vector.
        let start = unsafe { self.start.add(index * PAGE_SIZE) };
        self.entries[index].set((Tag::block(order), null_mut()));
        // SAFETY: the pages are nobody else's, see above, and initialised with the vector.
        Ok(unsafe { PageBlock::from_raw(start, order, false) })
    }

    unsafe fn free(&self, block: PageBlock) {
        let (start, order) = block.into_raw();
        let index = self.index(start.addr().get());
        println!("    source: {} pages at page {index} came back", order.pages());
        self.entries[index].set((Tag::NONE, null_mut()));
        self.freed.borrow_mut()[order.index()].push(index);
    }
}

// SAFETY: clause 1: an entry per page, and none beyond. Clause 2: `start` may be used for all pages.
unsafe impl PageMap for VecPages {
    fn tag(&self, address: usize) -> Tag {
        self.entry(address).map_or(Tag::NONE, |entry| entry.get().0)
    }

    fn owner(&self, address: usize) -> *mut () {
        self.entry(address).map_or(null_mut(), |entry| entry.get().1)
    }

    unsafe fn set_owner(&self, start: NonNull<u8>, pages: usize, tag: Tag, owner: NonNull<()>) {
        let first = self.index(start.addr().get());
        for entry in &self.entries[first..first + pages] {
            entry.set((tag, owner.as_ptr()));
        }
    }

    unsafe fn clear_owner(&self, start: NonNull<u8>, order: Order) {
        let first = self.index(start.addr().get());
        for entry in &self.entries[first..first + order.pages()] {
            entry.set((Tag::NONE, null_mut()));
        }
        self.entries[first].set((Tag::block(order), null_mut()));
    }

    unsafe fn set_run(&self, start: NonNull<u8>, pages: usize) {
        let first = self.index(start.addr().get());
        self.entries[first].set((Tag::RUN, without_provenance_mut(pages)));
    }

    unsafe fn clear_run(&self, start: NonNull<u8>, order: Order) {
        let first = self.index(start.addr().get());
        self.entries[first].set((Tag::block(order), null_mut()));
    }

    fn pointer(&self, address: usize) -> NonNull<u8> {
        NonNull::new(self.start.as_ptr().with_addr(address)).unwrap_or(self.start)
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
