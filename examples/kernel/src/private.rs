//! The private cache of the kernel: objects with a constructor, used by all CPUs and their
//! interrupts at once.

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use page_frame::sync::{AtomicPtr, Ordering};
use slab::Cache;

use crate::cpus::KernelCpu;
use crate::heap::{Source, kmalloc};

type ObjectCache = Cache<(Source, KernelCpu)>;

/// The first word of a constructed object.
pub(crate) const CONSTRUCTED: u64 = 0xc057_0c7e_d0b1_ec75;
/// Bytes of an object.
pub(crate) const OBJECT_BYTES: usize = 192;

/// The cache, while there is one.
static CACHE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

unsafe fn construct(object: NonNull<u8>) {
    // SAFETY: an object of the private cache, aligned to eight.
    unsafe { object.cast::<u64>().write(CONSTRUCTED) };
}

/// Builds the cache.
pub(crate) fn make_cache() {
    let layout = Layout::from_size_align(OBJECT_BYTES, 8).expect("a layout");
    let builder = kmalloc().registry().cache("private", layout);
    // SAFETY: users leave the first word as it is.
    let cache: ObjectCache = unsafe { builder.constructor(construct) }.build().expect("room");
    CACHE.store(cache.into_raw().as_ptr(), Ordering::Release);
}

/// Destroys the cache, of which every object was freed.
pub(crate) fn destroy_cache() {
    let raw = NonNull::new(CACHE.swap(core::ptr::null_mut(), Ordering::AcqRel));
    let raw = raw.expect("there is a cache");
    // SAFETY: the handle came from `make_cache`, and the timers have stopped using it: they were
    // notified and waited for.
    let cache = unsafe { ObjectCache::from_raw(raw) };
    cache.destroy().expect("every object was freed");
}

/// Returns the private cache, for as long as the phase lasts.
pub(crate) fn cache() -> ManuallyDrop<ObjectCache> {
    let raw = NonNull::new(CACHE.load(Ordering::Acquire)).expect("there is a cache");
    // SAFETY: from `make_cache`; the handle stays in the static.
    ManuallyDrop::new(unsafe { ObjectCache::from_raw(raw) })
}
