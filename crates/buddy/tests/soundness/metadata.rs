//! Metadata: every buffer of safe code is either accepted or refused.

use std::mem::MaybeUninit;

use buddy::{BuildError, FrameAllocator, HotplugError, Mode, ZeroedMemory};
use page_frame::{FrameNumber, FrameRange, Order, SingleCpu};

use crate::common::range;

type Frames<'m> = FrameAllocator<'m, SingleCpu>;

/// Mutation seen to fail: `build` without its test of the size ("buffer of 0 bytes").
#[test]
fn buffers_of_any_size_and_alignment_serve_or_are_refused() {
    let frames = [range(3, 700), range(900, 1000)];
    let needed = Frames::metadata_layout(&frames, 1).expect("good ranges").size();
    // Not zero before: `ZeroedMemory::zero` zeroes the buffer.
    let mut buffer = vec![MaybeUninit::new(0xff_u8); needed + 200];
    for skipped in 0..130 {
        for size in [0, 1, 63, 64, needed / 2, needed - 1, needed, needed + 63] {
            let memory = ZeroedMemory::zero(&mut buffer[skipped..skipped + size]);
            let given = memory.bytes();
            assert!(given <= size && size - given < 64);
            match Frames::new_in(memory, &frames, SingleCpu::new(), Mode::Cached) {
                Err(error) => {
                    assert_eq!(error, BuildError::MetadataTooSmall { needed, given });
                    assert!(given < needed, "buffer of {size} bytes");
                }
                Ok(frames) => {
                    assert!(given >= needed, "buffer of {size} bytes");
                    let block = frames.allocate_frames(Order::ZERO).expect("free");
                    frames.free_frames(block, Order::ZERO).expect("allocated above");
                    frames.drain();
                    frames.validate().expect("consistent");
                    assert_eq!(frames.free_frames_count(), 797);
                }
            }
            buffer.fill(MaybeUninit::new(0xff));
        }
    }
}

/// Mutation seen to fail: `Plan::new` without its test of the span's end (the size wraps around,
/// and the buffer is accepted).
#[test]
fn more_frames_than_there_are_addresses_are_refused() {
    let mut buffer = vec![MaybeUninit::uninit(); 1 << 20];
    for (start, end) in [
        (0, usize::MAX),
        (usize::MAX - 5, usize::MAX),
        (usize::MAX / 9, usize::MAX / 9 + 600),
        (0, (usize::MAX >> 12) + 1),
    ] {
        let frames = [range(start, end)];
        assert_eq!(Frames::metadata_layout(&frames, 1), Err(BuildError::TooLarge), "{frames:?}");
        let memory = ZeroedMemory::zero(&mut buffer);
        let refused = Frames::new_in(memory, &frames, SingleCpu::new(), Mode::Plain);
        assert_eq!(refused.err(), Some(BuildError::TooLarge));
    }
    let room = range(2, usize::MAX);
    let refused = Frames::metadata_layout_with_room(&[range(0, 1)], room, 1);
    assert_eq!(refused, Err(BuildError::TooLarge));
}

/// Mutation seen to fail: `add_section` without its test of the size.
#[test]
fn the_metadata_of_a_section_is_large_enough_or_refused() {
    const SECTION: usize = 1 << 18;
    let (first, room) = ([range(0, 100)], range(0, 2 * SECTION));
    let layout = Frames::metadata_layout_with_room(&first, room, 1).expect("good ranges");
    let mut buffer = vec![MaybeUninit::uninit(); layout.size() + 64];
    let (mut small, mut large) = (vec![MaybeUninit::uninit(); 5000], Vec::new());
    let needed = Frames::section_layout().size();
    large.resize(needed + 64, MaybeUninit::new(0xff));
    let memory = ZeroedMemory::zero(&mut buffer);
    let frames = Frames::new_with_room(memory, &first, room, SingleCpu::new(), Mode::Cached);
    let mut frames = frames.expect("enough");
    let added = range(SECTION, SECTION + 1000);
    let small = ZeroedMemory::zero(&mut small);
    let given = small.bytes();
    let refused = frames.add_section(small, added);
    assert_eq!(refused, Err(HotplugError::MetadataTooSmall { needed, given }));
    frames.add_section(ZeroedMemory::zero(&mut large), added).expect("room");
    assert_eq!(frames.free_frames_count(), 1100);
    frames.validate().expect("consistent");
    frames.offline(added).expect("all frames are free");
    assert_eq!(frames.remove_section(FrameNumber::new(SECTION)), Ok(added));
    assert_eq!(frames.remove_section(FrameNumber::new(SECTION)), Err(HotplugError::Absent));
    frames.validate().expect("consistent");
}

#[test]
fn ranges_that_run_backwards_are_absent() {
    let mut buffer = vec![MaybeUninit::uninit(); 1 << 20];
    let backwards = FrameRange::new(FrameNumber::new(64), FrameNumber::new(0));
    let memory = ZeroedMemory::zero(&mut buffer);
    let refused = Frames::new_in(memory, &[backwards], SingleCpu::new(), Mode::Plain);
    assert_eq!(refused.err(), Some(BuildError::Unordered { index: 0 }));
    let memory = ZeroedMemory::zero(&mut buffer);
    let frames = Frames::new_in(memory, &[range(0, 512)], SingleCpu::new(), Mode::Plain);
    let frames = frames.expect("enough");
    assert_eq!(frames.offline(backwards), Err(HotplugError::Absent));
    assert_eq!(frames.online(backwards), Err(HotplugError::Absent));
}
