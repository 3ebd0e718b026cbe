//! A CPU id that the machine lends to a caller without one, for one slow path.

use page_frame::Cpu;

/// An id, if the machine lent one. Dropping it gives it back.
pub(crate) struct BorrowedId<'c, C: Cpu> {
    cpu: &'c C,
    /// Whether the machine lent an id.
    pub(crate) is_lent: bool,
}

impl<'c, C: Cpu> BorrowedId<'c, C> {
    /// Borrows an id of `cpu`, if the caller has none.
    #[inline(always)]
    pub(crate) fn new(cpu: &'c C) -> Self {
        Self { cpu, is_lent: cpu.borrow() }
    }
}

impl<C: Cpu> Drop for BorrowedId<'_, C> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.is_lent {
            // SAFETY: clause 1: pairs with the `borrow` in `new`. All guards of slots that were
            // made since are dropped: the slow path has returned.
            unsafe { self.cpu.give_back() };
        }
    }
}
