//! Models of the CPU-slot protocol and of the take-all stack.
//!
//! Each model's comment records a mutation of the code under test that it was seen to catch.

testkit::models_need_the_loom_flag!();

#[cfg(loom)]
mod models {
    use std::alloc::{Layout, alloc, dealloc};
    use std::cell::Cell;
    use std::ptr::NonNull;

    use loom::sync::Arc;
    use loom::thread;
    use page_frame::sync::{
        AtomicUsize, Linked, Ordering, SeqCstU8, SeqCstUsize, TakeAll, UnsafeCell, Zeroable, fence,
    };
    use page_frame::{
        Cpu, CpuId, EnterError, Fenced, InterruptState, Once, Order, PAGE_SIZE, PageSource, PerCpu,
        PerCpuSlot, Regions, Shrink, ShrinkList,
    };
    use testkit::model;

    /// A machine of one slot, for the thread that owns it.
    #[derive(Clone, Copy)]
    struct OwnerOfFirst(bool);

    // SAFETY: in each model one thread alone has `true`, so only it gets the id.
    unsafe impl Cpu for OwnerOfFirst {
        fn slots(&self) -> usize {
            1
        }
        fn pin(&self) -> Option<CpuId> {
            self.0.then_some(CpuId::new(0))
        }
        unsafe fn unpin(&self) {}
        fn fence_all(&self) -> bool {
            false
        }
        fn mask_interrupts(&self) -> InterruptState {
            InterruptState(0)
        }
    }

    const OWNER: Fenced<OwnerOfFirst> = Fenced(OwnerOfFirst(true));
    const OTHER: Fenced<OwnerOfFirst> = Fenced(OwnerOfFirst(false));

    fn shared() -> (Arc<[PerCpuSlot<UnsafeCell<u32>>; 1]>, Arc<[PerCpuSlot<UnsafeCell<u32>>; 1]>) {
        let slots = Arc::new([PerCpuSlot::new(UnsafeCell::new(0))]);
        (Arc::clone(&slots), slots)
    }

    /// Adds one to the body through loom's watched cell: two contexts inside at once are reported.
    fn add_one(body: &UnsafeCell<u32>) {
        // SAFETY: the protocol gives the body to one context at a time, which is what loom checks.
        body.with_mut(|value| unsafe { *value += 1 });
    }

    /// One thread's view of slots that all threads of a model share.
    fn view<T>(
        slots: &[PerCpuSlot<T>; 1],
        cpu: Fenced<OwnerOfFirst>,
    ) -> PerCpu<'_, T, Fenced<OwnerOfFirst>> {
        // SAFETY: clause 1: the one slot, which is borrowed. Clause 2: one thread uses `OWNER`, so
        // only it has the id; and no thread calls `for_each_exclusive`.
        unsafe { PerCpu::at(NonNull::from(slots).cast(), 1, cpu) }
    }

    fn own(slots: &[PerCpuSlot<UnsafeCell<u32>>; 1], times: usize) -> usize {
        let per_cpu = view(slots, OWNER);
        (0..times).filter(|_| per_cpu.enter().map(|body| add_one(&body)).is_ok()).count()
    }

    fn take(slots: &[PerCpuSlot<UnsafeCell<u32>>; 1]) -> usize {
        view(slots, OTHER).take_over(|_| true, |_, body| add_one(body)).taken
    }

    fn total(slots: &[PerCpuSlot<UnsafeCell<u32>>; 1]) -> usize {
        let per_cpu = view(slots, OWNER);
        let body = per_cpu.enter().expect("all other contexts have ended");
        // SAFETY: as in `add_one`.
        body.with(|value| unsafe { *value as usize })
    }

    /// Mutation seen to fail: `light_fence` or `fence_all` of `Fenced` without its fence
    /// ("causality violation: concurrent write accesses").
    #[test]
    fn owner_against_take_over() {
        model("slots: owner against take-over", 100, || {
            let (ours, theirs) = shared();
            let taker = thread::spawn(move || take(&theirs));
            let entered = own(&ours, 2);
            let taken = taker.join().expect("the taker does not panic");
            assert_eq!(total(&ours), entered + taken);
        });
    }

    /// A machine with the default `light_fence`, whose heavy fence reaches all CPUs.
    struct HeavyFence(bool);

    // SAFETY: in each model one thread alone has `true`, so only it gets the id. Clause 3: in
    // models both fences are full ones.
    unsafe impl Cpu for HeavyFence {
        fn slots(&self) -> usize {
            1
        }
        fn pin(&self) -> Option<CpuId> {
            self.0.then_some(CpuId::new(0))
        }
        unsafe fn unpin(&self) {}
        fn fence_all(&self) -> bool {
            fence(Ordering::SeqCst);
            true
        }
    }

    /// Mutation seen to fail: the default `Cpu::light_fence` without its fence ("causality
    /// violation").
    #[test]
    fn owner_with_the_default_light_fence_against_take_over() {
        model("slots: the default light fence against take-over", 100, || {
            type Slots = [PerCpuSlot<UnsafeCell<u32>>; 1];
            fn view(slots: &Slots, is_owner: bool) -> PerCpu<'_, UnsafeCell<u32>, HeavyFence> {
                // SAFETY: clause 1: the one slot, which is borrowed. Clause 2: one thread is the
                // owner, so only it has the id; and no thread calls `for_each_exclusive`.
                unsafe { PerCpu::at(NonNull::from(slots).cast(), 1, HeavyFence(is_owner)) }
            }
            let (ours, theirs) = shared();
            let taker = thread::spawn(move || {
                view(&theirs, false).take_over(|_| true, |_, body| add_one(body)).taken
            });
            let per_cpu = view(&ours, true);
            let enter = || per_cpu.enter().map(|body| add_one(&body)).is_ok();
            let entered = (0..2).filter(|_| enter()).count();
            let taken = taker.join().expect("the taker does not panic");
            assert_eq!(total(&ours), entered + taken);
        });
    }

    /// The threads of a process as CPUs, as `hosted::Threads` has them: the owner takes its number
    /// at its first `pin`, and executes a full fence only then. The taker skips the heavy fence
    /// while no other thread has a number.
    struct LateOwner<'m> {
        taken: &'m AtomicUsize,
        is_owner: bool,
        has_number: Cell<bool>,
    }

    // SAFETY: in each model one thread alone is the owner, so only it gets the id. `fence_all` is
    // true only if the owner has no number yet; it executes a full fence when it takes one.
    unsafe impl Cpu for LateOwner<'_> {
        fn slots(&self) -> usize {
            1
        }
        fn pin(&self) -> Option<CpuId> {
            if self.is_owner && !self.has_number.replace(true) {
                self.taken.fetch_or(1, Ordering::SeqCst);
                fence(Ordering::SeqCst);
            }
            self.is_owner.then_some(CpuId::new(0))
        }
        unsafe fn unpin(&self) {}
        fn light_fence(&self) {}
        fn fence_all(&self) -> bool {
            fence(Ordering::SeqCst);
            self.taken.load(Ordering::SeqCst) == 0
        }
    }

    /// Mutation seen to fail: no fence when the owner takes its number, or none in `fence_all`.
    #[test]
    fn a_thread_that_takes_its_number_against_a_take_over_without_a_heavy_fence() {
        model("slots: a late owner against take-over", 10, || {
            type Shared = ([PerCpuSlot<UnsafeCell<u32>>; 1], AtomicUsize);
            fn with<R>(
                shared: &Shared,
                is_owner: bool,
                run: impl FnOnce(PerCpu<'_, UnsafeCell<u32>, LateOwner<'_>>) -> R,
            ) -> R {
                let cpu = LateOwner { taken: &shared.1, is_owner, has_number: Cell::new(false) };
                // SAFETY: clause 1: the one slot, which is borrowed. Clause 2: one thread is the
                // owner, so only it has the id; and no thread calls `for_each_exclusive`.
                run(unsafe { PerCpu::at(NonNull::from(&shared.0).cast(), 1, cpu) })
            }
            let slots = [PerCpuSlot::new(UnsafeCell::new(0))];
            let shared = Arc::new((slots, AtomicUsize::new(0)));
            let theirs = Arc::clone(&shared);
            let owner = thread::spawn(move || {
                with(&theirs, true, |slots| slots.enter().map(|body| add_one(&body)).is_ok())
            });
            let taken = with(&shared, false, |slots| {
                slots.take_over(|_| true, |_, body| add_one(body)).taken
            });
            let entered = owner.join().expect("the owner does not panic");
            assert_eq!(total(&shared.0), usize::from(entered) + taken);
        });
    }

    /// Mutation seen to fail: the taker's compare-exchange of `detached` replaced by a load and a
    /// store.
    #[test]
    fn two_take_overs() {
        model("slots: two take-overs", 8, || {
            let (ours, theirs) = shared();
            let taker = thread::spawn(move || take(&theirs));
            let taken = take(&ours) + taker.join().expect("the taker does not panic");
            assert!(taken >= 1, "the first of two takers of an idle slot gets it");
            assert_eq!(total(&ours), taken);
        });
    }

    /// A machine of an unowned id, 0, and an owner's, 1; as `hosted::Threads` has one.
    #[derive(Clone, Copy)]
    struct SettingAside(bool);

    // SAFETY: in each model one thread alone has `true`, so only it gets id 1.
    unsafe impl Cpu for SettingAside {
        const UNOWNED: Option<CpuId> = Some(CpuId::new(0));
        fn slots(&self) -> usize {
            2
        }
        fn pin(&self) -> Option<CpuId> {
            self.0.then_some(CpuId::new(1))
        }
        fn known_slot(&self, first: *mut u8, stride: usize) -> Option<*mut u8> {
            Some(first.wrapping_add(stride * usize::from(self.0)))
        }
        unsafe fn unpin(&self) {}
        fn fence_all(&self) -> bool {
            false
        }
    }

    /// Contexts without an id read the slot of the unowned id, while another one takes slots over,
    /// freezes them, and forgets their owners.
    ///
    /// Mutation seen to fail: `forget_others` that clears `busy` of the unowned slot ("causality
    /// violation").
    #[test]
    fn no_context_writes_the_slot_of_the_unowned_id() {
        model("slots: an unowned id", 10, || {
            type Slots = [PerCpuSlot<UnsafeCell<u32>>; 2];
            type View<'a> = PerCpu<'a, UnsafeCell<u32>, Fenced<SettingAside>>;
            fn view(slots: &Slots, is_owner: bool) -> View<'_> {
                let cpu = Fenced(SettingAside(is_owner));
                // SAFETY: clause 1: the two slots, which are borrowed. Clause 2: one thread is the
                // owner, so only it has id 1; and no thread calls `for_each_exclusive`.
                unsafe { PerCpu::at(NonNull::from(slots).cast(), 2, cpu) }
            }
            let slots = Arc::new([0, 1].map(|_| PerCpuSlot::new(UnsafeCell::new(0))));
            let owner = view(&slots, true);
            let theirs = Arc::clone(&slots);
            let other = thread::spawn(move || {
                let without_an_id = view(&theirs, false);
                let error = without_an_id.enter_known().map(|body| add_one(&body)).err();
                (error, without_an_id.take_over(|_| true, |_, body| add_one(body)).taken)
            });
            let entered = usize::from(owner.enter_known().map(|body| add_one(&body)).is_ok());
            drop(owner.freeze(Some(CpuId::new(1))));
            // SAFETY: clauses 1 and 2: the other thread is inside no slot. Clause 3: this is 1.
            unsafe { owner.forget_others(Some(CpuId::new(1))) };
            let (error, taken) = other.join().expect("it does not panic");
            assert_eq!(error, Some(EnterError::Nested));
            let body = owner.enter_known().expect("all other contexts have ended");
            // SAFETY: as in `add_one`.
            assert_eq!(body.with(|value| unsafe { *value as usize }), entered + taken);
        });
    }

    /// The owner leaves for good; a later taker sees all its changes.
    /// Mutation seen to fail: the store of `busy` 0 when the owner leaves made Relaxed.
    #[test]
    fn owner_leaving() {
        model("slots: owner leaving", 20, || {
            let (ours, theirs) = shared();
            let owner = thread::spawn(move || own(&theirs, 1));
            let taken = take(&ours);
            let entered = owner.join().expect("the owner does not panic");
            assert_eq!(total(&ours), entered + taken);
        });
    }

    /// Data that only the owner inside the slot changes may be read while the slot is frozen.
    /// Mutation seen to fail: `freeze` without waiting for `busy`.
    #[test]
    fn owner_against_freeze() {
        model("slots: owner against freeze", 50, || {
            let slots = Arc::new(([PerCpuSlot::new(())], UnsafeCell::new(0)));
            let theirs = Arc::clone(&slots);
            let owner = thread::spawn(move || {
                let per_cpu = view(&theirs.0, OWNER);
                (0..2).filter(|_| per_cpu.enter().map(|_inside| add_one(&theirs.1)).is_ok()).count()
            });
            let frozen = view(&slots.0, OTHER);
            let frozen = frozen.freeze(None);
            // SAFETY: no owner is inside while the slot is frozen, which is what loom checks.
            let seen = slots.1.with(|value| unsafe { *value });
            drop(frozen);
            let entered = owner.join().expect("the owner does not panic");
            assert!(seen <= entered as u32);
        });
    }

    /// The data that a shrinker reads during a call, and that its owner changes after it has
    /// unregistered it.
    struct Member(UnsafeCell<usize>);

    // SAFETY: the model changes the cell only after `unregister` has returned `Ok`, which is what
    // loom checks.
    unsafe impl Send for Member {}
    // SAFETY: as above.
    unsafe impl Sync for Member {}

    impl Shrink for Member {
        fn reclaimable(&self) -> usize {
            1
        }
        fn shrink(&self, _target_pages: usize) -> usize {
            // SAFETY: the list calls registered members only, which is what loom checks.
            self.0.with(|pages| unsafe { *pages })
        }
    }

    /// Mutations that it catches: the count decremented with Relaxed; `unregister` that ignores the
    /// count; a call that counts itself after it has released the lock.
    #[test]
    fn calls_of_a_shrinker_against_unregister() {
        model("shrink list: calls against unregister", 8, || {
            let shared = Arc::new((ShrinkList::<1>::new(), Member(UnsafeCell::new(1))));
            let member: NonNull<dyn Shrink + '_> = NonNull::from(&shared.1 as &dyn Shrink);
            // SAFETY: clause 1: it lives as long as the list, which no call outlives. Clause 2: it
            // is the only one.
            unsafe { shared.0.register(member) }.expect("there is room for one");
            let theirs = Arc::clone(&shared);
            let caller = thread::spawn(move || theirs.0.shrink(1));
            while shared.0.unregister(member).is_err() {
                page_frame::sync::spin_hint();
            }
            // SAFETY: no call is inside and none begins, which is what loom checks.
            shared.1.0.with_mut(|pages| unsafe { *pages = 7 });
            let given = caller.join().expect("the caller does not panic");
            assert!(given <= 1, "a call after `unregister` would have seen the change");
        });
    }

    struct Node {
        link: UnsafeCell<*mut Node>,
        payload: UnsafeCell<u32>,
    }

    // SAFETY: clause 1: always the same field.
    unsafe impl Linked for Node {
        fn link(&self) -> &UnsafeCell<*mut Self> {
            &self.link
        }
    }
    // SAFETY: the models touch a node's cells only before the push and after the take; loom checks
    // it.
    unsafe impl Send for Node {}
    // SAFETY: shared nodes are reached by the stack's protocol alone.
    unsafe impl Sync for Node {}

    fn node(payload: u32) -> Node {
        Node { link: UnsafeCell::new(std::ptr::null_mut()), payload: UnsafeCell::new(payload) }
    }

    /// Mutation seen to fail: the push's Release made Relaxed ("causality violation").
    #[test]
    fn pushes_against_take_all() {
        model("stack: pushes against take-all", 100, || {
            let shared = Arc::new((TakeAll::<Node>::new(), [node(1), node(2), node(4)]));
            let push = |shared: &(TakeAll<Node>, [Node; 3]), index: usize| {
                // SAFETY: the nodes live as long as the stack, and each is pushed once.
                unsafe { shared.0.push(NonNull::from(&shared.1[index])) };
            };
            let pushers = [0, 1].map(|index| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || push(&shared, index))
            });
            push(&shared, 2);
            let sum = || -> u32 {
                // SAFETY: a taken node is ours; its payload was written before the push.
                let payload =
                    |node: NonNull<Node>| unsafe { node.as_ref() }.payload.with(|p| unsafe { *p });
                shared.0.take_all().map(payload).sum()
            };
            let early = sum();
            for pusher in pushers {
                pusher.join().expect("pushers do not panic");
            }
            assert_eq!(early + sum(), 7, "each node is taken exactly once");
        });
    }

    /// Two CPUs add a region each, while a third one allocates. Mutation: with a load and a store
    /// in place of the exchange in `AppendList::append` a region is lost.
    #[test]
    fn regions_are_added_at_the_same_time() {
        model("regions", 100, || {
            let memory = Memory::new();
            let regions = Arc::new(Regions::new(OTHER));
            let adding = (0..2).map(|number| {
                let (regions, memory) = (Arc::clone(&regions), memory.part(number));
                thread::spawn(move || {
                    // SAFETY: clause 1: a part for each thread, which outlives the model.
                    unsafe { regions.add(memory.0, PART) }.expect("room for a page")
                })
            });
            let adding: Vec<_> = adding.collect();
            let block = regions.allocate(Order::ZERO).ok();
            let pages: usize = adding.into_iter().map(|one| one.join().expect("no panic")).sum();
            assert_eq!(regions.pages(), pages, "neither region is lost");
            assert_eq!(regions.free_pages(), pages - usize::from(block.is_some()));
            if let Some(block) = block {
                // SAFETY: clauses 1 and 2: the block came from `regions` and is not used.
                unsafe { regions.free(block) };
            }
        });
    }

    /// Two CPUs set a value, while a third one reads it. Mutation: with a Relaxed store of `FULL`
    /// in `Once::set` the third reads a value that is being written.
    #[test]
    fn a_value_is_set_once() {
        model("once", 20, || {
            let once = Arc::new(Once::new());
            let setting = (0..2).map(|number| {
                let once = Arc::clone(&once);
                thread::spawn(move || once.set(UnsafeCell::new(number)).is_ok())
            });
            let setting: Vec<_> = setting.collect();
            // SAFETY: nobody writes the value after it is set, which is what loom checks.
            let read = |cell: &UnsafeCell<_>| cell.with(|value| unsafe { *value });
            let early = once.get().map(read);
            let set: Vec<_> =
                setting.into_iter().map(|one| one.join().expect("no panic")).collect();
            let value = once.get().map(read).expect("one of them has set it");
            assert_eq!(set, [value == 0, value == 1]);
            assert!(early.is_none_or(|early| early == value));
        });
    }

    const PART: usize = 4 * PAGE_SIZE;

    /// Memory of two regions.
    struct Memory(NonNull<u8>);
    struct Part(NonNull<u8>);
    // SAFETY: each part goes to one thread.
    unsafe impl Send for Part {}

    impl Memory {
        const LAYOUT: Layout = match Layout::from_size_align(2 * PART, PAGE_SIZE) {
            Ok(layout) => layout,
            Err(_) => panic!("a multiple of the page size"),
        };

        fn new() -> Self {
            // SAFETY: the layout is not empty.
            Self(NonNull::new(unsafe { alloc(Self::LAYOUT) }).expect("room"))
        }

        fn part(&self, number: usize) -> Part {
            // SAFETY: one of two parts.
            Part(unsafe { self.0.add(number * PART) })
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: from `new`, and not used any more.
            unsafe { dealloc(self.0.as_ptr(), Self::LAYOUT) };
        }
    }

    /// A thread writes a cell and then changes `A` by `change`; the other one reads the cell if
    /// `sees` finds the change.
    fn hands_over<A: Zeroable + Send + Sync + 'static>(change: fn(&A), sees: fn(&A) -> bool) {
        model("litmus: a cell is handed over", 2, move || {
            let shared = Arc::new((UnsafeCell::new(0), A::zero()));
            let theirs = Arc::clone(&shared);
            let writer = thread::spawn(move || {
                // SAFETY: the reader has not seen the change yet, which is what loom checks.
                theirs.0.with_mut(|cell| unsafe { *cell = 1 });
                change(&theirs.1);
            });
            if sees(&shared.1) {
                // SAFETY: the writer changes the cell no more, which is what loom checks.
                assert_eq!(shared.0.with(|cell| unsafe { *cell }), 1);
            }
            writer.join().expect("no panic");
        });
    }

    /// The litmus test for each change of a word, against each access that sees it. Mutations seen
    /// to fail: each access of `SeqCstUsize` made Relaxed ("causality violation").
    #[test]
    fn each_change_of_a_word_hands_over() {
        let changes: [fn(&SeqCstUsize); 4] = [
            |word| _ = word.set_bits(6),
            |word| _ = word.swap(6),
            |word| _ = word.exchange(0, 6),
            |word| {
                word.store_unpublished(14);
                _ = word.clear_bits(8);
            },
        ];
        let seers: [fn(&SeqCstUsize) -> bool; 5] = [
            |word| word.load() == 6,
            |word| word.set_bits(16) == 6,
            |word| word.clear_bits(16) == 6,
            |word| word.swap(6) == 6,
            |word| word.exchange(6, 7).is_ok(),
        ];
        for change in changes {
            seers.into_iter().for_each(|sees| hands_over(change, sees));
        }
    }

    /// The same for a byte. Mutations seen to fail: each access of `SeqCstU8` made Relaxed
    /// ("causality violation").
    #[test]
    fn each_change_of_a_byte_hands_over() {
        let changes: [fn(&SeqCstU8); 3] =
            [|byte| byte.store(6), |byte| byte.release(6), |byte| _ = byte.exchange(0, 6)];
        let seers: [fn(&SeqCstU8) -> bool; 2] =
            [|byte| byte.load() == 6, |byte| byte.exchange(6, 7).is_ok()];
        for change in changes {
            seers.into_iter().for_each(|sees| hands_over(change, sees));
        }
    }
}
