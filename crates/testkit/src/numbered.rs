//! CPUs of loom models: each thread of a model says which CPU it is.

use std::cell::Cell;

use page_frame::{Cpu, CpuId};

loom::thread_local! {
    static NUMBER: Cell<Option<u32>> = Cell::new(None);
}

/// A machine of two CPUs without a fence of its own. Each thread of a model is the CPU whose number
/// it passed to [`become_cpu`]; a thread without a number has no slot.
#[derive(Clone, Copy, Debug)]
pub struct Numbered;

// SAFETY: `become_cpu` leaves it to each model that only one thread at a time has a number.
unsafe impl Cpu for Numbered {
    fn slots(&self) -> usize {
        2
    }
    fn pin(&self) -> Option<CpuId> {
        NUMBER.with(Cell::get).map(CpuId::new)
    }
    unsafe fn unpin(&self) {}
    fn fence_all(&self) -> bool {
        false
    }
}

/// Makes the calling thread CPU `number`, or a context without a slot. No two threads of a model
/// have the same number at once.
pub fn become_cpu(number: impl Into<Option<u32>>) {
    let number = number.into();
    NUMBER.with(|own| own.set(number));
}
