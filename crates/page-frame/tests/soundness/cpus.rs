//! Machines: a CPU number beyond the last id is refused, and a slot stride of whole lines is
//! accepted. `compile_fail` examples of [`WithSlotStride`] show the strides that are refused.

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
fn a_slot_stride_of_two_lines_is_accepted() {
    assert_eq!(WithSlotStride::<SingleCpu, 128>::SLOT_STRIDE, 128);
}
