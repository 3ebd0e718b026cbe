//! Typed caches: objects of one Rust type, kept constructed while they are free.
//!
//! # Concepts
//! Caches exist to construct a value once and use it many times (Bonwick 1994, section 2). Here the
//! type defines how: its `Default` is the constructed state, [`Reset`] brings a used value back to
//! it, and `Drop` runs when the slab is released. A [`Pooled`] is a value in use; dropping it frees
//! the value, and it cannot be freed to another cache.
//!
//! A value never moves, so it can be pinned: locks, list heads, and what points to them.
//!
//! # Invariants
//! - I1: an object of the untyped cache is a value of `T` from the constructor to the destructor,
//!   in use or free. Only [`Cache::free`], by its clause 3, and unsafe code that writes to raw
//!   objects could change that.
//! - I2 (pinned caches): the memory of a value is not used for anything else before its destructor
//!   has run, even if its [`Pooled`], the cache or the registry is forgotten. That is what
//!   [`Pin`](core::pin::Pin) promises (its *drop guarantee*).
//! - I3: [`ObjectCache`] and [`Pooled`] are invariant in `T`. A value keeps its content for the
//!   next user: a cache of `Name<'static>` that passed for one of `Name<'a>` could keep a reference
//!   that dangles.
//!
//! # Why I2 holds
//! Safe code can forget a [`Pooled`], then drop the cache, the registry and the memory of the page
//! source: no destructor runs, and a pointer to the value dangles. So a cache returns `Pin<&mut T>`
//! of a type that is not [`Unpin`] only if the memory cannot be freed:
//!
//! 1. A slab with a value in use is never returned to the source, as only empty slabs are released.
//! 2. The source is not dropped while such a slab exists. The registry owns the source, and each
//!    cache keeps the registry alive. A cache that is forgotten keeps it for ever, and so does a
//!    pinned cache that is dropped with values in use (`destroy.rs`).
//! 3. The source borrows nothing with a shorter lifetime: it is `'static`. By clause 1 of
//!    [`PageSource`] its pages are valid then.
//!
//! [`pinned_objects`](Registry::pinned_objects) requires 3. [`objects`](Registry::objects) takes
//! any source, but only types that are [`Unpin`], to which `Pin` promises nothing. [`Reset::reset`]
//! gets a `Pin` too, so a cache is pinned or not from the start.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::cache::build_error::BuildError;
use crate::cache::builder::CacheBuilder;
use crate::cache::destroy::Busy;
use crate::cache::handle::Cache;
use crate::cache::pooled::{Invariant, Pooled, Reset};
use crate::hardening::presets::{Hardening, Off};
use crate::registry::handle::Registry;
use crate::system::System;

/// A cache of values of `T`.
///
/// ```
/// use core::mem::MaybeUninit;
/// use core::pin::Pin;
/// # use page_frame::{Arena, SingleCpu};
/// use slab::{ObjectCache, Reset};
///
/// #[derive(Default)]
/// struct Connection {
///     bytes: Vec<u8>,
/// }
///
/// impl Reset for Connection {
///     fn reset(mut self: Pin<&mut Self>) {
///         self.bytes.clear(); // what it has allocated stays
///     }
/// }
///
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// let connections = registry.objects::<Connection>("connection")?;
/// let mut one = connections.allocate()?;
/// one.bytes.extend_from_slice(&[1, 2, 3]);
/// drop(one);
/// let again = connections.allocate()?;
/// assert!(again.bytes.is_empty() && again.bytes.capacity() >= 3);
/// drop(again);
/// assert_eq!(connections.as_cache().stats().slabs, 1);
/// connections.destroy().map_err(|busy| busy.to_string())?; // drops the values
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ObjectCache<T, S: System, K: Hardening = Off> {
    cache: Cache<S, K>,
    /// I3: invariant in `T`. It may be sent if values may.
    values: Invariant<T>,
}

// SAFETY: `objects` and `pinned_objects` require that the values are `Send`. Users reach a value
// only through its `Pooled`, which has rules of its own. The only other field is the cache, which
// is `Sync`.
unsafe impl<T: Send, S: System, K: Hardening> Sync for ObjectCache<T, S, K> where Cache<S, K>: Sync {}

impl<S: System> Registry<S> {
    /// Builds a cache of values of `T`. Example: see [`ObjectCache`].
    ///
    /// # Errors
    /// [`BuildError`], also for types without size.
    pub fn objects<T: Default + Reset + Unpin + Send + 'static>(
        &self,
        name: &str,
    ) -> Result<ObjectCache<T, S>, BuildError> {
        self.cache(name, Layout::new::<T>()).objects()
    }

    /// Builds a cache of values of `T` that stay pinned: `T` need not be [`Unpin`].
    ///
    /// The page source borrows nothing: the registry owns it, or has a `'static` reference to it.
    /// If values are in use when the cache is dropped ([`Pooled`]s that were forgotten), the
    /// registry and its source are never dropped.
    ///
    /// ```
    /// use core::{alloc::Layout, marker::PhantomPinned, mem::MaybeUninit, pin::Pin};
    /// use page_frame::{Arena, SingleCpu};
    /// #[derive(Default)]
    /// struct ListHead(usize, PhantomPinned);
    /// impl slab::Reset for ListHead {
    ///     fn reset(self: Pin<&mut Self>) {}
    /// }
    /// let memory = Vec::leak(vec![MaybeUninit::uninit(); 1 << 20]);
    /// let registry = slab::Registry::new(Arena::new(memory)?, SingleCpu::new())?;
    /// let heads = registry.pinned_objects::<ListHead>("head")?;
    /// let mut head = heads.allocate()?;
    /// let pinned: Pin<&mut ListHead> = head.as_mut(); // its address may be stored
    /// assert_eq!(pinned.0, 0);
    /// let kept = registry.cache("kept", Layout::new::<ListHead>()).keep_empty(4);
    /// let kept = kept.pinned_objects::<ListHead>()?; // with options
    /// # drop(kept);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`BuildError`], also for types without size.
    pub fn pinned_objects<T: Default + Reset + Send + 'static>(
        &self,
        name: &str,
    ) -> Result<ObjectCache<T, S>, BuildError>
    where
        S: System<Pages: 'static>,
    {
        self.cache(name, Layout::new::<T>()).pinned_objects()
    }
}

impl<S: System, K: Hardening> CacheBuilder<'_, S, K> {
    /// Builds a cache of values of `T` with the options chosen so far, but for layout, constructor
    /// and destructor, which are those of `T`.
    ///
    /// The values live until their slabs are released, so `T` borrows nothing. `T` is [`Unpin`], as
    /// a pinned value could otherwise be left in memory that is freed:
    ///
    /// ```
    /// # use core::{alloc::Layout, mem::MaybeUninit};
    /// # use page_frame::{Arena, SingleCpu};
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory)?;
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
    /// #[derive(Default)]
    /// struct Message([u64; 4]);
    /// impl slab::Reset for Message {
    ///     fn reset(mut self: core::pin::Pin<&mut Self>) { self.0 = [0; 4] }
    /// }
    /// let messages = registry.cache("message", Layout::new::<Message>()).keep_empty(16);
    /// let messages = messages.objects::<Message>()?;
    /// messages.allocate()?.0[0] = 5; // dropped, and reset, at once
    /// assert_eq!(messages.allocate()?.0[0], 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// ```compile_fail,E0277
    /// # use core::{marker::PhantomPinned, mem::MaybeUninit, pin::Pin};
    /// # use page_frame::{Arena, SingleCpu};
    /// #[derive(Default)]
    /// struct ListHead(PhantomPinned);
    /// # impl slab::Reset for ListHead {
    /// #     fn reset(self: Pin<&mut Self>) {}
    /// # }
    /// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// # let arena = Arena::new(&mut memory).unwrap();
    /// # let registry = slab::Registry::new(&arena, SingleCpu::new()).unwrap();
    /// let heads = registry.objects::<ListHead>("head").unwrap();
    /// core::mem::forget(heads.allocate().unwrap());
    /// drop((heads, registry, memory)); // the value's destructor has not run
    /// ```
    ///
    /// # Errors
    /// [`BuildError`], also for types without size.
    pub fn objects<T: Default + Reset + Unpin + Send + 'static>(
        self,
    ) -> Result<ObjectCache<T, S, K>, BuildError> {
        self.typed()
    }

    /// Builds a cache of values of `T` as [`Registry::pinned_objects`] does, with the options
    /// chosen so far. A source that borrows is refused: its memory could be freed while a value is
    /// pinned.
    ///
    /// ```compile_fail,E0597
    /// # use core::{marker::PhantomPinned, mem::MaybeUninit, pin::Pin};
    /// # use page_frame::{Arena, SingleCpu};
    /// # #[derive(Default)]
    /// # struct ListHead(PhantomPinned);
    /// # impl slab::Reset for ListHead {
    /// #     fn reset(self: Pin<&mut Self>) {}
    /// # }
    /// let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    /// let arena = Arena::new(&mut memory).unwrap();
    /// let registry = slab::Registry::new(&arena, SingleCpu::new()).unwrap();
    /// let heads = registry.pinned_objects::<ListHead>("head").unwrap();
    /// ```
    ///
    /// Example: see [`Registry::pinned_objects`].
    ///
    /// # Errors
    /// [`BuildError`], also for types without size.
    pub fn pinned_objects<T: Default + Reset + Send + 'static>(
        self,
    ) -> Result<ObjectCache<T, S, K>, BuildError>
    where
        S: System<Pages: 'static>,
    {
        self.pinned().typed()
    }

    /// Builds the cache. `T` is [`Unpin`], or the cache is pinned and its page source `'static`
    /// (I2).
    fn typed<T: Default + Reset + Send + 'static>(
        self,
    ) -> Result<ObjectCache<T, S, K>, BuildError> {
        // SAFETY: clause 1: writes a value of `T` to memory of its layout. Clause 2: `T` is `Send`,
        // and a `Default` is called wherever an allocation is made.
        let builder = unsafe { self.layout(Layout::new::<T>()).constructor(construct::<T>) };
        // SAFETY: clause 1: drops a value, which constructed state is (I1). Clause 2: `T` is
        // `Send`.
        let builder = unsafe { builder.destructor(destroy::<T>) };
        Ok(ObjectCache { cache: builder.build()?, values: PhantomData })
    }
}

/// # Safety
/// 1. `place` has the layout of `T`, and only the callee uses it.
unsafe fn construct<T: Default>(place: NonNull<u8>) {
    let value = T::default();
    // SAFETY: clause 1: room for a value, which no other code sees.
    unsafe { place.cast::<T>().write(value) };
}

/// # Safety
/// 1. `object` is a value of `T` that the callee owns.
unsafe fn destroy<T>(object: NonNull<u8>) {
    // SAFETY: clause 1: a value, dropped once, as the callee owns it.
    unsafe { object.cast::<T>().drop_in_place() };
}

impl<T: Reset, S: System, K: Hardening> ObjectCache<T, S, K> {
    /// Takes a value in constructed state.
    ///
    /// A hit is a pop in the caller's CPU slot. A miss may take locks, ask the page source, and
    /// construct a slab of values. Example: see [`ObjectCache`].
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has a value free and the page source has no block.
    #[inline]
    #[track_caller]
    pub fn allocate(&self) -> Result<Pooled<'_, T, S, K>, OutOfMemory> {
        let value = self.cache.allocate()?.cast();
        // SAFETY: clause 1 of `Pooled::new`: a value (I1), just allocated from this cache.
        Ok(unsafe { Pooled::new(value, &self.cache) })
    }

    /// Returns the untyped cache, for its statistics. Its objects are values of `T` (I1), also when
    /// they are freed. Example: see [`ObjectCache`].
    pub fn as_cache(&self) -> &Cache<S, K> {
        &self.cache
    }

    /// Destroys the cache and all its values. Example: see [`ObjectCache`].
    ///
    /// # Errors
    /// [`Busy`], with the cache, when values are in use: [`Pooled`]s that were forgotten. If it is
    /// dropped, their slabs are lost to the page source; those of a
    /// [pinned](Registry::pinned_objects) cache keep the source and the registry for ever.
    pub fn destroy(self) -> Result<(), Busy<Self>> {
        self.cache.destroy().map_err(|Busy { cache, name, objects }| Busy {
            cache: Self { cache, values: PhantomData },
            name,
            objects,
        })
    }
}

impl<T, S: System, K: Hardening> fmt::Debug for ObjectCache<T, S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cache.fmt(f)
    }
}
