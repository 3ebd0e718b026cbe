//! [`BorrowedId`]: the loan of a CPU id to a caller that has none, for the length of one slow path.

use page_frame::Cpu;

/// A CPU id that the machine has lent to the caller, or none, if the caller has an id of its own or
/// the machine lends none. Dropping it returns the id.
pub(crate) struct BorrowedId<'c, C: Cpu> {
    cpu: &'c C,
    /// Whether the machine lent an id.
    pub(crate) is_lent: bool,
}

impl<'c, C: Cpu> BorrowedId<'c, C> {
    /// Asks `cpu` for an id, if the caller has none.
    #[inline(always)]
    pub(crate) fn new(cpu: &'c C) -> Self {
        Self { cpu, is_lent: cpu.borrow() }
    }
}

impl<C: Cpu> Drop for BorrowedId<'_, C> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.is_lent {
            // SAFETY: clause 1: pairs with the `borrow` in `new`. The slow path has dropped the
            // guards of all slots that it entered, so the caller is inside no slot.
            unsafe { self.cpu.give_back() };
        }
    }
}
