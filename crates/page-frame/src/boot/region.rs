//! Regions: ranges of physical addresses with a kind, as firmware or a boot loader reports them.

/// The kind of a region of physical memory, from least to most restrictive.
///
/// ```
/// use page_frame::{MemoryMap, RegionKind};
/// let mut map = MemoryMap::<2>::new();
/// map.add(0, 0x8000, RegionKind::Usable)?;
/// map.add(0x2000, 0x1000, RegionKind::Bad)?; // the most restrictive kind wins
/// assert!(RegionKind::Bad > RegionKind::Usable);
/// assert_eq!(map.usable_bytes(), 0x7000);
/// # Ok::<(), page_frame::MapError>(())
/// ```
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
///
/// ```
/// use page_frame::{MemoryMap, Region, RegionKind};
/// let mut map = MemoryMap::<1>::new();
/// map.add(0x1000, 0x2000, RegionKind::Reserved)?;
/// assert_eq!(map.regions(), [Region { start: 0x1000, end: 0x3000, kind: RegionKind::Reserved }]);
/// # Ok::<(), page_frame::MapError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte's physical address.
    pub start: u64,
    /// The address after the last byte.
    pub end: u64,
    /// The kind.
    pub kind: RegionKind,
}
