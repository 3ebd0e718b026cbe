//! The bytes around an object that its owner may not write: red zones, canary, and the record of
//! the requested size.
//!
//! The bytes of the object after its requested size are its **rest**. They are filled as a red zone
//! is.

use core::ptr::NonNull;

use crate::hardening::changed::Changed;
use crate::hardening::presets::Hardening;
use crate::hardening::{canary, red_zone, requested_size};
use crate::slabs::settings::CacheSettings;

/// Writes and checks the bytes around the objects of one cache.
pub(crate) struct Surroundings<'c> {
    pub(crate) settings: &'c CacheSettings,
}

impl Surroundings<'_> {
    /// Writes the bytes around an object that is being allocated. Its requested size becomes the
    /// size of the object.
    ///
    /// # Safety
    /// 1. The caller owns `object`, of this cache, which was built for `K`.
    pub(crate) unsafe fn write<K: Hardening>(&self, object: NonNull<u8>) {
        let (padding, size) = (&self.settings.padding, self.settings.object_size());
        if K::RED_ZONE > 0 {
            // SAFETY: clause 1: the padding of this preset is around the object.
            unsafe { red_zone::fill(object, padding) };
        }
        if K::CANARY {
            // SAFETY: clause 1: the padding of this preset has room for a canary.
            unsafe { canary::write(object, size, self.settings.secret) };
        }
        if K::REQUESTED_SIZE {
            let record = padding.requested_size(object);
            // SAFETY: clause 1: the padding of this preset has room for the record.
            unsafe { requested_size::write(record, object, size, self.settings.secret) };
        }
    }

    /// Checks the bytes around an object.
    ///
    /// # Errors
    /// The first byte that a stray write has changed. Bytes near the object come first.
    ///
    /// # Safety
    /// 1. `object` is of this cache, which was built for `K`, and has been allocated.
    pub(crate) unsafe fn check<K: Hardening>(&self, object: NonNull<u8>) -> Result<(), Changed> {
        let (padding, size) = (&self.settings.padding, self.settings.object_size());
        // SAFETY: clause 1 of `requested_size`: clause 1, and an allocated object keeps its slab
        // alive.
        let requested = unsafe { self.requested_size::<K>(object) };
        if let Some(requested) = requested.filter(|_| K::REQUESTED_SIZE && self.has_rest()) {
            // SAFETY: clause 1: `set_requested_size` filled the bytes when it wrote the record.
            unsafe { red_zone::check_rest(object, requested, size)? };
        }
        if K::CANARY {
            // SAFETY: clause 1: `write` wrote it when the object was allocated.
            unsafe { canary::check(object, size, self.settings.secret)? };
        }
        if K::RED_ZONE > 0 {
            // SAFETY: clause 1: `write` filled the zones when the object was allocated.
            unsafe { red_zone::check(object, padding)? };
        }
        if requested.is_none() {
            let record = padding.requested_size(object).cast::<u8>();
            // SAFETY: clause 1: the record's first byte.
            let found = unsafe { record.read() };
            return Err(Changed { address: record.addr().get(), expected: None, found });
        }
        Ok(())
    }

    /// Records `bytes` as the requested size of `object`, and fills the rest of the object.
    ///
    /// # Safety
    /// 1. As for [`write`](Self::write), and `bytes` is at most the object's size.
    pub(crate) unsafe fn set_requested_size<K: Hardening>(
        &self,
        object: NonNull<u8>,
        bytes: usize,
    ) {
        if K::REQUESTED_SIZE && self.has_rest() {
            let record = self.settings.padding.requested_size(object);
            // SAFETY: clause 1 of `requested_size::write`: by clause 1 the caller owns the object,
            // and the padding of this preset has room for the record.
            unsafe { requested_size::write(record, object, bytes, self.settings.secret) };
            // SAFETY: clause 1: the caller owns the object, whose size is at least `bytes`.
            unsafe { red_zone::fill_rest(object, bytes, self.settings.object_size()) };
        }
    }

    /// Returns the requested size of `object`: the size of the object, if the preset records none.
    /// `None` if a stray write has changed the record. The owner may write the record meanwhile.
    ///
    /// # Safety
    /// 1. `object` is of this cache, which was built for `K`, and its slab is alive.
    pub(crate) unsafe fn requested_size<K: Hardening>(&self, object: NonNull<u8>) -> Option<usize> {
        let size = self.settings.object_size();
        if !K::REQUESTED_SIZE {
            return Some(size);
        }
        let record = self.settings.padding.requested_size(object);
        // SAFETY: clause 1 of `requested_size::read`: by clause 1 the slab is alive, and the record
        // was written when the slab was made.
        unsafe { requested_size::read(record, object, size, self.settings.secret) }
    }

    /// Returns whether the rest of an object may be filled. The content of a constructed object
    /// must stay.
    fn has_rest(&self) -> bool {
        self.settings.constructor.is_none()
    }
}
