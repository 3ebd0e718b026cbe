//! Under the preset `Debugging` the allocator finds writes beyond the requested size, also inside
//! the object of the class.

use std::alloc::Layout;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use kmalloc::{Kmalloc, LARGEST};
use page_frame::{Arena, Fault, FaultKind, SingleCpu};
use slab::{Debugging, Off, Registry};

type Checked<'a> = Kmalloc<(&'a Arena<'a>, SingleCpu), Debugging>;

thread_local!(static FAULTS: RefCell<Vec<Fault>> = const { RefCell::new(Vec::new()) });

fn note(fault: &Fault) {
    FAULTS.with_borrow_mut(|faults| faults.push(*fault));
}

fn with_kmalloc(test: impl FnOnce(&Checked<'_>)) {
    let mut memory = vec![MaybeUninit::uninit(); 32 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
    FAULTS.take();
    let kmalloc = Kmalloc::with_hardening(registry);
    test(&kmalloc);
    kmalloc.validate().expect("consistent");
}

/// Changes the byte at `offset` from `start`.
fn spoil(start: NonNull<u8>, offset: usize) {
    // SAFETY: inside the class's object, or its padding.
    let place = unsafe { start.add(offset) };
    // SAFETY: as above, and the allocator has written it.
    let before = unsafe { place.read() };
    // SAFETY: as above.
    unsafe { place.write(!before) };
}

/// Checks an allocation, and returns its requested size.
fn check(kmalloc: &Checked<'_>, start: NonNull<u8>) -> Result<usize, Fault> {
    // SAFETY: clauses 1 and 2: allocated by the caller, the only thread.
    unsafe { kmalloc.check_owned(start) }
}

/// Frees `start`, and returns offset and size of the overflow that it reported.
fn overflow_at_free(kmalloc: &Checked<'_>, start: NonNull<u8>) -> Option<(i32, usize)> {
    // SAFETY: allocated by the caller, which does not use it again.
    unsafe { kmalloc.free(start) };
    let faults = FAULTS.take();
    let offsets = faults.iter().map(|fault| match fault.kind {
        FaultKind::Overflow { offset, size, changed, .. } => {
            assert_eq!(changed.wrapping_sub(start.addr().get()) as i32, offset);
            let words = format!("offset {offset} of {size} bytes asked for");
            assert!(fault.to_string().contains(&words), "{fault}");
            (offset, size as usize)
        }
        other => panic!("{other:?}"),
    });
    offsets.collect::<Vec<_>>().pop()
}

/// Mutations that it catches: the rest of the object is not filled or not checked; the recorded
/// size is that of the class; `check` looks only at the mark.
#[test]
fn a_write_of_one_byte_too_many_is_found_for_every_size() {
    with_kmalloc(|kmalloc| {
        let sizes = (1..300).chain([301, 511, 512, 1000, 1025, 3000, LARGEST - 1, LARGEST]);
        for bytes in sizes {
            for beyond in [0, 1, 7] {
                let start = kmalloc.kmalloc(bytes).expect("room");
                assert_eq!(check(kmalloc, start).expect("nothing is wrong"), bytes);
                assert_eq!(kmalloc.check(start).expect("in use"), bytes);
                spoil(start, bytes + beyond);
                let fault = check(kmalloc, start).expect_err("an overflow");
                assert!(
                    matches!(fault.kind, FaultKind::Overflow { size, .. } if size as usize == bytes)
                );
                let offset = (bytes + beyond) as i32;
                assert_eq!(overflow_at_free(kmalloc, start), Some((offset, bytes)), "{bytes}");
            }
        }
    });
}

/// The usable size is the requested one: all of it may be written, and no byte more.
#[test]
fn usable_bytes_may_be_written_and_are_zeroed() {
    with_kmalloc(|kmalloc| {
        for bytes in [0, 1, 20, 100, 113, 1000, 5000, LARGEST, LARGEST + 1] {
            let layout = Layout::from_size_align(bytes, 8).expect("a layout");
            let tried = kmalloc.try_allocate(layout).expect("room");
            let allocated = kmalloc.allocate(layout).expect("room");
            let zeroed = kmalloc.allocate_zeroed(layout).expect("room");
            for start in [tried, allocated, zeroed] {
                let usable = kmalloc.usable_size(start).expect("an allocation");
                assert!(usable >= bytes.max(1));
                if bytes <= LARGEST {
                    assert_eq!(usable, bytes.max(1));
                }
                kmalloc.check_layout(start, layout).expect("this layout");
                if start == zeroed {
                    // SAFETY: allocated with that many bytes, which were zeroed.
                    let content = unsafe { std::slice::from_raw_parts(start.as_ptr(), usable) };
                    assert!(content.iter().all(|byte| *byte == 0));
                }
                // SAFETY: the usable bytes of the allocation.
                unsafe { start.write_bytes(7, usable) };
                assert_eq!(overflow_at_free(kmalloc, start), None, "{bytes}");
            }
        }
        let twenty = kmalloc.kmalloc(20).expect("room");
        let other = Layout::from_size_align(21, 8).expect("a layout");
        let fault = kmalloc.check_layout(twenty, other).expect_err("another size");
        assert_eq!(fault.kind, FaultKind::WrongSize { allocated: 20, given: 21 });
        assert_eq!(overflow_at_free(kmalloc, twenty), None);
    });
}

/// Mutations that it catches: a resize in place keeps the old record, or the old end of the
/// usable bytes; it overwrites a changed byte without a report.
#[test]
fn reallocation_in_place_moves_the_end() {
    with_kmalloc(|kmalloc| {
        for sizes in [[100, 110], [110, 100], [97, 112], [112, 97]] {
            let [old, new] = sizes;
            let start = kmalloc.kmalloc(old).expect("room");
            // SAFETY: allocated above; the address that it returns is used from now on.
            let same = unsafe { kmalloc.krealloc(Some(start), new) }.expect("room");
            assert_eq!((same, kmalloc.usable_size(same)), (start, Some(new)));
            // SAFETY: the usable bytes.
            unsafe { same.write_bytes(7, new) };
            check(kmalloc, same).expect("nothing is wrong");
            spoil(same, new);
            assert_eq!(overflow_at_free(kmalloc, same), Some((new as i32, new)), "{sizes:?}");
        }
        // A reallocation reports an overflow, in the same class or not, and moves the content.
        for new in [105, 1000, 10] {
            let start = kmalloc.kmalloc(100).expect("room");
            // SAFETY: the bytes of the allocation.
            unsafe { start.write_bytes(7, 100) };
            spoil(start, 101);
            // SAFETY: allocated above; the address that it returns is used from now on.
            let moved = unsafe { kmalloc.krealloc(Some(start), new) }.expect("room");
            let seen: Vec<_> = FAULTS.take().iter().map(|fault| fault.kind).collect();
            let is_right = |kind: &FaultKind| {
                matches!(kind, FaultKind::Overflow { offset: 101, size: 100, .. })
            };
            assert!(seen.len() == 1 && is_right(&seen[0]), "{new}: {seen:?}");
            assert_ne!(moved, start, "it stays isolated");
            // SAFETY: inside the allocation.
            let last = unsafe { moved.add(new.min(100) - 1) };
            // SAFETY: copied from the old place.
            assert_eq!(unsafe { last.read() }, 7);
            assert_eq!(overflow_at_free(kmalloc, moved), None);
        }
    });
}

#[test]
fn a_double_free_of_a_short_request_is_no_overflow() {
    with_kmalloc(|kmalloc| {
        let (start, other) = (kmalloc.kmalloc(100), kmalloc.kmalloc(100));
        let (start, other) = (start.expect("room"), other.expect("room"));
        for freed in [start, other, start] {
            // SAFETY: the third free is the fault, which changes nothing.
            unsafe { kmalloc.free(freed) };
        }
        let seen: Vec<_> = FAULTS.take().iter().map(|fault| fault.kind).collect();
        assert_eq!(seen, [FaultKind::DoubleFree]);
    });
}

/// Other presets let callers use all bytes of the class.
#[test]
fn without_the_check_all_bytes_of_the_class_may_be_used() {
    let mut memory = vec![MaybeUninit::uninit(); 32 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
    let kmalloc = Kmalloc::<_, Off>::with_hardening(registry);
    let start = kmalloc.kmalloc(100).expect("room");
    assert_eq!(kmalloc.usable_size(start), Some(112));
    // SAFETY: clauses 1 and 2: allocated above, and not used any more.
    unsafe { kmalloc.free(start) };
}
