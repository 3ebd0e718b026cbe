//! How far an operation may go for memory or for a lock.

use page_frame::{Cpu, IrqLock, IrqLockGuard, IrqLockToken};

/// Whether an operation waits for a lock that another CPU holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    /// Only tries locks, and runs no destructor: the caller may be an aging pass.
    Try,
}

impl Patience {
    /// Takes `lock`. `None` when it is held and the caller does not wait: nested contexts never do.
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
    Allowed,
    Forbidden,
}
