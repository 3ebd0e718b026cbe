//! The classic story of object caches: a file system's inodes.
//!
//! An inode is expensive to set up and comes back set up: the cache's constructor runs once for
//! each object when its slab is made, not each time an inode is allocated. The cache takes pages
//! when it must, keeps empty slabs for the next burst, gives them back when somebody else finds no
//! memory, and grows again; its user sees none of that.

use std::alloc::Layout;
use std::error::Error;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::{Mapped, Threads};
use page_frame::{
    DirectMap, Order, PAGE_SIZE, PageMap, PageSource, Reclaiming, Shrink, ShrinkList,
};
use slab::{Cache, Registry};

/// An inode as a file system keeps it in memory: about 600 bytes, as on Linux.
struct Inode {
    number: u64,
    size_bytes: u64,
    /// Held while the file is read or written; open whenever the inode is free.
    lock: AtomicU32,
    /// A ring of dirty pages, empty while it points to itself.
    dirty: [*const Inode; 2],
    block_map: [u64; 64],
    /// The constructor's mark: an inode that is handed out has it.
    is_set_up: u32,
}

/// How often the constructor has run.
static CONSTRUCTED: AtomicUsize = AtomicUsize::new(0);

/// Brings uninitialised memory into the state in which inodes are allocated and freed.
///
/// # Safety
/// 1. `object` is valid for writes of an `Inode` and the callee's.
unsafe fn construct(object: NonNull<u8>) {
    let inode = object.cast::<Inode>();
    let itself = inode.as_ptr().cast_const();
    let (lock, dirty) = (AtomicU32::new(0), [itself, itself]);
    let block_map = [0; 64];
    let fresh = Inode { number: 0, size_bytes: 0, lock, dirty, block_map, is_set_up: 0x1_0de };
    // SAFETY: clause 1: room for an inode.
    unsafe { inode.write(fresh) };
    CONSTRUCTED.fetch_add(1, Ordering::Relaxed);
}

/// The inodes of a mounted file system.
struct Inodes<P: PageSource + PageMap>(Cache<(P, Threads)>);

impl<P: PageSource + PageMap> Inodes<P> {
    /// Takes an inode for the file of that number, as it is on the first read of a file.
    fn open(&self, number: u64) -> Result<NonNull<Inode>, Box<dyn Error>> {
        let mut inode = self.0.allocate()?.cast::<Inode>();
        // SAFETY: an object of our cache, which constructs inodes, and ours alone since `allocate`.
        let opened = unsafe { inode.as_mut() };
        assert_eq!((opened.is_set_up, opened.dirty[0]), (0x1_0de, inode.as_ptr().cast_const()));
        let locked = opened.lock.load(Ordering::Relaxed);
        assert_eq!((locked, opened.block_map[0]), (0, 0), "in constructed state");
        (opened.number, opened.size_bytes) = (number, 4096);
        Ok(inode)
    }

    /// Gives an inode back: lock, ring and block map are as the constructor left them, so nothing
    /// is to be done.
    fn close(&self, inode: NonNull<Inode>) {
        // SAFETY: from `open`, and not used any more.
        unsafe { self.0.free(inode.cast()) };
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // A machine of 2 MiB: pages from a buddy allocator that, when it has none left, asks the
    // shrinkers first.
    let memory = Mapped::reserve(2 << 20)?;
    let frames = [memory.frames()];
    let layout = Buddy::<DirectMap, Threads>::metadata_layout(&frames, hosted::THREAD_SLOTS)?;
    let metadata = Mapped::reserve(layout.size())?;
    let map = memory.direct_map();
    // SAFETY: the mapping is fresh, so it reads as zero, is page-aligned and has no other user. It
    // lives as long as the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that has no other user, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &frames, map, Threads, Mode::Cached) }?;
    let shrinkers = ShrinkList::<1>::new();
    let pages = Reclaiming::new(&buddy, &shrinkers);

    let registry = Registry::new(&pages, Threads)?;
    let shrinker: &dyn Shrink = &registry;
    // SAFETY: taken out again at the end of `main`, before the registry goes.
    unsafe { shrinkers.register(NonNull::from(shrinker)) }?;

    // Create: name, size, alignment, constructor, and how many empty slabs may stay. The cache
    // computes the rest.
    let builder = registry.cache("inode", Layout::new::<Inode>());
    // SAFETY: `construct` asks for memory of an inode, which is this builder's layout.
    let builder = unsafe { builder.constructor(construct) };
    let inodes = Inodes(builder.keep_empty(100).build()?);
    let cut = inodes.0.geometry();
    println!("an inode has {} bytes", inodes.0.object_size());
    println!(
        "a slab is of order {} ({} pages): {} inodes, {} bytes left over, {} colours",
        cut.order().get(),
        cut.order().pages(),
        cut.capacity(),
        cut.leftover_bytes(),
        cut.colours(),
    );

    // Allocate: the cache grows slab by slab.
    let mut open = (0..500).map(|number| inodes.open(number)).collect::<Result<Vec<_>, _>>()?;
    let after_500 = CONSTRUCTED.load(Ordering::Relaxed);
    println!("500 files open:  {}", numbers(&inodes.0));

    // Free and allocate: objects come back as they were freed, without the constructor.
    for inode in open.drain(100..) {
        inodes.close(inode);
    }
    println!("400 closed:      {}", numbers(&inodes.0));
    open.extend((500..900).map(|number| inodes.open(number)).collect::<Result<Vec<_>, _>>()?);
    assert_eq!(CONSTRUCTED.load(Ordering::Relaxed), after_500, "in constructed state already");
    println!("400 others open: the constructor has not run again");

    // Memory is tight: somebody wants pages, and the inodes in use are few.
    for inode in open.drain(10..) {
        inodes.close(inode);
    }
    let held = inodes.0.stats().pages();
    let mut other = Vec::new();
    while let Ok(block) = pages.allocate(Order::ZERO) {
        other.push(block);
    }
    let left = inodes.0.stats().pages();
    println!(
        "somebody else took all other {} pages: the cache went from {held} pages to {left}",
        other.len()
    );
    assert!(left < held, "empty slabs were released");
    // All of memory is used; an inode can be had only from the slabs that the cache has.
    open.push(inodes.open(900)?);
    println!("and still opens a file: {}", numbers(&inodes.0));

    // Growth again, as if nothing had been.
    for block in other.drain(..) {
        // SAFETY: the block came from `pages`, and nothing refers into it.
        unsafe { pages.free(block) };
    }
    open.extend((1000..1500).map(|number| inodes.open(number)).collect::<Result<Vec<_>, _>>()?);
    println!("500 more open:   {}", numbers(&inodes.0));
    registry.validate()?;

    // Destroying the cache returns every page.
    for (place, inode) in open.drain(..).enumerate() {
        // SAFETY: open, so ours.
        let number = unsafe { inode.as_ref() }.number;
        assert!(place >= 10 || number == place as u64, "the first ten were never closed");
        inodes.close(inode);
    }
    inodes.0.destroy().map_err(|busy| busy.to_string())?;
    assert_eq!(shrinkers.unregister(NonNull::from(shrinker)), Ok(true));
    drop(registry);
    buddy.drain();
    assert_eq!(buddy.free_frames_count(), buddy.frames());
    assert_eq!(buddy.largest_free().map(Order::bytes), Some(memory.bytes()));
    println!("destroyed: all {} pages are free, in one block again", memory.bytes() / PAGE_SIZE);
    Ok(())
}

/// One line about the state of a cache.
fn numbers<P: PageSource + PageMap>(cache: &Cache<(P, Threads)>) -> String {
    let now = cache.stats();
    format!(
        "{:>3} slabs, {:>3} pages, {} taken from the page source so far, {} given back, constructor ran {} times",
        now.slabs,
        now.pages(),
        now.grown,
        now.shrunk,
        CONSTRUCTED.load(Ordering::Relaxed)
    )
}
