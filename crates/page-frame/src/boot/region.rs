//! Regions: ranges of physical addresses with a kind, as firmware or a boot loader reports them.

/// The kind of a region of physical memory, from least to most restrictive.
///
/// [`MemoryMap`](crate::MemoryMap) has an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegionKind {
    /// Free for use.
    Usable,
    /// In use until the boot is over (boot loader data, ACPI tables); add it as usable later.
    Reclaimable,
    /// Keeps its content without power, or is used by firmware at run time.
    Persistent,
    /// Not for use: devices, firmware, the kernel's own image.
    Reserved,
    /// Reported as defective.
    Bad,
}

/// A range of physical addresses with its kind, `end` excluded.
///
/// [`MemoryMap::regions`](crate::MemoryMap::regions) returns them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte's physical address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// The kind.
    pub kind: RegionKind,
}
