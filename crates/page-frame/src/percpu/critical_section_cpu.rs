//! The type of the machine over the crate `critical-section`. It exists without the feature too, so
//! that it can be the default of a type parameter; only with the feature is it a `Cpu`.

/// One slot for every machine that has the crate `critical-section`: callers enter a critical
/// section while they are pinned. It is `Sync`, and correct in interrupts, with threads, and on
/// several cores.
///
/// It is a [`Cpu`](crate::Cpu) with the feature `critical-section`. The program must have an
/// implementation of that crate, which chip crates provide (`cortex-m` with
/// `critical-section-single-core`, `riscv`, `esp-hal`).
///
/// Each access to a slot masks interrupts for the time of about ten instructions. Machines with
/// many cores get a slot for each of them by an implementation of [`Cpu`](crate::Cpu).
///
/// ```
/// # #[cfg(feature = "critical-section")] {
/// use page_frame::{Cpu, CpuId, CriticalSectionCpu};
/// let cpu = CriticalSectionCpu::new();
/// assert_eq!(cpu.pin(), Some(CpuId::new(0))); // the critical section begins
/// // SAFETY: pairs with the `pin`.
/// unsafe { cpu.unpin() };
/// # }
/// # let cpu = page_frame::CriticalSectionCpu::new();
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CriticalSectionCpu(());

impl CriticalSectionCpu {
    /// Makes the machine. All values are the same machine. Example: see [`CriticalSectionCpu`].
    pub const fn new() -> Self {
        Self(())
    }
}
