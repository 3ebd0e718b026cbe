//! The CPUs of the machine: the local APICs that the ACPI table "APIC" (the MADT) lists.

use core::ptr::NonNull;

use crate::boot_info::physical;

/// The size in bytes of the header that every table begins with. Its first four bytes are the name
/// of the table, and the next four its length in bytes.
const HEADER: usize = 36;

/// Reads the number at `offset` bytes from `base`, whatever its alignment.
///
/// # Safety
/// 1. The bytes are mapped and part of a table.
unsafe fn read<T: Copy>(base: NonNull<u8>, offset: usize) -> T {
    // SAFETY: clause 1: inside the table.
    let place = unsafe { base.add(offset) };
    // SAFETY: clause 1: mapped; a table's fields are numbers of any value.
    unsafe { place.cast::<T>().read_unaligned() }
}

/// Calls `found` with the APIC id of each CPU that can be started.
///
/// # Safety
/// 1. `rsdp` is the address of the root structure that the boot loader passed, and nobody has
///    changed the tables of the firmware.
pub(crate) unsafe fn for_each_cpu(rsdp: u64, found: impl FnMut(u32)) {
    let rsdp = physical::<u8>(rsdp);
    // SAFETY: clause 1: the address of the root table, in the structure of revision 1.
    let root: u32 = unsafe { read(rsdp, 16) };
    let root = physical::<u8>(root.into());
    // SAFETY: clause 1: every table has its length there.
    let bytes: u32 = unsafe { read(root, 4) };
    let mut found = Some(found);
    for offset in (HEADER..bytes as usize).step_by(4) {
        // SAFETY: clause 1: the root table is a list of addresses of tables.
        let table: u32 = unsafe { read(root, offset) };
        let table = physical::<u8>(table.into());
        // SAFETY: clause 1: every table begins with its name.
        let name: [u8; 4] = unsafe { read(table, 0) };
        if &name == b"APIC"
            && let Some(found) = found.take()
        {
            // SAFETY: clause 1: the table found by its name is a MADT.
            unsafe { local_apics(table, found) };
        }
    }
}

/// Calls `found` with the APIC id of each CPU in `table` that can be started.
///
/// # Safety
/// 1. `table` is a MADT.
unsafe fn local_apics(table: NonNull<u8>, mut found: impl FnMut(u32)) {
    // SAFETY: clause 1: the header's length, at offset 4.
    let bytes: u32 = unsafe { read(table, 4) };
    let mut offset = HEADER + 8;
    while offset + 2 <= bytes as usize {
        // SAFETY: clause 1: each entry begins with its type and length.
        let [kind, length]: [u8; 2] = unsafe { read(table, offset) };
        if kind == 0 {
            // SAFETY: clause 1: processor id, APIC id, flags.
            let apic: u8 = unsafe { read(table, offset + 3) };
            // SAFETY: clause 1: the flags follow the two ids.
            let flags: u32 = unsafe { read(table, offset + 4) };
            if flags & 1 != 0 {
                found(apic.into());
            }
        }
        offset += usize::from(length).max(2);
    }
}
