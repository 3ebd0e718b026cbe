//! The information from the boot loader: the PVH start info, with the memory map and the address of
//! the ACPI tables.

use core::ptr::NonNull;

use page_frame::{MapError, MemoryMap, RegionKind};

/// The start info, as the PVH boot protocol lays it out.
#[repr(C)]
pub(crate) struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    module_list: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

#[repr(C)]
struct MapEntry {
    start: u64,
    bytes: u64,
    kind: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;

/// Returns a pointer to low physical memory, which is mapped at its own address.
pub(crate) fn physical<T>(address: u64) -> NonNull<T> {
    let pointer = core::ptr::with_exposed_provenance_mut(address as usize);
    NonNull::new(pointer).expect("nothing that is looked for lies at address zero")
}

impl StartInfo {
    /// Returns the start info at `address`.
    ///
    /// # Panics
    /// When there is none.
    ///
    /// # Safety
    /// 1. `address` is the one that the boot loader passed, and the memory there is unchanged.
    pub(crate) unsafe fn at(address: u32) -> &'static Self {
        let info = physical::<Self>(address.into());
        // SAFETY: clause 1; low memory is mapped.
        let info = unsafe { info.as_ref() };
        assert_eq!(info.magic, MAGIC, "booted through the PVH entry");
        info
    }

    /// Returns where the ACPI tables begin.
    pub(crate) fn rsdp(&self) -> u64 {
        self.rsdp
    }

    /// Returns the memory map.
    ///
    /// # Errors
    /// As [`MemoryMap::add`].
    pub(crate) fn memory_map<const N: usize>(&self) -> Result<MemoryMap<N>, MapError> {
        let mut map = MemoryMap::new();
        for index in 0..u64::from(self.memory_map_entries) {
            let entry =
                physical::<MapEntry>(self.memory_map + index * size_of::<MapEntry>() as u64);
            // SAFETY: one of the entries that the start info counts, in mapped memory.
            let entry = unsafe { entry.as_ref() };
            let kind = match entry.kind {
                1 => RegionKind::Usable,
                3 => RegionKind::Reclaimable,
                4 => RegionKind::Persistent,
                5 => RegionKind::Bad,
                _ => RegionKind::Reserved,
            };
            map.add(entry.start, entry.bytes, kind)?;
        }
        Ok(map)
    }

    /// Whether the command line has `word`.
    pub(crate) fn asks_for(&self, word: &str) -> bool {
        if self.command_line == 0 {
            return false;
        }
        let start = physical::<u8>(self.command_line);
        let mut text = [0; 256];
        let mut length = 0;
        while length < text.len() {
            // SAFETY: the command line ends with a zero byte, at which the loop stops.
            let place = unsafe { start.add(length) };
            // SAFETY: below the zero byte, so inside the line.
            let byte = unsafe { place.read() };
            if byte == 0 {
                break;
            }
            text[length] = byte;
            length += 1;
        }
        text[..length].split(|byte| *byte == b' ').any(|found| found == word.as_bytes())
    }
}
