//! What an operation may do to get a lock or memory: wait for the lock, reclaim memory.

use page_frame::{Cpu, IrqLock, IrqLockGuard, IrqLockToken};

/// Whether an operation waits for a lock that another CPU holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Waits. A nested context never does, as it may have interrupted the owner of the lock.
    Wait,
    /// Only tries locks, and runs no destructor, as the caller may be an aging pass.
    Try,
}

impl Patience {
    /// Takes `lock`. `None` if it is held and the caller may not wait.
    pub(crate) fn lock<'l, T, U, C: Cpu>(
        self,
        token: &'l IrqLockToken<'_, T, C>,
        lock: &'l IrqLock<U>,
    ) -> Option<IrqLockGuard<'l, U, C>> {
        match self {
            Self::Wait => token.lock(lock),
            Self::Try => token.try_lock(lock),
        }
    }
}

/// Whether the page source may run shrinkers to find a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// It may, so the request may take long, and run code of the user.
    Allowed,
    /// It may not: the request fails if no block is free.
    Forbidden,
}
