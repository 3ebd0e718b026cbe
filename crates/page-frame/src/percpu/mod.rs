//! Per-CPU state that its owner uses without atomic read-modify-writes, and that other CPUs can
//! take over.

pub(crate) mod cpu;
#[cfg(feature = "critical-section")]
pub(crate) mod critical_section;
pub(crate) mod freeze;
pub(crate) mod guard;
pub(crate) mod id;
pub(crate) mod irq_lock;
pub(crate) mod machines;
pub(crate) mod per_cpu;
pub(crate) mod pin_guards;
pub(crate) mod slot;
pub(crate) mod slot_stride;
pub(crate) mod take_over;
