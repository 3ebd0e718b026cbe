//! The kind of fault that a free of a wrong address reports.

use std::alloc::Layout;
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use kmalloc::{Kmalloc, LARGEST};
use page_frame::{Arena, Fault, FaultKind, PAGE_SIZE, PageResize, SingleCpu};
use slab::{Hardened, Registry, System};

thread_local!(static FAULTS: RefCell<Vec<Fault>> = const { RefCell::new(Vec::new()) });

fn note(fault: &Fault) {
    FAULTS.with_borrow_mut(|faults| faults.push(*fault));
}

/// Frees `address`, and returns the faults that the hook got.
fn faults_of<S: System<Pages: PageResize>>(
    kmalloc: &Kmalloc<S, Hardened>,
    address: NonNull<u8>,
) -> Vec<Fault> {
    // SAFETY: not sound for a wrong address in general; here the hook returns, and a wrong free
    // changes nothing. A right address is the caller's.
    unsafe { kmalloc.free(address) };
    FAULTS.take()
}

fn kinds_are_right<S: System<Pages: PageResize>>(kmalloc: &Kmalloc<S, Hardened>) {
    let pages = LARGEST / PAGE_SIZE + 70;
    let layout = Layout::from_size_align(pages * PAGE_SIZE, 1).expect("a layout");
    let kind = |address: NonNull<u8>| {
        let faults = faults_of(kmalloc, address);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].kind
    };
    let (run, behind) = (kmalloc.allocate(layout), kmalloc.allocate(layout));
    let (run, behind) = (run.expect("room"), behind.expect("room"));
    for offset in [1, 8, PAGE_SIZE - 1, PAGE_SIZE, 7 * PAGE_SIZE, (pages - 1) * PAGE_SIZE + 100] {
        // SAFETY: inside the run.
        let inside = unsafe { run.add(offset) };
        assert_eq!(kind(inside), FaultKind::InteriorPointer, "{offset}");
    }
    assert!(faults_of(kmalloc, run).is_empty(), "allocated");
    for offset in [0, PAGE_SIZE, (pages - 1) * PAGE_SIZE] {
        // SAFETY: inside what was the run.
        let freed = unsafe { run.add(offset) };
        assert_eq!(kind(freed), FaultKind::DoubleFree, "{offset}");
    }
    let mut elsewhere = 0_u64;
    assert_eq!(kind(NonNull::from(&mut elsewhere).cast()), FaultKind::ForeignPointer);
    assert_eq!(kind(NonNull::dangling()), FaultKind::ForeignPointer);
    assert!(faults_of(kmalloc, behind).is_empty(), "allocated");
    kmalloc.validate().expect("consistent");
}

/// Mutations that it catches: each free of an address without a size class is reported as foreign;
/// the search for the allocation around an address ends at the first page without a tag.
#[test]
fn wrong_frees_of_large_allocations_are_called_what_they_are() {
    let mut memory = vec![MaybeUninit::uninit(); 16 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
    kinds_are_right(&Kmalloc::with_hardening(registry));
}

#[test]
fn wrong_frees_over_a_buddy_are_called_what_they_are() {
    use buddy::page_frame::DirectMap;
    use buddy::{Buddy, Mode, ZeroedMemory};
    let memory = hosted::Mapped::reserve(64 << 20).expect("address space");
    let ranges = [memory.frames()];
    let layout = Buddy::<DirectMap, SingleCpu>::metadata_layout(&ranges, 1).expect("good");
    let mut metadata = vec![MaybeUninit::uninit(); layout.size() + layout.align()];
    let map = memory.direct_map();
    let (zeroed, cpu) = (ZeroedMemory::zero(&mut metadata), SingleCpu::new());
    // SAFETY: the frames are a fresh mapping that no other code uses, and `map` covers it.
    let buddy = unsafe { Buddy::new_in(zeroed, &ranges, map, &cpu, Mode::Cached) };
    let buddy = buddy.expect("frames");
    let registry = Registry::with_fault_hook(&buddy, &cpu, note).expect("room");
    kinds_are_right(&Kmalloc::with_hardening(registry));
}

/// A report names the call, the cache, and the byte.
///
/// Mutation that it catches: a closure around the free, in which the location of the caller is
/// lost.
#[test]
fn reports_name_the_call_and_the_cache() {
    let mut memory = vec![MaybeUninit::uninit(); 4 << 20];
    let arena = Arena::new(&mut memory).expect("large enough");
    let registry = Registry::with_fault_hook(&arena, SingleCpu::new(), note).expect("room");
    let kmalloc = Kmalloc::<_, Hardened>::with_hardening(registry);
    let [one, other, written] = [(); 3].map(|()| kmalloc.kmalloc(200).expect("room"));
    assert!(faults_of(&kmalloc, one).is_empty() && faults_of(&kmalloc, other).is_empty());
    let faults = faults_of(&kmalloc, one);
    assert_eq!(faults[0].kind, FaultKind::DoubleFree);
    assert!(faults[0].site.file().ends_with("tests/misuse.rs"), "{}", faults[0]);
    assert!(faults[0].to_string().ends_with("; cache kmalloc-224"), "{}", faults[0]);
    assert!(faults_of(&kmalloc, written).is_empty());
    // SAFETY: inside what was the object.
    let byte = unsafe { written.add(77) };
    // SAFETY: the bug that the allocator must find. The byte lies in the arena, which is ours.
    unsafe { byte.write(0x55) };
    let again: Vec<_> = (0..300).map(|_| kmalloc.kmalloc(200).expect("room")).collect();
    let faults = FAULTS.take();
    let changed = written.addr().get() + 77;
    let expected = FaultKind::WriteAfterFree { changed, expected: 0xdb, found: 0x55 };
    assert_eq!(faults.iter().map(|fault| fault.kind).collect::<Vec<_>>(), [expected]);
    assert!(!again.contains(&written), "it stays isolated");
}
