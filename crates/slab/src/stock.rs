//! A stock: free objects put by in magazines, out of everybody's reach, for [`Reserve`](crate::Reserve) and
//! [`Prefilled`](crate::Prefilled).
//!
//! # Invariants
//! - I1: the magazines of `filled` hold an object each at least, and only the first has room for more; those of `empty` hold
//!   none. All are the stock's, as are the objects.

use core::ptr::NonNull;

use page_frame::{Cpu, OutOfMemory, PageMap, PageSource};

use crate::checks::Checks;
use crate::core::Core;
use crate::magazine::{Chain, Magazine};
use crate::walk::Patience;

/// Objects of a cache, not yet looked at for handing out, in magazines.
#[derive(Debug)]
pub(crate) struct Stock {
    filled: Chain,
    empty: Chain,
    objects: usize,
}

// SAFETY: the stock owns its magazines and the objects in them.
unsafe impl Send for Stock {}

impl Stock {
    pub(crate) const fn objects(&self) -> usize {
        self.objects
    }

    /// Takes an object out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let magazine = self.filled.pop()?;
        // SAFETY: I1: ours, not loaded.
        let object = unsafe { Magazine::pop(magazine) };
        self.objects -= 1;
        // SAFETY: I1: live.
        let is_empty = unsafe { magazine.as_ref() }.length() == 0;
        let chain = if is_empty { &mut self.empty } else { &mut self.filled };
        // SAFETY: taken out of the other chain, or this one, above.
        unsafe { chain.push(magazine) };
        object
    }

    /// Puts an object in; whether there was room.
    ///
    /// # Safety
    /// 1. The caller owns the object, one of the cache, and gives it to the stock if the answer is true.
    pub(crate) unsafe fn push(&mut self, object: NonNull<u8>) -> bool {
        // SAFETY: I1: live.
        let has_room = |first: &NonNull<Magazine>| !unsafe { first.as_ref() }.is_full();
        let magazine = match self.filled.first().filter(has_room) {
            Some(_) => self.filled.pop(),
            None => self.empty.pop(),
        };
        let Some(magazine) = magazine else { return false };
        // SAFETY: there is room, and clause 1.
        unsafe { Magazine::push(magazine, object) };
        // SAFETY: taken out of a chain above.
        unsafe { self.filled.push(magazine) };
        self.objects += 1;
        true
    }
}

impl<P: PageSource + PageMap, C: Cpu + Clone> Core<P, C> {
    /// Puts `objects` objects by, with magazines for them.
    ///
    /// # Errors
    /// [`OutOfMemory`]; then nothing is held.
    pub(crate) fn put_by<K: Checks>(&self, objects: usize) -> Result<Stock, OutOfMemory> {
        let mut stock = Stock { filled: Chain::new(), empty: Chain::new(), objects: 0 };
        let mut places = 0;
        while places < objects {
            let Some(magazine) = self.new_magazine() else {
                self.put_back(stock);
                return Err(OutOfMemory);
            };
            // SAFETY: fresh, ours.
            places += unsafe { magazine.as_ref() }.capacity();
            // SAFETY: as above.
            unsafe { stock.empty.push(magazine) };
        }
        while stock.objects < objects {
            let Ok(object) = self.take_out::<K>() else {
                self.put_back(stock);
                return Err(OutOfMemory);
            };
            // SAFETY: ours, and there are magazines for all.
            let has_room = unsafe { stock.push(object) };
            debug_assert!(has_room, "I1: as many places as objects");
        }
        Ok(stock)
    }

    /// Gives everything in `stock` back.
    pub(crate) fn put_back(&self, stock: Stock) {
        self.empty_all(stock.filled, stock.empty, Patience::Wait);
    }
}
