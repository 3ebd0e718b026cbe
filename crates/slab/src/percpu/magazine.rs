//! Magazines: arrays of objects that CPUs exchange as a whole.
//!
//! # Concepts
//! A magazine is memory of an internal cache: a header, then as many **places** for pointers as its
//! **capacity**, which is one of a few and never changes. While it is loaded in a CPU slot, the
//! slot keeps its length; otherwise the header does (Bonwick and Adams 2001, section 3).
//!
//! A [`Magazine`] is the only handle of a magazine that is not loaded, so a magazine has one owner
//! at a time: a caller, a slot, or a chain. The handle has no destructor; dropping it would lose
//! the memory and the objects.
//!
//! # Invariants
//! - I1: a handle points to a live header, followed by as many places as its class says; no other
//!   code uses them.
//! - I2: the places below the length in the header hold objects, which the owner of the handle
//!   owns.

use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// The capacities in objects. Their magazines have 24, 32, 48, 112, 240 and 496 bytes, sizes that
/// waste little of a slab.
pub(crate) const CAPACITIES: [usize; 6] = [1, 2, 4, 12, 28, 60];

/// The bits of [`Header::fill`] that count objects.
const LENGTH_BITS: u32 = 8;
const LENGTH: usize = (1 << LENGTH_BITS) - 1;

/// The header in front of the places.
#[derive(Debug)]
#[repr(C)]
struct Header {
    /// The next one in a chain.
    next: Option<Magazine>,
    /// How many objects are in it, and in the bits above, the class of its capacity. The last
    /// field: a push to an empty magazine compares the word before the first place with the object,
    /// and this number, less than a page, is not an object's address.
    fill: usize,
}

const _: () = {
    assert!(core::mem::offset_of!(Header, fill) + size_of::<usize>() == size_of::<Header>());
    let last = CAPACITIES.len() - 1;
    assert!(CAPACITIES[last] <= LENGTH && (last + 1) << LENGTH_BITS <= page_frame::PAGE_SIZE);
};

/// The handle of a magazine that is not loaded.
#[derive(Debug)]
#[must_use = "dropping it loses its memory and the objects in it"]
pub(crate) struct Magazine(NonNull<Header>);

// SAFETY: a magazine owns its memory and its objects (I1, I2).
unsafe impl Send for Magazine {}

impl Magazine {
    /// The alignment in bytes of the memory of magazines.
    pub(crate) const ALIGNMENT: usize = align_of::<Header>();

    /// Returns the size in bytes of a magazine of `capacity` objects.
    pub(crate) const fn bytes(capacity: usize) -> usize {
        size_of::<Header>() + capacity * size_of::<NonNull<u8>>()
    }

    /// Makes an empty magazine of capacity `CAPACITIES[class]` in raw memory.
    ///
    /// # Safety
    /// 1. The caller owns `memory`, which has [`Self::ALIGNMENT`] and the bytes of a magazine of
    ///    this class.
    pub(crate) unsafe fn new_in(memory: NonNull<u8>, class: usize) -> Self {
        let header = memory.cast::<Header>();
        // SAFETY: clause 1: room for a header, aligned.
        unsafe { header.write(Header { next: None, fill: class << LENGTH_BITS }) };
        Self(header)
    }

    /// Turns an empty magazine into its memory.
    pub(crate) const fn into_memory(self) -> NonNull<u8> {
        self.0.cast()
    }

    /// Turns the handle into a pointer to the first place, for a CPU slot that loads the magazine.
    pub(crate) const fn into_places(self) -> NonNull<NonNull<u8>> {
        self.places()
    }

    /// Makes the handle of a magazine that was loaded, and now has `length` objects.
    ///
    /// # Safety
    /// 1. `places` is from [`into_places`](Self::into_places), and no handle was made from it since
    ///    then.
    /// 2. The first `length` places hold objects that the caller owns; `length` is at most the
    ///    capacity.
    pub(crate) unsafe fn from_places(places: NonNull<NonNull<u8>>, length: usize) -> Self {
        // SAFETY: clause 1: the header lies in front of the first place.
        let mut magazine = Self(unsafe { places.cast::<Header>().sub(1) });
        // SAFETY: clause 1 of `set_length` is our clause 2.
        unsafe { magazine.set_length(length) };
        magazine
    }

    const fn header(&self) -> &Header {
        // SAFETY: I1: the header is live, and no other code uses it while the handle is borrowed.
        unsafe { self.0.as_ref() }
    }

    const fn header_mut(&mut self) -> &mut Header {
        // SAFETY: I1: the header is live, and the handle is borrowed exclusively.
        unsafe { self.0.as_mut() }
    }

    const fn places(&self) -> NonNull<NonNull<u8>> {
        // SAFETY: I1: the places follow the header, at least one.
        unsafe { self.0.add(1) }.cast()
    }

    /// Returns how many objects are in it.
    pub(crate) const fn length(&self) -> usize {
        self.header().fill & LENGTH
    }

    /// Sets how many objects are in it.
    ///
    /// # Safety
    /// 1. The first `length` places hold objects that the caller owns; `length` is at most the
    ///    capacity.
    pub(crate) const unsafe fn set_length(&mut self, length: usize) {
        let header = self.header_mut();
        header.fill = header.fill & !LENGTH | length;
    }

    /// Returns the index of its capacity in [`CAPACITIES`].
    pub(crate) const fn class(&self) -> usize {
        self.header().fill >> LENGTH_BITS
    }

    /// Returns the maximum number of objects in it.
    pub(crate) const fn capacity(&self) -> usize {
        CAPACITIES[self.class()]
    }

    /// Returns whether its class exists, and its length is at most its capacity.
    pub(crate) fn is_valid(&self) -> bool {
        CAPACITIES.get(self.class()).is_some_and(|capacity| self.length() <= *capacity)
    }

    /// Returns whether it has no room for another object.
    pub(crate) const fn is_full(&self) -> bool {
        self.length() == self.capacity()
    }

    /// Returns all its places, for a caller that writes objects there and then
    /// [sets](Self::set_length) the length.
    pub(crate) const fn places_mut(&mut self) -> &mut [MaybeUninit<NonNull<u8>>] {
        let (places, capacity) = (self.places().cast(), self.capacity());
        // SAFETY: I1: that many places, and the handle is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(places.as_ptr(), capacity) }
    }

    /// Adds `object`, which the caller owns.
    ///
    /// # Panics
    /// When there is no room.
    pub(crate) fn push(&mut self, object: NonNull<u8>) {
        let length = self.length();
        self.places_mut()[length].write(object);
        // SAFETY: clause 1 of `set_length`: I2, and the next place was just written, so it is one
        // of the capacity.
        unsafe { self.set_length(length + 1) };
    }

    /// Takes the object pushed last.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let last = *self.objects().last()?;
        // SAFETY: clause 1 of `set_length`: I2 holds for any smaller length.
        unsafe { self.set_length(self.length() - 1) };
        Some(last)
    }

    /// Takes all objects out, and returns the places where they still are.
    pub(crate) fn take_all(&mut self) -> &[NonNull<u8>] {
        let length = self.length();
        // SAFETY: clause 1 of `set_length`: I2 holds for any smaller length.
        unsafe { self.set_length(0) };
        // SAFETY: I2: they were written, and no code changes them while the handle is borrowed.
        unsafe { core::slice::from_raw_parts(self.places().as_ptr(), length) }
    }

    /// Returns the objects in it.
    pub(crate) fn objects(&self) -> &[NonNull<u8>] {
        // SAFETY: I2, and no code changes them while the handle is borrowed.
        unsafe { core::slice::from_raw_parts(self.places().as_ptr(), self.length()) }
    }
}

/// Magazines chained through their headers.
#[derive(Debug)]
pub(crate) struct Chain {
    first: Option<Magazine>,
}

impl Chain {
    pub(crate) const fn new() -> Self {
        Self { first: None }
    }

    /// Puts `magazine` in front.
    pub(crate) fn push(&mut self, mut magazine: Magazine) {
        magazine.header_mut().next = self.first.take();
        self.first = Some(magazine);
    }

    /// Iterates over the magazines.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Magazine> {
        core::iter::successors(self.first.as_ref(), |magazine| magazine.header().next.as_ref())
    }

    /// Returns a reference to the first magazine.
    pub(crate) fn first(&self) -> Option<&Magazine> {
        self.first.as_ref()
    }

    /// Takes the first magazine out.
    pub(crate) fn pop(&mut self) -> Option<Magazine> {
        let mut magazine = self.first.take()?;
        self.first = magazine.header_mut().next.take();
        Some(magazine)
    }

    /// Takes all magazines out.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}
