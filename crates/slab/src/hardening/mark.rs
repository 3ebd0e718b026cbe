//! Marks: each object's state, kept in its link.
//!
//! # Concepts
//! An object's link means something only while the object is free in its slab. At other times it holds a mark: **allocated**,
//! or **cached** (free, in a magazine). Indices never look like marks, so a link that is not the mark of an allocated object
//! says that the object is free. The free exchanges the mark atomically: of two that race one finds it changed.
//!
//! The marks lie outside the objects; no write through a pointer to one reaches its own mark.

use core::ptr::NonNull;

use page_frame::{Fault, FaultKind};

use crate::cache::inner::CacheInner;
use crate::slabs::header::SlabHeader;
use crate::slabs::links::Links;
use crate::system::System;

/// The mark of an object in use.
pub(crate) const MARK_ALLOCATED: u8 = 0xff;
/// The mark of an object in a magazine, or on its way there.
pub(crate) const MARK_CACHED: u8 = 0xfe;

impl<S: System> CacheInner<S> {
    /// Marks the object in `place`, which is about to go out, as allocated.
    #[track_caller]
    pub(crate) fn mark_allocated(&self, place: NonNull<u8>) -> Result<(), Fault> {
        let (header, index) = self.find(place.addr().get())?;
        self.change_mark(place, header, index, [MARK_CACHED, MARK_ALLOCATED], FaultKind::Corrupted)
    }

    /// Marks object `index` of `header`, which a user frees, as cached.
    #[track_caller]
    pub(crate) fn mark_cached(
        &self,
        object: NonNull<u8>,
        header: NonNull<SlabHeader>,
        index: usize,
    ) -> Result<(), Fault> {
        self.change_mark(
            object,
            header,
            index,
            [MARK_ALLOCATED, MARK_CACHED],
            FaultKind::DoubleFree,
        )
    }

    #[track_caller]
    fn change_mark(
        &self,
        object: NonNull<u8>,
        header: NonNull<SlabHeader>,
        index: usize,
        [from, to]: [u8; 2],
        otherwise: FaultKind,
    ) -> Result<(), Fault> {
        // SAFETY: `find` says that the slab is ours and alive.
        let geometry = &unsafe { header.as_ref() }.geometry(&self.settings.geometry);
        // SAFETY: the header was found by the page map, with its slab cut by this geometry.
        let links = unsafe { Links::of(header, geometry) };
        // SAFETY: `find` says that it has this object.
        let changed = unsafe { links.change_mark(index, from, to) };
        changed
            .map_err(|found| Fault::new(otherwise, object.addr().get(), from.into(), found.into()))
    }
}
