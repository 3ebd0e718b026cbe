//! Misuse of an allocator: what was done wrong, where, and by which call.
//!
//! Interfaces that take numbers return a [`Fault`]. Interfaces that take pointers pass it to a
//! [`FaultHook`], by default [`panic_on_fault`]. In both cases the allocator changes nothing: a
//! hook that returns leaks at most the object concerned.

use core::fmt;
use core::num::NonZeroUsize;
use core::panic::Location;

use crate::cache_name::CacheName;
use crate::frame::FrameNumber;
use crate::order::Order;

/// The kind of a misuse, with the expected and the found value where they say more than the name.
///
/// Its [`Display`](fmt::Display) explains the kind in words; [`name`](Self::name) is the variant's
/// name.
///
/// ```
/// use page_frame::{FaultKind, Order};
/// let kind = FaultKind::WrongOrder { allocated: Order::new(3).unwrap(), given: Order::ZERO };
/// assert_eq!(kind.name(), "WrongOrder");
/// assert_eq!(kind.to_string(), "expected order 3, found order 0");
/// match kind {
///     FaultKind::WrongOrder { allocated, .. } => assert_eq!(allocated.pages(), 8),
///     other => panic!("{other}"),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The address never came from this allocator.
    ForeignPointer,
    /// The memory is free already.
    DoubleFree,
    /// The block was allocated with another order.
    WrongOrder {
        /// The order of the block.
        allocated: Order,
        /// The order that the caller gave.
        given: Order,
    },
    /// The run is allocated with another number of pages.
    WrongPageCount {
        /// The length of the run in pages; `None` where no run starts.
        allocated: Option<usize>,
        /// The length that the caller gave, in pages.
        given: usize,
    },
    /// The allocation has another size.
    WrongSize {
        /// The usable bytes of the allocation.
        allocated: usize,
        /// The usable bytes of an allocation of the size that the caller gave.
        given: usize,
    },
    /// The address is not aligned as every such block or object is.
    Misaligned {
        /// The alignment in bytes.
        alignment: usize,
    },
    /// The address lies inside a block or an object, not at its start.
    InteriorPointer,
    /// The frame is reserved or absent; the allocator never returned it.
    ReservedFrame,
    /// The object belongs to another cache.
    WrongCache,
    /// A write changed bytes in front of or behind the object.
    Overflow {
        /// The address of the first byte that differs.
        changed: usize,
        /// The distance from the object's first byte to that byte, in bytes.
        offset: i32,
        /// How many bytes of the object the caller asked for, as far as that is recorded.
        size: u32,
        /// The object behind the changed byte, if it may have been written in front of instead.
        neighbour: Option<NonZeroUsize>,
        /// The byte that should be there; `None` where it is secret.
        expected: Option<u8>,
        /// The byte that is there.
        found: u8,
    },
    /// A write changed the object after it was freed.
    WriteAfterFree {
        /// The address of the first byte that differs.
        changed: usize,
        /// The byte that should be there.
        expected: u8,
        /// The byte that is there.
        found: u8,
    },
    /// The allocator's own data about the object was overwritten.
    Corrupted,
}

impl FaultKind {
    /// Returns the name of the variant. Example: see [`FaultKind`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::ForeignPointer => "ForeignPointer",
            Self::DoubleFree => "DoubleFree",
            Self::WrongOrder { .. } => "WrongOrder",
            Self::WrongPageCount { .. } => "WrongPageCount",
            Self::WrongSize { .. } => "WrongSize",
            Self::Misaligned { .. } => "Misaligned",
            Self::InteriorPointer => "InteriorPointer",
            Self::ReservedFrame => "ReservedFrame",
            Self::WrongCache => "WrongCache",
            Self::Overflow { .. } => "Overflow",
            Self::WriteAfterFree { .. } => "WriteAfterFree",
            Self::Corrupted => "Corrupted",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForeignPointer => f.write_str("no allocation of this allocator is there"),
            Self::DoubleFree => f.write_str("it is free already"),
            Self::WrongOrder { allocated, given } => {
                write!(f, "expected order {}, found order {}", allocated.get(), given.get())
            }
            Self::WrongPageCount { allocated: Some(pages), given } => {
                write!(f, "expected {pages} pages, found {given} pages")
            }
            Self::WrongPageCount { allocated: None, given } => {
                write!(f, "expected no run, found one of {given} pages")
            }
            Self::WrongSize { allocated, given } => {
                write!(f, "expected one of {allocated} usable bytes, found one of {given}")
            }
            Self::Misaligned { alignment } => {
                write!(f, "expected an alignment of {alignment} bytes, found a smaller one")
            }
            Self::InteriorPointer => f.write_str("expected a start, found a place inside"),
            Self::ReservedFrame => f.write_str("the frame is reserved or absent"),
            Self::WrongCache => f.write_str("the object belongs to another cache"),
            Self::Overflow { changed, offset, size, neighbour, expected, found } => {
                write!(f, "a write beyond the object changed the byte at {changed:#x}")?;
                match expected {
                    Some(expected) => write!(f, " from {expected:#04x} to {found:#04x}")?,
                    None => write!(f, " to {found:#04x}")?,
                }
                write!(f, " (offset {offset} of {size} bytes asked for)")?;
                match neighbour {
                    Some(neighbour) => write!(f, ", or a write in front of {neighbour:#x} did"),
                    None => Ok(()),
                }
            }
            Self::WriteAfterFree { changed, expected, found } => {
                write!(f, "a write after the free changed the byte at {changed:#x}")?;
                write!(f, " from {expected:#04x} to {found:#04x}")
            }
            Self::Corrupted => f.write_str("the allocator's own data about it was overwritten"),
        }
    }
}

/// The place that a caller named.
///
/// ```
/// use page_frame::{Fault, FaultKind, FaultPlace, FrameNumber};
/// match Fault::at_frame(FaultKind::DoubleFree, FrameNumber::new(7)).place {
///     FaultPlace::Frame(frame) => assert_eq!(frame.get(), 7),
///     FaultPlace::Address(address) => panic!("a frame was given, not {address:#x}"),
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultPlace {
    /// An address in bytes.
    Address(usize),
    /// A frame.
    Frame(FrameNumber),
}

impl fmt::Display for FaultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address:#x}"),
            Self::Frame(frame) => frame.fmt(f),
        }
    }
}

/// One misuse.
///
/// ```
/// use page_frame::{Fault, FaultKind, FrameNumber, Order};
/// let kind = FaultKind::WrongOrder { allocated: Order::new(3).unwrap(), given: Order::ZERO };
/// let fault = Fault::at_frame(kind, FrameNumber::new(0x40));
/// assert!(fault.to_string().starts_with("WrongOrder at frame 0x40 from "));
/// assert!(fault.to_string().ends_with(": expected order 3, found order 0"));
/// assert_eq!((fault.frame(), fault.address()), (Some(FrameNumber::new(0x40)), None));
/// // An interface of addresses over one of frames:
/// assert_eq!(fault.with_address(0x8004_0000).address(), Some(0x8004_0000));
/// let fault = Fault::at_address(FaultKind::DoubleFree, 0x5000);
/// assert_eq!((fault.address(), fault.frame()), (Some(0x5000), None));
/// // A cache that keeps histories names itself and the last callers:
/// let here = core::panic::Location::caller();
/// let fault = fault.in_cache(page_frame::CacheName::new("inode")).with_callers(Some(here), None);
/// let text = fault.to_string();
/// assert!(text.contains("free already; cache inode; allocated from "), "{text}");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Fault {
    /// The kind of misuse.
    pub kind: FaultKind,
    /// The place that the caller named.
    pub place: FaultPlace,
    /// The call.
    pub site: &'static Location<'static>,
    /// The cache that found it.
    pub cache: Option<CacheName>,
    /// The last caller that allocated the object, where that is recorded.
    pub allocated_by: Option<&'static Location<'static>>,
    /// The last caller that freed the object, where that is recorded.
    pub freed_by: Option<&'static Location<'static>>,
}

impl Fault {
    /// Makes a fault about an address; its site is the caller. Example: see [`Fault`].
    #[cold]
    #[track_caller]
    pub fn at_address(kind: FaultKind, address: usize) -> Self {
        Self::new(kind, FaultPlace::Address(address), Location::caller())
    }

    /// Makes a fault about a frame; its site is the caller. Example: see [`Fault`].
    #[cold]
    #[track_caller]
    pub fn at_frame(kind: FaultKind, frame: FrameNumber) -> Self {
        Self::new(kind, FaultPlace::Frame(frame), Location::caller())
    }

    const fn new(kind: FaultKind, place: FaultPlace, site: &'static Location<'static>) -> Self {
        Self { kind, place, site, cache: None, allocated_by: None, freed_by: None }
    }

    /// Names the cache that found the fault. Example: see [`Fault`].
    pub const fn in_cache(self, cache: CacheName) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// Adds the callers that allocated and freed the object last. Example: see [`Fault`].
    pub const fn with_callers(
        self,
        allocated_by: Option<&'static Location<'static>>,
        freed_by: Option<&'static Location<'static>>,
    ) -> Self {
        Self { allocated_by, freed_by, ..self }
    }

    /// Names `address` instead: for an interface that takes addresses over one that found the fault
    /// elsewhere. Example: see [`Fault`].
    pub const fn with_address(self, address: usize) -> Self {
        Self { place: FaultPlace::Address(address), ..self }
    }

    /// Returns the address that the caller gave; `None` for interfaces that take frames.
    /// Example: see [`Fault`].
    pub const fn address(&self) -> Option<usize> {
        match self.place {
            FaultPlace::Address(address) => Some(address),
            FaultPlace::Frame(_) => None,
        }
    }

    /// Returns the frame that the caller gave; `None` for interfaces that take addresses.
    /// Example: see [`Fault`].
    pub const fn frame(&self) -> Option<FrameNumber> {
        match self.place {
            FaultPlace::Frame(frame) => Some(frame),
            FaultPlace::Address(_) => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, place, site, cache, allocated_by, freed_by } = self;
        write!(f, "{} at {place} from {site}: {kind}", kind.name())?;
        if let Some(cache) = cache {
            write!(f, "; cache {cache}")?;
        }
        if let Some(caller) = allocated_by {
            write!(f, "; allocated from {caller}")?;
        }
        match freed_by {
            Some(caller) => write!(f, "; freed from {caller}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for Fault {}

/// Called with each fault that a pointer interface finds. It may return; the allocator then never
/// uses the memory concerned again.
///
/// ```
/// use page_frame::{Fault, FaultHook, FaultKind, panic_on_fault};
/// let report: FaultHook = |fault| eprintln!("{fault}");
/// report(&Fault::at_address(FaultKind::DoubleFree, 0x5000));
/// // The default panics instead:
/// let default: FaultHook = panic_on_fault;
/// let fault = Fault::at_address(FaultKind::DoubleFree, 0x5000);
/// assert!(std::panic::catch_unwind(|| default(&fault)).is_err());
/// ```
pub type FaultHook = fn(&Fault);

/// The default hook: panics with the fault's text. Example: see [`FaultHook`].
///
/// # Panics
/// Always.
pub fn panic_on_fault(fault: &Fault) {
    panic!("{fault}");
}
