//! Misuse: what was done wrong, where, and what was found instead.
//!
//! Interfaces that take numbers return a [`Fault`]; interfaces that take pointers give it to a [`FaultHook`], by default
//! [`panic_on_fault`]. Nothing is credited in either case: the memory named stays as it was, so a hook that returns
//! loses at most the object it was told of.

use core::fmt;
use core::panic::Location;

/// What kind of misuse was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The address never came from this allocator.
    ForeignPointer,
    /// The memory is free already.
    DoubleFree,
    /// The block was allocated with another order (`expected`: the allocated one, `found`: the given one).
    WrongOrder,
    /// The address is not aligned as every such block or object is (`expected`: the alignment).
    Misaligned,
    /// The address lies inside a block or an object, not at its start.
    InteriorPointer,
    /// The frame is reserved or absent, so it was never handed out.
    ReservedFrame,
    /// The object belongs to another cache.
    WrongCache,
    /// Something was written in front of or behind the object (`expected`: the first byte beyond it, or the pattern;
    /// `found`: the address of the first byte that differs).
    Overflow,
    /// Something was written to the object after it was freed (`found`: the address of the first byte that differs).
    WriteAfterFree,
    /// The allocator's own notes about the object are spoilt.
    Corrupted,
}

/// One misuse, with what was expected and what was found.
///
/// ```
/// use page_frame::{Fault, FaultKind};
/// let fault = Fault::new(FaultKind::WrongOrder, 0x40, 3, 0);
/// assert!(fault.to_string().starts_with("WrongOrder at 0x40 from "));
/// assert!(fault.to_string().ends_with("expected 0x3, found 0x0"));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The address given, or for interfaces that take frames, the frame number.
    pub address: usize,
    /// Who called.
    pub site: &'static Location<'static>,
    /// What should have been there; the unit depends on `kind`.
    pub expected: usize,
    /// What was there.
    pub found: usize,
}

impl Fault {
    /// Makes a fault whose site is the caller.
    #[cold]
    #[track_caller]
    pub fn new(kind: FaultKind, address: usize, expected: usize, found: usize) -> Self {
        Self { kind, address, site: Location::caller(), expected, found }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, address, site, expected, found } = self;
        write!(f, "{kind:?} at {address:#x} from {site}: expected {expected:#x}, found {found:#x}")
    }
}

impl core::error::Error for Fault {}

/// Called with each fault that a pointer interface sees. May return; the memory concerned is then left alone for ever.
pub type FaultHook = fn(&Fault);

/// The default hook: panics with the fault's text.
///
/// # Panics
/// Always.
pub fn panic_on_fault(fault: &Fault) {
    panic!("{fault}");
}
