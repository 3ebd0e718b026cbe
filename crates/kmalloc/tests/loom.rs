//! Models of two CPUs that make their first requests at once: they build the cache of a class, and
//! set up the global allocator.
//!
//! Each model's comment records a mutation of the code under test that it was seen to catch.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod models {
    use std::alloc::{GlobalAlloc, Layout};
    use std::cell::Cell;
    use std::mem::MaybeUninit;
    use std::ptr::NonNull;

    use kmalloc::{Global, Kmalloc};
    use loom::sync::Arc;
    use page_frame::{
        Arena, Fenced, Order, OutOfMemory, PAGE_SIZE, PageBlock, PageResize, PageSource,
    };
    use slab::Registry;
    use testkit::{Numbered, become_cpu, long_model, spawn};

    const PAGES: usize = 60;

    type Machine = Fenced<Numbered>;

    /// Shares an arena among the threads of a model.
    struct Shared(Arc<Arena<'static>>);

    // SAFETY: every method forwards to the same arena.
    unsafe impl PageSource for Shared {
        fn allocate(&self, order: Order) -> Result<PageBlock, OutOfMemory> {
            self.0.allocate(order)
        }
        unsafe fn free(&self, block: PageBlock) {
            // SAFETY: the caller's clauses are those of the arena.
            unsafe { self.0.free(block) }
        }
    }
    // SAFETY: clause 1: always the map of the field, which lives as long as this value.
    unsafe impl page_frame::ForwardPageMap for Shared {
        #[inline(always)]
        fn page_map(&self) -> &impl page_frame::PageMap {
            &*self.0
        }
    }
    // SAFETY: the provided methods, which make a run of a whole block.
    unsafe impl PageResize for Shared {}

    /// Runs `test` over an arena; afterwards the source has every page.
    fn with_arena(test: impl FnOnce(Shared)) {
        become_cpu(0);
        let mut memory = vec![MaybeUninit::<u8>::uninit(); PAGES * PAGE_SIZE];
        let start = NonNull::from(&mut memory[..]).cast();
        // SAFETY: the memory is ours until the end of this function, and the arena is dropped
        // before.
        let arena = unsafe { Arena::from_raw(start, memory.len()) }.expect("large enough");
        let arena = Arc::new(arena);
        let pages = arena.free_pages();
        test(Shared(Arc::clone(&arena)));
        assert_eq!(arena.free_pages(), pages, "the source has every page");
    }

    fn layout() -> Layout {
        Layout::from_size_align(2048, 8).expect("a layout")
    }

    /// Two CPUs ask for a class that has no cache yet. Both build one; both get objects of the same
    /// one, and the other is destroyed.
    ///
    /// Mutations that it catches: the loser keeps its own cache (two caches of a class, objects of
    /// the wrong one); the exchange made Relaxed ("causality violation").
    #[test]
    fn two_cpus_build_the_same_class() {
        long_model("kmalloc: two build a class", 50, 2, || {
            with_arena(|arena| {
                let registry = Registry::new(arena, Fenced(Numbered)).expect("room");
                let kmalloc = Arc::new(Kmalloc::new(registry));
                let theirs = Arc::clone(&kmalloc);
                let other = spawn(move || {
                    become_cpu(1);
                    let object = theirs.allocate(layout()).expect("room");
                    // SAFETY: this thread's object, which it alone has.
                    unsafe { theirs.free(object) };
                });
                let object = kmalloc.allocate(layout()).expect("room");
                // SAFETY: the object of the first thread, which it alone has.
                unsafe { kmalloc.free(object) };
                other.join().expect("no panic");
                let mut caches = 0;
                kmalloc.registry().stats(|stats| {
                    caches += usize::from(stats.name.as_str() == "kmalloc-2k");
                });
                assert_eq!(caches, 1);
            });
        });
    }

    thread_local! {
        /// The arena of the current execution. loom runs all threads of a model on one thread of
        /// the system.
        static ARENA: Cell<Option<Shared>> = const { Cell::new(None) };
    }

    /// Two CPUs make the first request at once: `setup` runs once, and both see the allocator that
    /// it made.
    ///
    /// Mutations that it catches: the store of `READY` or of the limit made Relaxed; a limit that
    /// is stored before the allocator ("causality violation").
    #[test]
    fn the_global_allocator_is_set_up_once() {
        long_model("kmalloc: two start the global allocator", 20, 2, || {
            with_arena(|arena| {
                ARENA.set(Some(arena));
                let global: Global<(Shared, Machine)> = Global::new(|| {
                    let arena = ARENA.take().expect("set up once");
                    Ok(Kmalloc::new(Registry::new(arena, Fenced(Numbered))?))
                });
                let global = Arc::new(global);
                let theirs = Arc::clone(&global);
                let other = spawn(move || {
                    become_cpu(1);
                    // SAFETY: the layout is not empty.
                    let object = unsafe { theirs.alloc(layout()) };
                    assert!(!object.is_null());
                    // SAFETY: allocated above with this layout.
                    unsafe { theirs.dealloc(object, layout()) };
                });
                // SAFETY: the layout is not empty.
                let object = unsafe { global.alloc(layout()) };
                assert!(!object.is_null());
                // SAFETY: allocated above with this layout.
                unsafe { global.dealloc(object, layout()) };
                other.join().expect("no panic");
            });
        });
    }
}
