//! The cache as its user sees it: a handle to a core.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::{Cpu, OutOfMemory, PageMap, PageSource};

use crate::core::Core;
use crate::geometry::Geometry;
use crate::name::Name;
use crate::registry::release_system;
use crate::stats::{CacheStats, SlabView};
use crate::walk::Patience;

/// Objects of one size, in constructed state, from slabs that it takes and gives back by itself.
///
/// Dropping it destroys the cache; objects still in use then stay as they are, and their slabs are lost to the page
/// source. [`destroy`](Self::destroy) says whether that happened. Neither may be done by a constructor or destructor of the
/// same cache, which would wait for itself.
pub struct Cache<P: PageSource + PageMap, C: Cpu + Clone> {
    core: NonNull<Core<P, C>>,
}

// SAFETY: the core is reached through shared references and is Sync when P and C are; the last handle may drop P and C on
// any CPU, so they are Send.
unsafe impl<P: PageSource + PageMap + Send + Sync, C: Cpu + Clone + Send + Sync> Send
    for Cache<P, C>
{
}
// SAFETY: as above.
unsafe impl<P: PageSource + PageMap + Send + Sync, C: Cpu + Clone + Send + Sync> Sync
    for Cache<P, C>
{
}

/// A cache was destroyed while objects of it were in use; their slabs are lost to the page source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// The cache's name.
    pub name: Name,
    /// How many objects were in use.
    pub objects: usize,
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} was destroyed with {} objects in use", self.name, self.objects)
    }
}

impl core::error::Error for Busy {}

impl<P: PageSource + PageMap, C: Cpu + Clone> Cache<P, C> {
    /// # Safety
    /// 1. The handle is the only one of `core`, and gets a reference to its system.
    pub(crate) unsafe fn from_core(core: NonNull<Core<P, C>>) -> Self {
        Self { core }
    }

    #[inline(always)]
    fn core(&self) -> &Core<P, C> {
        // SAFETY: core I1: the handle has a reference.
        unsafe { self.core.as_ref() }
    }

    /// Allocates an object: in constructed state, if there is a constructor; otherwise with arbitrary content.
    ///
    /// A hit is a pop in the caller's CPU slot. A miss may take locks and ask the page source.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has an object free and the page source has no block.
    #[inline]
    pub fn allocate(&self) -> Result<NonNull<u8>, OutOfMemory> {
        self.core().allocate()
    }

    /// Frees an object. With a constructor, it must be in constructed state again.
    ///
    /// A hit is a push in the caller's CPU slot; a miss may take locks. Misuse that shows at once is a
    /// [fault](page_frame::Fault): freeing the object freed last a second time. Pointers that are not objects of this
    /// cache are found when the magazine is emptied into the slabs.
    ///
    /// # Safety
    /// 1. `object` came from [`allocate`](Self::allocate) of this cache and has not been freed since.
    /// 2. Nobody uses it from now on.
    #[inline]
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        // SAFETY: the caller's clauses.
        unsafe { self.core().free(object) }
    }

    /// Turns the handle into a pointer, for places that hold one as an atomic word.
    pub fn into_raw(self) -> NonNull<()> {
        ManuallyDrop::new(self).core.cast()
    }

    /// Takes a handle up again.
    ///
    /// # Safety
    /// 1. `raw` came from [`into_raw`](Self::into_raw) of a cache of this type, and stands for one handle: of those made
    ///    from it at most one is dropped, and none is used afterwards.
    #[inline(always)]
    pub unsafe fn from_raw(raw: NonNull<()>) -> Self {
        Self { core: raw.cast() }
    }

    /// Returns the name.
    pub fn name(&self) -> Name {
        self.core().plan.name
    }

    /// Returns how the slabs are cut.
    pub fn geometry(&self) -> Geometry {
        self.core().plan.geometry
    }

    /// Returns the size of an object in bytes, as asked for.
    pub fn object_size(&self) -> usize {
        self.core().plan.size
    }

    /// Returns the numbers of the cache. O(slabs), takes its locks.
    pub fn stats(&self) -> CacheStats {
        self.core().stats()
    }

    /// Gives back all pages that hold no object in use; returns how many. Waits for locks.
    pub fn shrink(&self) -> usize {
        self.core().shrink(usize::MAX, Patience::Wait)
    }

    /// Checks the invariants of the cache. O(objects), takes its locks.
    ///
    /// # Errors
    /// Names the first invariant that does not hold.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.core().validate()
    }

    /// Calls `look` with each slab, under the lock of the slab set: `look` must not use the cache.
    pub fn for_each_slab(&self, look: impl FnMut(SlabView)) {
        self.core().for_each_slab(look);
    }

    /// Destroys the cache. Waits for locks, and for shrinkers and statistics that are at this cache.
    ///
    /// # Errors
    /// [`Busy`] when objects are in use; they stay as they are, and their slabs are lost to the page source.
    pub fn destroy(self) -> Result<(), Busy> {
        let this = ManuallyDrop::new(self);
        // SAFETY: the handle is not dropped.
        unsafe { this.release() }
    }

    /// # Safety
    /// 1. The handle is not used again.
    unsafe fn release(&self) -> Result<(), Busy> {
        let (name, system) = (self.name(), self.core().system);
        // SAFETY: the handle's reference keeps the system alive during the call.
        let shared = unsafe { system.as_ref() };
        // SAFETY: the handle is the core's only one; clause 1.
        let objects = unsafe { shared.destroy_core(self.core) };
        // SAFETY: the handle's reference to the system; clause 1.
        unsafe { release_system(system) };
        if objects == 0 { Ok(()) } else { Err(Busy { name, objects }) }
    }
}

impl<P: PageSource + PageMap, C: Cpu + Clone> Drop for Cache<P, C> {
    fn drop(&mut self) {
        // SAFETY: this is the end of the handle. Leaks are reported by `destroy` only.
        let _ = unsafe { self.release() };
    }
}

impl<P: PageSource + PageMap, C: Cpu + Clone> fmt::Debug for Cache<P, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("name", &self.name()).finish_non_exhaustive()
    }
}
