//! The end of a cache's handle: the cache is destroyed or, with objects in use, abandoned; or the
//! call refuses, and returns it.

use core::fmt;
use core::ptr::NonNull;

use crate::cache_inner::CacheInner;
use crate::registry::inner::RegistryInner;
use crate::system::System;
use page_frame::CacheName;

/// A cache, typed or not, that was not destroyed because objects are in use. Dropping it destroys
/// the cache after all; the slabs of the objects in use are lost to the page source then.
///
/// ```
/// # use core::{alloc::Layout, mem::MaybeUninit};
/// # use page_frame::{Arena, SingleCpu};
/// # let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
/// # let arena = Arena::new(&mut memory)?;
/// # let registry = slab::Registry::new(&arena, SingleCpu::new())?;
/// use slab::Busy;
/// let inodes = registry.cache("inode", Layout::new::<[u64; 75]>()).build()?;
/// let inode = inodes.allocate()?;
/// let busy: Busy<_> = inodes.destroy().unwrap_err();
/// assert_eq!(busy.to_string(), "cache inode has 1 objects in use");
/// let inodes = busy.cache; // as before
/// // SAFETY: clauses 1 and 2: allocated above, and not used any more.
/// unsafe { inodes.free(inode) };
/// assert!(inodes.destroy().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping it destroys the cache after all"]
pub struct Busy<C> {
    /// The cache, which stays usable. [`for_each_live`](crate::Cache::for_each_live) lists the
    /// objects in use.
    pub cache: C,
    /// The cache's name.
    pub name: CacheName,
    /// How many objects are in use. Zero if slabs wait for a grace period instead, see
    /// [`type_stable`](crate::CacheBuilder::type_stable).
    pub objects: usize,
}

impl<C> fmt::Debug for Busy<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, objects, .. } = self;
        let mut out = f.debug_struct("Busy");
        out.field("name", name).field("objects", objects).finish_non_exhaustive()
    }
}

impl<C> fmt::Display for Busy<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cache {} has {} objects in use", self.name, self.objects)
    }
}

impl<C> core::error::Error for Busy<C> {}

/// How far the end of a handle has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The cache is in the list; closed, if a destructor has panicked.
    Linked,
    /// The cache is freed or abandoned. The handle's reference to the registry is left.
    Gone,
    /// Nothing is left to do.
    Done,
}

/// The handle of a cache that is being destroyed. If a destructor panics, dropping it completes the
/// work: the slabs of that release are gone already, and a second attempt releases the rest.
pub(crate) struct EndOfHandle<S: System> {
    cache: NonNull<CacheInner<S>>,
    registry: NonNull<RegistryInner<S>>,
    stage: Stage,
}

impl<S: System> EndOfHandle<S> {
    /// # Safety
    /// 1. `cache` is alive, the caller has its only handle with a reference to the registry, and
    ///    does not use it again.
    pub(crate) unsafe fn new(cache: NonNull<CacheInner<S>>) -> Self {
        // SAFETY: clause 1: alive. By I2 of the cache the pointer is that of the registry.
        let registry = unsafe { cache.as_ref() }.backing.shared_pointer().cast();
        Self { cache, registry, stage: Stage::Linked }
    }

    fn registry(&self) -> &RegistryInner<S> {
        // SAFETY: the handle's reference keeps the registry alive until `drop` gives it up.
        unsafe { self.registry.as_ref() }
    }

    /// Destroys the cache or, with objects in use, abandons it.
    pub(crate) fn end(&mut self) {
        // SAFETY: the only handle (clause 1 of `new`), and at this stage the cache is alive.
        if unsafe { self.registry().detach(self.cache) }.is_ok() {
            self.free();
            return;
        }
        // SAFETY: the cache was not detached, so it is alive.
        let is_pinned = unsafe { self.cache.as_ref() }.slabs().settings.is_pinned;
        // SAFETY: as above: this was the handle. The cache stays for ever, closed, as the slabs of
        // the objects in use name it.
        unsafe { self.registry().abandon(self.cache) };
        // Typed I2: values in use that may be pinned keep the page source, so their reference to it
        // is never given up.
        self.stage = if is_pinned { Stage::Done } else { Stage::Gone };
    }

    /// Frees the cache, which is detached.
    pub(crate) fn free(&mut self) {
        // Before the call: if a trace panics meanwhile, the cache is not freed again.
        self.stage = Stage::Gone;
        // SAFETY: detached: in no list, without slabs; the only handle is this one.
        unsafe { self.registry().free_cache(self.cache) };
    }
}

impl<S: System> Drop for EndOfHandle<S> {
    fn drop(&mut self) {
        if self.stage == Stage::Linked {
            self.end();
        }
        if self.stage == Stage::Gone {
            // SAFETY: clause 1 of `release`: the handle's reference, which is not used again.
            unsafe { RegistryInner::release(self.registry) };
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;

    use core::alloc::Layout;
    use core::cell::{Cell, RefCell};
    use core::mem::MaybeUninit;
    use std::boxed::Box;
    use std::rc::Rc;
    use std::vec;

    use page_frame::{Arena, Cpu, CpuId};

    use super::*;
    use crate::registry::handle::Registry;

    /// The function of a test that runs at each drop of a machine.
    type Look<'a> = Box<dyn Fn() + 'a>;

    /// A machine of one CPU. Each drop of a copy of it calls `look`: a cache drops its copy just
    /// before its memory is freed.
    #[derive(Clone, Default)]
    struct Machine<'a> {
        look: Rc<RefCell<Option<Look<'a>>>>,
    }

    // SAFETY: one context with one id, as the type is not `Sync`.
    unsafe impl Cpu for Machine<'_> {
        fn slots(&self) -> usize {
            1
        }
        fn pin(&self) -> Option<CpuId> {
            Some(CpuId::new(0))
        }
        unsafe fn unpin(&self) {}
        fn fence_all(&self) -> bool {
            true
        }
    }

    impl Drop for Machine<'_> {
        fn drop(&mut self) {
            if let Some(look) = &*self.look.borrow() {
                look();
            }
        }
    }

    /// A visitor walks over closed caches too, so it would read the `next` of freed memory.
    ///
    /// Mutations that it catches: `free_cache` before `unlink`; `unlink` that leaves a cache in the
    /// list, the first one or a later one.
    #[test]
    fn a_cache_is_in_no_list_when_its_memory_is_freed() {
        for (ends_first, is_dropped) in [(true, true), (true, false), (false, true), (false, false)]
        {
            let mut memory = vec![MaybeUninit::uninit(); 256 << 10];
            let arena = Arena::new(&mut memory).expect("large enough");
            let machine = Machine::default();
            let registry = Registry::new(&arena, machine.clone()).expect("room");
            let build = |name| {
                registry.cache(name, Layout::new::<[u64; 4]>()).build().expect("room for a cache")
            };
            let (old, new) = (build("old"), build("new"));
            // The list begins with the youngest cache.
            let (ending, other) = if ends_first { (new, old) } else { (old, new) };
            let (inner, cache) = (registry.pointer(), NonNull::from(ending.inner()));
            let ends = Rc::new(Cell::new(0));
            let counted = Rc::clone(&ends);
            let look = move || {
                // SAFETY: the registry lives until the end of the test, where nobody looks.
                let inner = unsafe { inner.as_ref() };
                assert!(!inner.list.contains(cache, &inner.environment().locking));
                counted.set(counted.get() + 1);
            };
            let (list, locking) = (&registry.inner().list, &registry.inner().environment().locking);
            assert!(list.contains(cache, locking));
            *machine.look.borrow_mut() = Some(Box::new(look));
            match is_dropped {
                true => drop(ending),
                false => ending.destroy().expect("no object is in use"),
            }
            assert_eq!(ends.get(), 1, "the copy of the cache");
            *machine.look.borrow_mut() = None;
            assert!(list.contains(NonNull::from(other.inner()), locking), "the other one stays");
        }
    }
}
