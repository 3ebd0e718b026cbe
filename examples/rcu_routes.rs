//! A routing table whose readers take no lock (RCU): frees wait until the readers have ended.
//!
//! A writer replaces routes while two threads look them up. A reader may still look at a route that
//! the writer has just taken out of the table, so the writer defers the free: the cache gets the
//! object back when every reader that may have found it has ended. Only the machine knows when that
//! is. Here the machine is a counter of epochs; a kernel asks its RCU.

use std::alloc::Layout;
use std::array::from_fn;
use std::error::Error;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering::SeqCst};
use std::thread;

use buddy::{Buddy, Mode, ZeroedMemory};
use hosted::{Mapped, Threads};
use page_frame::DirectMap;
use slab::{GracePeriods, Registry};

const READERS: usize = 2;
const ROUTES: usize = 64;
const UPDATES: u64 = 50_000;

/// A route: where packets of a network go.
struct Route {
    network: u64,
    gateway: u64,
}

/// Grace periods by epochs. A reader announces the epoch in which it began to read.
struct Epochs {
    now: AtomicU64,
    /// Zero while the reader does not read.
    reading_since: [AtomicU64; READERS],
}

impl Epochs {
    /// Calls `read`, which may use pointers that it finds in the table.
    fn read<R>(&self, reader: usize, read: impl FnOnce() -> R) -> R {
        self.reading_since[reader].store(self.now.load(SeqCst), SeqCst);
        let result = read();
        self.reading_since[reader].store(0, SeqCst);
        result
    }
}

// SAFETY: clause 1: a section that began before `start` has announced an epoch below the token, and
// `has_ended` finds it until it ends. The accesses are sequentially consistent, so that those of
// the section happen before.
unsafe impl GracePeriods for Epochs {
    fn start(&self) -> u64 {
        self.now.fetch_add(1, SeqCst) + 1
    }

    fn has_ended(&self, token: u64) -> bool {
        let has_passed = |since: &AtomicU64| match since.load(SeqCst) {
            0 => true,
            since => since >= token,
        };
        self.reading_since.iter().all(has_passed)
    }

    fn wait(&self, token: u64) -> bool {
        while !self.has_ended(token) {
            thread::yield_now();
        }
        true
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let memory = Mapped::reserve(16 << 20)?;
    let frames = [memory.frames()];
    let layout = Buddy::<DirectMap, Threads>::metadata_layout(&frames, hosted::THREAD_SLOTS)?;
    let metadata = Mapped::reserve(layout.size())?;
    let map = memory.direct_map();
    // SAFETY: the mapping is fresh, so it reads as zero, is page-aligned and has no other user. It
    // lives as long as the allocator.
    let zeroed = unsafe { ZeroedMemory::from_zeroed(metadata.start(), metadata.bytes()) };
    // SAFETY: the frames are a fresh mapping that has no other user, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &frames, map, Threads, Mode::Cached) }?;
    let registry = Registry::new(&buddy, Threads)?;
    let routes = registry.cache("route", Layout::new::<Route>()).build()?;

    let epochs = Epochs { now: AtomicU64::new(1), reading_since: from_fn(|_| AtomicU64::new(0)) };
    let new_route = |network: u64| -> Result<NonNull<Route>, page_frame::OutOfMemory> {
        let route = routes.allocate()?.cast::<Route>();
        // SAFETY: an object of the cache, which has the layout of a route, and ours.
        unsafe { route.write(Route { network, gateway: network * 3 }) };
        Ok(route)
    };
    let first: Vec<_> = (0..ROUTES as u64).map(new_route).collect::<Result<_, _>>()?;
    let table: [AtomicPtr<Route>; ROUTES] = from_fn(|at| AtomicPtr::new(first[at].as_ptr()));

    let is_over = AtomicBool::new(false);
    let mut deferred = routes.deferred_frees(&epochs, 1000);
    let mut most_waiting = 0;
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (epochs, table, is_over) = (&epochs, &table, &is_over);
            scope.spawn(move || {
                let mut at = reader;
                while !is_over.load(SeqCst) {
                    at = (at * 5 + 1) % ROUTES;
                    epochs.read(reader, || {
                        // SAFETY: a route of the table is not freed before this section has ended,
                        // and is not written after it entered the table.
                        let route = unsafe { &*table[at].load(SeqCst) };
                        assert_eq!(route.gateway, route.network * 3, "a route that was not freed");
                    });
                }
            });
        }
        let mut update = |number: u64| -> Result<(), Box<dyn Error>> {
            let route = new_route(number)?;
            let old = table[number as usize % ROUTES].swap(route.as_ptr(), SeqCst);
            let old = NonNull::new(old).expect("the table has no gaps");
            // SAFETY: clause 1: out of the table, so only readers that began before have it.
            unsafe { deferred.free(old.cast()) }?;
            most_waiting = most_waiting.max(deferred.waiting());
            Ok(())
        };
        let outcome = (0..UPDATES).try_for_each(&mut update);
        is_over.store(true, SeqCst);
        outcome
    })?;
    assert!(deferred.wait(), "the readers have ended");
    drop(deferred);
    println!("{UPDATES} routes replaced under {READERS} readers");
    println!("at most {most_waiting} routes waited for a grace period");
    println!(
        "the cache has {} slabs of {} routes",
        routes.stats().slabs,
        routes.geometry().capacity()
    );
    assert!(most_waiting <= 1000 + 60, "the limit, rounded up to a magazine");

    for route in &table {
        let route = NonNull::new(route.load(SeqCst)).expect("the table has no gaps");
        // SAFETY: clauses 1 and 2: in the table until now, and no reader is left.
        unsafe { routes.free(route.cast()) };
    }
    routes.destroy().map_err(|busy| busy.to_string())?;
    println!("destroyed: no route is in use");
    Ok(())
}
