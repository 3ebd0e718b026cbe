//! Machines: numbers that are no ids, and strides that are not whole lines.

use page_frame::{Cpu, CpuId, SingleCpu, SwitchedCpu, WithSlotStride};

#[test]
fn numbers_beyond_the_last_id_are_refused() {
    let last = CpuId::COUNT as u32 - 1;
    assert_eq!(CpuId::new(last).index(), last as usize);
    for number in [CpuId::COUNT as u32, u32::MAX] {
        assert!(std::panic::catch_unwind(|| CpuId::new(number)).is_err(), "{number}");
    }
    assert!(std::panic::catch_unwind(|| SwitchedCpu::new(CpuId::COUNT + 1)).is_err());
}

#[test]
fn a_slot_stride_is_whole_lines() {
    assert_eq!(WithSlotStride::<SingleCpu, 128>::SLOT_STRIDE, 128);
}
