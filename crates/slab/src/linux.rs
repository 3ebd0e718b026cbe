//! The function names of Linux, as thin wrappers, for code that is ported from it.
//!
//! | Linux | here |
//! |---|---|
//! | `kmem_cache_create` | [`Registry::cache`], [`build`](crate::CacheBuilder::build) |
//! | `kmem_cache_alloc`, `kmem_cache_zalloc` | [`Cache::allocate`], [`Cache::allocate_zeroed`] |
//! | `kmem_cache_free` | [`Cache::free`] |
//! | `kmem_cache_alloc_bulk` | [`Cache::allocate_many`] |
//! | `kmem_cache_free_bulk` | [`Cache::free_many`] |
//! | `kmem_cache_shrink` | [`Cache::shrink_all`] |
//! | `kmem_cache_destroy` | [`Cache::destroy`] |
//! | `kmem_cache_prefill_sheaf` | [`Cache::prefill`] |
//! | `kmem_cache_alloc_from_sheaf` | [`Prefilled::allocate`](crate::Prefilled::allocate) |
//! | `mempool_create_slab_pool` | [`Cache::mempool`] |
//! | `mempool_alloc` | [`Mempool::allocate`](crate::Mempool::allocate) |
//! | `mempool_free` | [`Mempool::free`](crate::Mempool::free) |
//! | `kfree_rcu` | [`DeferredFrees::free`](crate::DeferredFrees::free) |
//! | `kvfree_rcu_barrier` | [`DeferredFrees::wait`](crate::DeferredFrees::wait) |
//! | `SLAB_TYPESAFE_BY_RCU` | [`type_stable`](crate::CacheBuilder::type_stable) |
//! | `SLAB_HWCACHE_ALIGN` | [`line_aligned`](crate::CacheBuilder::line_aligned) |
//! | `SLAB_POISON`, `SLAB_RED_ZONE`, `SLAB_STORE_USER` | [`Hardening`] |

use core::alloc::Layout;
use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::cache::build_error::BuildError;
use crate::cache::destroy::Busy;
use crate::cache::handle::Cache;
use crate::hardening::presets::Hardening;
use crate::registry::handle::Registry;
use crate::slabs::settings::ObjectHook;
use crate::system::System;

/// Makes a cache of objects of `size` bytes aligned to `align`, which `constructor` constructs.
///
/// # Errors
/// [`BuildError`].
///
/// # Safety
/// 1. As for [`CacheBuilder::constructor`](crate::CacheBuilder::constructor), if there is one.
///
/// ```
/// # use core::mem::MaybeUninit;
/// # use core::ptr::NonNull;
/// # use page_frame::{Arena, SingleCpu};
/// use slab::linux::*;
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// // SAFETY: no constructor.
/// let cache = unsafe { kmem_cache_create(&registry, "skbuff_head_cache", 232, 64, None)? };
/// let buffer = kmem_cache_alloc(&cache)?;
/// let zeros = kmem_cache_zalloc(&cache)?;
/// // SAFETY: from this cache, and not used any more.
/// [buffer, zeros].map(|object| unsafe { kmem_cache_free(&cache, object) });
/// let mut many = [NonNull::dangling(); 16];
/// assert_eq!(kmem_cache_alloc_bulk(&cache, &mut many), 16);
/// // SAFETY: as above.
/// unsafe { kmem_cache_free_bulk(&cache, &many) };
/// assert!(kmem_cache_shrink(&cache) > 0); // pages
/// kmem_cache_destroy(cache).map_err(|busy| busy.to_string())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub unsafe fn kmem_cache_create<S: System>(
    registry: &Registry<S>,
    name: &str,
    size: usize,
    align: usize,
    constructor: Option<ObjectHook>,
) -> Result<Cache<S>, BuildError> {
    let layout = Layout::from_size_align(size, align.max(1));
    let layout = layout.map_err(|_| BuildError::bad_layout(size, align))?;
    let builder = registry.cache(name, layout);
    match constructor {
        // SAFETY: clause 1 is the builder's.
        Some(constructor) => unsafe { builder.constructor(constructor) }.build(),
        None => builder.build(),
    }
}

/// [`Cache::allocate`]. Example: see [`kmem_cache_create`].
///
/// # Errors
/// As there.
#[inline(always)]
#[track_caller]
pub fn kmem_cache_alloc<S: System, K: Hardening>(
    cache: &Cache<S, K>,
) -> Result<NonNull<u8>, OutOfMemory> {
    cache.allocate()
}

/// [`Cache::allocate_zeroed`]. Example: see [`kmem_cache_create`].
///
/// # Errors
/// As there.
///
/// # Panics
/// When the cache has a constructor.
#[inline]
#[track_caller]
pub fn kmem_cache_zalloc<S: System, K: Hardening>(
    cache: &Cache<S, K>,
) -> Result<NonNull<u8>, OutOfMemory> {
    cache.allocate_zeroed()
}

/// [`Cache::free`]. Example: see [`kmem_cache_create`].
///
/// # Safety
/// 1. All clauses of [`Cache::free`], constructed state among them.
#[inline(always)]
#[track_caller]
pub unsafe fn kmem_cache_free<S: System, K: Hardening>(cache: &Cache<S, K>, object: NonNull<u8>) {
    // SAFETY: the object is the caller's, of this cache, as `free` wants.
    unsafe { cache.free(object) }
}

/// [`Cache::allocate_many`]; returns how many there were. Example: see [`kmem_cache_create`].
#[inline]
#[track_caller]
pub fn kmem_cache_alloc_bulk<S: System, K: Hardening>(
    cache: &Cache<S, K>,
    objects: &mut [NonNull<u8>],
) -> usize {
    cache.allocate_many(objects)
}

/// [`Cache::free_many`]. Example: see [`kmem_cache_create`].
///
/// # Safety
/// 1. All clauses of [`Cache::free`], for each of `objects`; none is there twice.
#[inline]
#[track_caller]
pub unsafe fn kmem_cache_free_bulk<S: System, K: Hardening>(
    cache: &Cache<S, K>,
    objects: &[NonNull<u8>],
) {
    // SAFETY: the objects are the caller's, each once, as `free_many` wants.
    unsafe { cache.free_many(objects) }
}

/// [`Cache::shrink_all`]; returns the pages given back. Example: see [`kmem_cache_create`].
pub fn kmem_cache_shrink<S: System, K: Hardening>(cache: &Cache<S, K>) -> usize {
    cache.shrink_all()
}

/// [`Cache::destroy`]. Example: see [`kmem_cache_create`].
///
/// # Errors
/// As there.
pub fn kmem_cache_destroy<S: System, K: Hardening>(
    cache: Cache<S, K>,
) -> Result<(), Busy<Cache<S, K>>> {
    cache.destroy()
}
