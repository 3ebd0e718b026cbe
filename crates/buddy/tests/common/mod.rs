//! A buddy over frames that are only numbers, with metadata of its own; and the textbook to compare it with.

#![allow(unreachable_pub)]
#![allow(dead_code, reason = "each test program uses its part")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::NonNull;

use buddy::{Buddy, Mode, Observe};
use page_frame::{Cpu, DirectMap, FrameNumber, FrameRange};

pub mod textbook;

/// A buddy that owns its metadata.
pub struct Simulated<C: Cpu, O = ()> {
    buddy: Option<Buddy<'static, DirectMap, C, O>>,
    metadata: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the metadata is the buddy's, which is `Send` where the machine is.
unsafe impl<C: Cpu + Send, O: Send> Send for Simulated<C, O> {}
// SAFETY: as above; between `new` and `drop` only the buddy uses the metadata.
unsafe impl<C: Cpu + Sync, O: Sync> Sync for Simulated<C, O> {}

pub fn range(start: usize, end: usize) -> FrameRange {
    FrameRange::new(FrameNumber::new(start), FrameNumber::new(end))
}

impl<C: Cpu> Simulated<C> {
    pub fn new(ranges: &[FrameRange], cpu: C, mode: Mode) -> Self {
        let layout =
            Buddy::<DirectMap, C>::metadata_layout(ranges, cpu.slots()).expect("good ranges");
        // SAFETY: the layout is not empty.
        let metadata = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("memory for metadata");
        let root = NonNull::new(std::ptr::without_provenance_mut(1 << 40)).expect("not zero");
        // SAFETY: no pointer of the map is ever used.
        let map = unsafe { DirectMap::from_root(root, FrameNumber::new(0)) };
        // SAFETY: the metadata is zero and ours until the buddy is dropped; the frames are numbers.
        let buddy =
            unsafe { Buddy::new_in(metadata, ranges, map, cpu, mode) }.expect("good ranges");
        Self { buddy: Some(buddy), metadata, layout }
    }

    /// The same, with `observer` told of everything.
    pub fn observed<O: Observe>(self, observer: O) -> Simulated<C, O> {
        let mut this = ManuallyDrop::new(self);
        let buddy = this.buddy.take().expect("there until drop").with_observer(observer);
        Simulated { buddy: Some(buddy), metadata: this.metadata, layout: this.layout }
    }
}

impl<C: Cpu, O> Deref for Simulated<C, O> {
    type Target = Buddy<'static, DirectMap, C, O>;

    fn deref(&self) -> &Self::Target {
        self.buddy.as_ref().expect("there until drop")
    }
}

impl<C: Cpu, O> Drop for Simulated<C, O> {
    fn drop(&mut self) {
        self.buddy = None;
        // SAFETY: allocated in `new` with this layout; the buddy that used it is gone.
        unsafe { dealloc(self.metadata.as_ptr(), self.layout) };
    }
}
