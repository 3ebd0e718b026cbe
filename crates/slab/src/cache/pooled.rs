//! A value of a typed cache, in use. The invariants I1 to I3 are those of `typed.rs`.

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::ptr::NonNull;

use crate::cache::handle::Cache;
use crate::hardening::presets::{Hardening, Off};
use crate::system::System;

/// Resets a used value, so that it can be used again.
///
/// ```
/// use core::pin::Pin;
/// use slab::Reset;
/// #[derive(Default)]
/// struct Connection { bytes: Vec<u8>, is_open: bool }
/// impl Reset for Connection {
///     fn reset(mut self: Pin<&mut Self>) {
///         self.bytes.clear(); // keeps what it has allocated
///         self.is_open = false;
///     }
/// }
/// let mut used = Connection { bytes: vec![1, 2, 3], is_open: true };
/// Pin::new(&mut used).reset(); // a cache calls it when a `Pooled` is dropped
/// assert!(used.bytes.is_empty() && !used.is_open && used.bytes.capacity() >= 3);
/// ```
pub trait Reset {
    /// Brings the value back to constructed state: the next user cannot tell it from the value that
    /// [`Default`] makes.
    ///
    /// If it panics, the value counts as in use for ever.
    ///
    /// The pin is a real one only where the type is not [`Unpin`]: see
    /// [`Registry::pinned_objects`](crate::Registry::pinned_objects).
    /// Example: see [`Reset`].
    fn reset(self: Pin<&mut Self>);
}

/// Marks a type as an owner of values of `T` that is invariant in `T`.
pub(crate) type Invariant<T> = PhantomData<(T, fn(T) -> T)>;

/// A value of an [`ObjectCache`](crate::ObjectCache), in use. Dropping it resets the value and
/// frees it.
///
/// ```
/// # use core::mem::MaybeUninit;
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use core::pin::Pin;
/// #[derive(Default)]
/// struct Counter(u32);
/// impl slab::Reset for Counter {
///     fn reset(mut self: Pin<&mut Self>) { self.0 = 0 }
/// }
/// let counters = registry.objects::<Counter>("counter")?;
/// let mut one = counters.allocate()?; // a `Pooled`
/// one.0 += 1;
/// one.as_mut().0 += 1; // through a pin, as types need it that are not `Unpin`
/// assert_eq!(one.0, 2);
/// drop(one);
/// assert_eq!(counters.allocate()?.0, 0); // the same value, reset
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// It borrows its cache, so the cache outlives it. Another cache cannot free it. The compiler
/// rejects a cache that is dropped first:
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
/// The next user gets the same value, with what a user left in it. So the content must live as long
/// as the type of the cache says:
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
    /// I3: invariant in `T`, as the next user gets the value from the same cache.
    owned: Invariant<T>,
}

// SAFETY: it owns a `T`, and has a reference to the cache.
unsafe impl<T: Reset + Send, S: System, K: Hardening> Send for Pooled<'_, T, S, K> where
    Cache<S, K>: Sync
{
}
// SAFETY: a shared reference reaches a shared `T`, and the cache, which is Sync.
unsafe impl<T: Reset + Sync, S: System, K: Hardening> Sync for Pooled<'_, T, S, K> where
    Cache<S, K>: Sync
{
}

impl<'c, T: Reset, S: System, K: Hardening> Pooled<'c, T, S, K> {
    /// # Safety
    /// 1. `value` is a value that the caller owns, of an [`ObjectCache`](crate::ObjectCache) over
    ///    `cache`.
    pub(crate) unsafe fn new(value: NonNull<T>, cache: &'c Cache<S, K>) -> Self {
        Self { value, cache, owned: PhantomData }
    }

    /// Returns the value, pinned: it does not move while it is in use, nor while it is free.
    /// Example: see [`Pooled`].
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
        // SAFETY: clauses 1 and 2 of `free`: the value came from this cache, and is not used any
        // more. Clause 3: a value of `T` that `reset` left.
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
