//! Typed caches: objects of one Rust type, kept constructed while they are free.
//!
//! # Concepts
//! Constructing a value once and using it many times is what Bonwick (1994, section 2) made caches
//! for. Here the type says how: its `Default` is the constructed state, [`Reset`] brings a used
//! value back to it, and `Drop` runs when the slab is released. A [`Pooled`] is a value in use; it
//! goes back by itself, and cannot go to another cache.
//!
//! A value never moves, so it can be pinned: locks, list heads, and what points to them.
//!
//! # Invariants
//! - I1: an object of the cache below is a value of `T` from the constructor to the destructor, in
//!   use or free. Only [`Cache::free`], by its clause 3, and unsafe code that writes to raw objects
//!   could change that.
//! - I2 (pinned caches): the memory of a value is not used for anything else before its destructor
//!   has run, even if its [`Pooled`], the cache or the registry is forgotten. That is what [`Pin`]
//!   promises (its *drop guarantee*).
//! - I3: [`ObjectCache`] and [`Pooled`] are invariant in `T`. The next user finds what a user
//!   leaves in a value: a cache of `Name<'static>` that could be taken for one of `Name<'a>` would
//!   be left a reference that dangles.
//!
//! # Why I2 holds
//! Safe code can forget a [`Pooled`], then drop the cache, the registry and the memory below: no
//! destructor runs, and a pointer to the value dangles. So `Pin<&mut T>` of a type that is not
//! [`Unpin`] is given only where the memory cannot go:
//!
//! 1. A slab with a value in use is never given back to the source, as only empty slabs go.
//! 2. The source is not dropped while such a slab is there. The registry owns it, and a cache keeps
//!    the registry: one that is forgotten for ever, and a pinned one that is dropped with values in
//!    use too (`ending.rs`).
//! 3. The source borrows nothing that may end before: it is `'static`. By clause 1 of
//!    [`PageSource`] its pages are valid then.
//!
//! [`pinned_objects`](Registry::pinned_objects) asks for 3. [`objects`](Registry::objects) takes
//! any source, but only types that are [`Unpin`], to which `Pin` promises nothing. [`Reset::reset`]
//! gets a `Pin` too, so a cache is one or the other from the start.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::cache::builder::BuildError;
use crate::cache::builder::CacheBuilder;
use crate::cache::handle::Busy;
use crate::cache::handle::Cache;
use crate::hardening::presets::Hardening;
use crate::hardening::presets::Off;
use crate::registry::handle::Registry;
use crate::system::System;

/// How a value that was used becomes as good as new.
pub trait Reset {
    /// Brings the value back to constructed state: what [`Default`] makes, as far as the next user
    /// can trace.
    ///
    /// Should it panic, the value stays where it is, in use for ever.
    ///
    /// The pin is a real one only where the type is not [`Unpin`]: see
    /// [`Registry::pinned_objects`].
    fn reset(self: Pin<&mut Self>);
}

/// Marks who has values of `T`, and takes and gives them.
type Invariant<T> = PhantomData<(T, fn(T) -> T)>;

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
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ObjectCache<T, S: System, K: Hardening = Off> {
    cache: Cache<S, K>,
    /// I3. It may be sent where the values may.
    values: Invariant<T>,
}

// SAFETY: the values are `Send`, as `objects` asks, and reached through `Pooled`s, which have rules
// of their own; the rest is the cache.
unsafe impl<T: Send, S: System, K: Hardening> Sync for ObjectCache<T, S, K> where Cache<S, K>: Sync {}

impl<S: System> Registry<S> {
    /// Builds a cache of values of `T`.
    ///
    /// # Errors
    /// [`BuildError`], also for types without size.
    pub fn objects<T: Default + Reset + Unpin + Send + 'static>(
        &self,
        name: &str,
    ) -> Result<ObjectCache<T, S>, BuildError> {
        self.cache(name, Layout::new::<T>()).objects()
    }

    /// Builds a cache of values of `T`, which may be pinned for good: also of types that are not
    /// [`Unpin`].
    ///
    /// The page source borrows nothing: it is owned by the registry, or behind a reference that is
    /// `'static`. Should values be in use when the cache is dropped ([`Pooled`]s that were
    /// forgotten), the registry and its source are never dropped.
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
    /// The values live until their slabs are released, so `T` borrows nothing. It is [`Unpin`], or
    /// could be left pinned in memory that goes:
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
    /// chosen so far. A source that borrows is refused: its memory could go while a value is
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

    /// Builds the cache; `T` is [`Unpin`], or the cache is pinned and `P` is `'static` (I2).
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
/// 1. `place` has the layout of `T` and is the callee's.
unsafe fn construct<T: Default>(place: NonNull<u8>) {
    let value = T::default();
    // SAFETY: clause 1: room for a value, which no other code sees.
    unsafe { place.cast::<T>().write(value) };
}

/// # Safety
/// 1. `object` is a value of `T`, the callee's.
unsafe fn destroy<T>(object: NonNull<u8>) {
    // SAFETY: clause 1: a value, dropped once, as the callee owns it.
    unsafe { object.cast::<T>().drop_in_place() };
}

impl<T: Reset, S: System, K: Hardening> ObjectCache<T, S, K> {
    /// Takes a value in constructed state.
    ///
    /// A hit is a pop in the caller's CPU slot. A miss may take locks, ask the page source, and
    /// construct a slab of values.
    ///
    /// # Errors
    /// [`OutOfMemory`] when no slab has a value free and the page source has no block.
    #[inline]
    #[track_caller]
    pub fn allocate(&self) -> Result<Pooled<'_, T, S, K>, OutOfMemory> {
        let value = self.cache.allocate()?.cast();
        Ok(Pooled { value, cache: &self.cache, owned: PhantomData })
    }

    /// Returns the cache below, for its numbers. Its objects are values of `T` (I1): whoever frees
    /// one has to leave it so.
    pub fn as_cache(&self) -> &Cache<S, K> {
        &self.cache
    }

    /// Destroys the cache and all its values.
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

/// A value of an [`ObjectCache`], in use. Dropping it resets the value and frees it.
/// It knows its cache, which lives as long as it does, and there is no way to give it to another:
///
/// ```compile_fail,E0505
/// # use core::mem::MaybeUninit;
/// # use page_frame::{Arena, SingleCpu};
/// # #[derive(Default)]
/// # struct Connection;
/// # impl slab::Reset for Connection {
/// #     fn reset(self: core::pin::Pin<&mut Self>) {}
/// # }
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory).unwrap();
/// # let registry = slab::Registry::new(&arena, SingleCpu::new()).unwrap();
/// let connections = registry.objects::<Connection>("connection").unwrap();
/// let one = connections.allocate().unwrap();
/// drop(connections); // `one` is still in use
/// drop(one);
/// ```
///
/// A value's content lives as long as the cache's type says, as the next user finds it there:
///
/// ```compile_fail,E0597
/// # use core::mem::MaybeUninit;
/// # use page_frame::{Arena, SingleCpu};
/// #[derive(Default)]
/// struct Name<'a>(&'a str);
/// impl slab::Reset for Name<'_> {
///     fn reset(self: core::pin::Pin<&mut Self>) {} // keeps the text
/// }
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory).unwrap();
/// # let registry = slab::Registry::new(&arena, SingleCpu::new()).unwrap();
/// let names = registry.objects::<Name<'static>>("name").unwrap();
/// {
///     let text = String::from("short");
///     let mut name = names.allocate().unwrap();
///     name.0 = &text;
/// }
/// println!("{}", names.allocate().unwrap().0);
/// ```
///
/// ```compile_fail
/// # use page_frame::{Arena, SingleCpu};
/// # use slab::{ObjectCache, Reset};
/// # #[derive(Default)]
/// # struct Name<'a>(&'a str);
/// # impl Reset for Name<'_> {
/// #     fn reset(self: core::pin::Pin<&mut Self>) {}
/// # }
/// type Names<'t, 'm> = ObjectCache<Name<'t>, (&'m Arena<'m>, SingleCpu)>;
/// fn leave<'t>(names: &Names<'static, '_>, text: &'t str) {
///     let names: &Names<'t, '_> = names;
///     names.allocate().unwrap().0 = text;
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use core::mem::MaybeUninit;
/// # use page_frame::{Arena, SingleCpu};
/// # #[derive(Default)]
/// # struct Connection;
/// # impl slab::Reset for Connection {
/// #     fn reset(self: core::pin::Pin<&mut Self>) {}
/// # }
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory).unwrap();
/// # let registry = slab::Registry::new(&arena, SingleCpu::new()).unwrap();
/// let connections = registry.objects::<Connection>("connection").unwrap();
/// let others = registry.objects::<Connection>("other").unwrap();
/// let one = connections.allocate().unwrap();
/// others.free(one); // no cache takes a value: it returns by itself
/// ```
pub struct Pooled<'c, T: Reset, S: System, K: Hardening = Off> {
    value: NonNull<T>,
    cache: &'c Cache<S, K>,
    /// I3: the value goes back to where others have it from.
    owned: Invariant<T>,
}

// SAFETY: it is a `T` that can be reached, and a reference to the cache.
unsafe impl<T: Reset + Send, S: System, K: Hardening> Send for Pooled<'_, T, S, K> where
    Cache<S, K>: Sync
{
}
// SAFETY: a shared reference reaches a shared `T`, and the cache, which is Sync.
unsafe impl<T: Reset + Sync, S: System, K: Hardening> Sync for Pooled<'_, T, S, K> where
    Cache<S, K>: Sync
{
}

impl<T: Reset, S: System, K: Hardening> Pooled<'_, T, S, K> {
    /// Returns the value, pinned: it does not move while it is in use, nor while it is free.
    pub fn as_mut(&mut self) -> Pin<&mut T> {
        // SAFETY: the value is ours until we are dropped.
        let value = unsafe { self.value.as_mut() };
        // SAFETY: I2: its memory is used for nothing else before it has been dropped in place; or
        // `T` is `Unpin`, and nothing is promised. By I1 it stays a value while it is free, and
        // never moves.
        unsafe { Pin::new_unchecked(value) }
    }
}

impl<T: Reset, S: System, K: Hardening> Deref for Pooled<'_, T, S, K> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value is ours until we are dropped.
        unsafe { self.value.as_ref() }
    }
}

impl<T: Reset + Unpin, S: System, K: Hardening> DerefMut for Pooled<'_, T, S, K> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the value is ours until we are dropped.
        unsafe { self.value.as_mut() }
    }
}

impl<T: Reset, S: System, K: Hardening> Drop for Pooled<'_, T, S, K> {
    #[track_caller]
    fn drop(&mut self) {
        self.as_mut().reset();
        // SAFETY: clauses 1 and 2: from this cache, and not used any more. Clause 3: a value of `T`
        // that `reset` left.
        unsafe { self.cache.free(self.value.cast()) };
    }
}

impl<T, S, K> fmt::Debug for Pooled<'_, T, S, K>
where
    T: Reset + fmt::Debug,
    S: System,
    K: Hardening,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
