//! Replays a worked example of the buddy system, with 16 KiB of memory: `buddy-16k.txt` lists its
//! operations and the state after each. A frame of the allocator stands for 1 KiB.
#![cfg(not(loom))]

mod common;

use std::collections::HashMap;

use buddy::Mode;
use common::{Simulated, range};
use page_frame::{FrameNumber, Order, SingleCpu};

/// For the first frame of each allocated block, the letter of its owner and its order.
type Owners = HashMap<FrameNumber, (char, Order)>;

/// Returns the smallest order for a size, which is a number of KiB (`3.6K`) or of bytes (`900`).
fn order_of(size: &str) -> Order {
    let frames = match size.strip_suffix('K') {
        Some(kib) => kib.parse::<f64>().expect("a number of KiB").ceil() as usize,
        None => size.parse::<usize>().expect("a number of bytes").div_ceil(1024),
    };
    Order::for_pages(frames).expect("at most 16 KiB")
}

/// Does an operation of the file: `start`, `allocate OWNER SIZE` or `free OWNER`.
fn perform(buddy: &Simulated<SingleCpu>, owners: &mut Owners, operation: &str) {
    let words: Vec<_> = operation.split_whitespace().collect();
    match words[..] {
        ["start"] => {}
        ["allocate", name, size] => {
            let order = order_of(size);
            let frame = buddy.allocate_frames(order).expect("the example never runs out");
            owners.insert(frame, (name.chars().next().expect("a letter"), order));
        }
        ["free", name] => {
            let (&frame, &(_, order)) =
                owners.iter().find(|(_, (owner, _))| name.starts_with(*owner)).expect("allocated");
            owners.remove(&frame);
            buddy.free_frames(frame, order).expect("allocated with this order");
        }
        _ => panic!("not an operation: {operation}"),
    }
}

/// Returns the blocks from left to right as the file writes them: frames, and owner or `-`.
fn state(buddy: &Simulated<SingleCpu>, owners: &Owners) -> String {
    let show = |block: buddy::Block| {
        let owner = owners.get(&block.start).map_or('-', |(name, _)| *name);
        format!("{}{owner}", block.frames)
    };
    buddy.blocks().map(show).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_state_of_the_example_is_reached() {
    let buddy = Simulated::new(&[range(0, 16)], SingleCpu::new(), Mode::Plain);
    let mut owners = Owners::new();
    let mut states = 0;
    for line in include_str!("buddy-16k.txt").lines().filter(|line| !line.starts_with('#')) {
        let (operations, expected) = line.split_once("=>").expect("operations => state");
        operations.split(';').for_each(|operation| perform(&buddy, &mut owners, operation));
        assert_eq!(state(&buddy, &owners), expected.trim(), "after {operations}");
        buddy.validate().expect("consistent after each step");
        if expected.trim() == "4A 2G 2- 2- 2F 4E" {
            let four = Order::new(2).expect("order 2 exists");
            assert!(buddy.allocate_frames(four).is_err(), "2- 2- are neighbours but not buddies");
            assert_eq!(state(&buddy, &owners), expected.trim());
        }
        states += 1;
    }
    assert_eq!(states, 13);
}
