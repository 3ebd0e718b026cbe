//! What errors say.
#![cfg(not(loom))]

use buddy::{BuildError, HotplugError, SplitError, ZoneListError};
use page_frame::{Fault, FaultKind, FrameNumber, OutOfMemory};

#[test]
fn errors_say_the_numbers_concerned() {
    let (needed, given, frame) = (4096, 100, FrameNumber::new(0x40));
    let fault = Fault::at_frame(FaultKind::DoubleFree, frame);
    let texts = [
        (BuildError::NoFrames.to_string(), "there are no frames"),
        (
            BuildError::Unordered { index: 2 }.to_string(),
            "range 2 is empty or begins inside or below the one before",
        ),
        (BuildError::TooLarge.to_string(), "the metadata is larger than the address space"),
        (
            BuildError::MetadataTooSmall { needed, given }.to_string(),
            "the metadata needs 4096 bytes, and 100 are given",
        ),
        (HotplugError::NotOneSection.to_string(), "the range is not inside one section of 1 GiB"),
        (HotplugError::NoRoom.to_string(), "the allocator was built without room for these frames"),
        (HotplugError::Occupied.to_string(), "the section has frames already"),
        (HotplugError::Absent.to_string(), "some of the frames do not exist"),
        (HotplugError::FromStart.to_string(), "the section exists from the start"),
        (HotplugError::PartOfArea.to_string(), "the range begins or ends inside an area"),
        (
            HotplugError::MetadataTooSmall { needed, given }.to_string(),
            "the metadata needs 4096 bytes, and 100 are given",
        ),
        (HotplugError::InUse { frame }.to_string(), "frame 0x40 is in use"),
        (ZoneListError::Empty.to_string(), "there are no zones"),
        (
            ZoneListError::Unordered { index: 3 }.to_string(),
            "zone 3 is not above the zone before it by node and kind",
        ),
        (
            ZoneListError::OtherMap { index: 1 }.to_string(),
            "zone 1 maps frames to other addresses than the first zone",
        ),
        (
            ZoneListError::NotSquare { distances: 7 }.to_string(),
            "7 distances are no square matrix with a row for each node",
        ),
        (SplitError::Busy.to_string(), "another CPU is searching the block's areas"),
        (SplitError::Fault(fault).to_string(), &fault.to_string()),
    ];
    for (text, expected) in &texts {
        assert_eq!(text, expected);
    }
    assert_eq!(OutOfMemory::from(BuildError::TooLarge), OutOfMemory);
}
