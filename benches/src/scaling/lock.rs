//! The locks of contestants with a common lock: a spin lock where times are measured, a queue lock
//! where many CPUs are simulated.

/// The lock of contestants with a common lock.
#[cfg(feature = "counted")]
pub type CommonLock<T> = queue::QueueLock<T>;
/// The lock of contestants with a common lock.
#[cfg(not(feature = "counted"))]
pub type CommonLock<T> = spin::Mutex<T>;

/// [`CommonLock`]s.
pub struct CommonLocks;

impl crate::exclusive::Locks for CommonLocks {
    type Lock<T: Send> = CommonLock<T>;
}

#[cfg(feature = "counted")]
mod queue {
    use std::cell::UnsafeCell;

    use page_frame::sync::{AtomicBool, AtomicUsize, Ordering};

    use crate::exclusive::Exclusive;
    use crate::scaling::lines::MAX_CPUS;
    use crate::scaling::machine::{current, sleep};

    /// A queue lock, in which each waiter looks at a line of its own (Mellor-Crummey and Scott
    /// 1991), as the kernel of Linux has for its zones. A spin lock that all waiters look at would
    /// do worse.
    ///
    /// Invariant I1: the CPU that found `tail` zero, or whose `waits` was cleared by the holder
    /// before, holds the lock until it stores zero there or clears the next one's.
    pub struct QueueLock<T> {
        /// The number of the last CPU in the queue plus one, or zero.
        tail: AtomicUsize,
        nodes: Box<[Node]>,
        value: UnsafeCell<T>,
    }

    #[derive(Default)]
    #[repr(align(128))]
    struct Node {
        next: AtomicUsize,
        waits: AtomicBool,
    }

    // SAFETY: I1: one caller at a time has the value.
    unsafe impl<T: Send> Sync for QueueLock<T> {}

    impl<T> Exclusive<T> for QueueLock<T> {
        fn new(value: T) -> Self {
            let nodes = std::iter::repeat_with(Node::default).take(MAX_CPUS).collect();
            Self { tail: AtomicUsize::new(0), nodes, value: UnsafeCell::new(value) }
        }

        fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            let order = Ordering::SeqCst;
            let own = current();
            let node = &self.nodes[own];
            node.next.store(0, order);
            node.waits.store(true, order);
            let before = self.tail.swap(own + 1, order);
            if before != 0 {
                self.nodes[before - 1].next.store(own + 1, order);
                while node.waits.load(order) {
                    sleep();
                }
            }
            // SAFETY: I1: this CPU holds the lock.
            let result = f(unsafe { &mut *self.value.get() });
            if self.tail.compare_exchange(own + 1, 0, order, order).is_err() {
                let mut next = node.next.load(order);
                while next == 0 {
                    sleep();
                    next = node.next.load(order);
                }
                self.nodes[next - 1].waits.store(false, order);
            }
            result
        }
    }
}
