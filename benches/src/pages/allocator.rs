//! Page allocators by frame number. Memory is simulated: metadata is real, frames are only numbers.
//!
//! To add one, implement [`Pages`] for it if one thread at a time may use it, or [`SharedPages`] if
//! several may, and name it in `rows.rs`.

use page_frame::Order;

/// A page allocator that one thread at a time uses.
pub trait Pages {
    /// Returns the first frame of a block of `order`.
    fn allocate(&mut self, order: Order) -> Option<usize>;
    /// Frees the block of `order` at `frame`.
    fn free(&mut self, frame: usize, order: Order);
    /// Returns cached frames to where every request finds them.
    fn drain(&mut self) {}
    /// Returns the number of free whole areas, as the allocator counts them; `None` if it does not
    /// count.
    fn free_areas(&self) -> Option<usize> {
        None
    }
    /// Allocates as [`allocate`](Self::allocate) does, and may move blocks out of the way:
    /// `relocate` gets the old and the new first frame of each, and returns whether it has moved
    /// it. `None` if the allocator moves no blocks, or found none.
    fn allocate_compacting(
        &mut self,
        _order: Order,
        _relocate: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Option<usize> {
        None
    }
    /// Returns the bytes of metadata without a page map; `None` if they grow with use.
    fn metadata_bytes(&self) -> Option<usize> {
        None
    }
}

/// A page allocator that several threads use at once. Methods are those of [`Pages`].
pub trait SharedPages: Sync {
    /// Returns the first frame of a block of `order`.
    fn allocate(&self, order: Order) -> Option<usize>;
    /// Frees the block of `order` at `frame`.
    fn free(&self, frame: usize, order: Order);
    /// See [`Pages::drain`].
    fn drain(&self) {}
    /// See [`Pages::free_areas`].
    fn free_areas(&self) -> Option<usize> {
        None
    }
    /// See [`Pages::allocate_compacting`].
    fn allocate_compacting(
        &self,
        _order: Order,
        _relocate: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Option<usize> {
        None
    }
    /// See [`Pages::metadata_bytes`].
    fn metadata_bytes(&self) -> Option<usize> {
        None
    }
    /// Populates the memory of all metadata, so that no workload pays for page faults.
    fn back(&self) {}
}

impl<S: SharedPages> Pages for &S {
    #[inline]
    fn allocate(&mut self, order: Order) -> Option<usize> {
        (**self).allocate(order)
    }

    #[inline]
    fn free(&mut self, frame: usize, order: Order) {
        (**self).free(frame, order);
    }

    fn drain(&mut self) {
        (**self).drain();
    }

    fn free_areas(&self) -> Option<usize> {
        (**self).free_areas()
    }

    fn allocate_compacting(
        &mut self,
        order: Order,
        relocate: &mut dyn FnMut(usize, usize) -> bool,
    ) -> Option<usize> {
        (**self).allocate_compacting(order, relocate)
    }

    fn metadata_bytes(&self) -> Option<usize> {
        (**self).metadata_bytes()
    }
}
