//! Keeps the guards of a kernel's preemption counter between `pin` and `unpin`.

use core::marker::PhantomData;
use core::ptr::NonNull;

/// Hands a guard from [`Cpu::pin`](crate::Cpu::pin) to [`Cpu::unpin`](crate::Cpu::unpin), for
/// kernels that disable preemption by a guard, which only the kernel can make.
///
/// A guard without fields is nothing but the promise that its destructor runs later, so nothing is
/// stored. Guards of another size do not compile.
///
/// ```
/// use page_frame::{Cpu, CpuId, PinGuards};
/// use std::cell::Cell;
/// mod kernel {
///     # thread_local! { pub static DISABLED: std::cell::Cell<usize> = Default::default(); }
///     pub struct PreemptGuard(()); // dropping it enables preemption again
///     # impl Drop for PreemptGuard { fn drop(&mut self) { DISABLED.set(DISABLED.get() - 1) } }
///     pub fn disable_preempt() -> PreemptGuard {
///         # DISABLED.set(DISABLED.get() + 1);
///         PreemptGuard(())
///     }
/// }
/// #[derive(Clone, Default)]
/// struct MyCpu(PinGuards<kernel::PreemptGuard>, std::marker::PhantomData<Cell<()>>);
/// // SAFETY: clauses 1 to 4: one thread, as the type is not `Sync`. Clauses 5 and 6: 0 of 1.
/// unsafe impl Cpu for MyCpu {
///     fn slots(&self) -> usize { 1 }
///     fn pin(&self) -> Option<CpuId> {
///         self.0.keep(kernel::disable_preempt());
///         Some(CpuId::new(0))
///     }
///     unsafe fn unpin(&self) {
///         // SAFETY: clause 1: pairs with the `keep` in `pin`, by clause 1 of `unpin`.
///         unsafe { self.0.end() }
///     }
///     fn fence_all(&self) -> bool { true }
/// }
/// let cpu = MyCpu::default();
/// assert!(cpu.pin().is_some());
/// assert_eq!(kernel::DISABLED.get(), 1);
/// // SAFETY: pairs with the `pin`.
/// unsafe { cpu.unpin() };
/// assert_eq!(kernel::DISABLED.get(), 0);
/// ```
///
/// ```compile_fail,E0080
/// page_frame::PinGuards::new().keep(7_u8);
/// ```
#[derive(Debug)]
pub struct PinGuards<G>(PhantomData<fn(G) -> G>);

impl<G> PinGuards<G> {
    /// Makes the keeper of guards of type `G`. Example: see [`PinGuards`].
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// Keeps `guard` until [`end`](Self::end). Example: see [`PinGuards`].
    #[inline(always)]
    pub fn keep(&self, guard: G) {
        const { assert!(size_of::<G>() == 0, "a guard that is kept has no fields") };
        core::mem::forget(guard);
    }

    /// Drops a guard that [`keep`](Self::keep) has kept. Example: see [`PinGuards`].
    ///
    /// # Safety
    /// 1. Pairs with a `keep` of the same context, whose guard has not been dropped.
    #[inline(always)]
    pub unsafe fn end(&self) {
        // SAFETY: clause 1: there is a guard that was forgotten. `keep` compiled, so it has no
        // size, and a value without size is read at any aligned address.
        drop(unsafe { NonNull::<G>::dangling().read() });
    }
}

impl<G> Default for PinGuards<G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G> Clone for PinGuards<G> {
    fn clone(&self) -> Self {
        Self::new()
    }
}
