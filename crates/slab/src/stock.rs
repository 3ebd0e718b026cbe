//! A stock: free objects put by in magazines, out of everybody's reach, for [`Reserve`](crate::Reserve) and
//! [`Prefilled`](crate::Prefilled).
//!
//! # Invariants
//! - I1: the magazines of `filled` hold an object each at least, and only the first has room for more; those of `empty` hold
//!   none.

use core::ptr::NonNull;

use page_frame::{Cpu, OutOfMemory, PageMap, PageSource};

use crate::checks::Checks;
use crate::core::Core;
use crate::magazine::Chain;
use crate::walk::Patience;

/// Objects of a cache, not yet looked at for handing out, in magazines.
#[derive(Debug)]
pub(crate) struct Stock {
    filled: Chain,
    empty: Chain,
    objects: usize,
}

impl Stock {
    pub(crate) const fn objects(&self) -> usize {
        self.objects
    }

    /// Takes an object out.
    pub(crate) fn pop(&mut self) -> Option<NonNull<u8>> {
        let mut magazine = self.filled.pop()?;
        let object = magazine.pop();
        self.objects -= 1;
        let chain = if magazine.length() == 0 { &mut self.empty } else { &mut self.filled };
        chain.push(magazine);
        object
    }

    /// Puts `object` in, one of the cache that the caller owns; whether there was room, and the object is the stock's.
    pub(crate) fn push(&mut self, object: NonNull<u8>) -> bool {
        let magazine = match self.filled.first() {
            Some(first) if !first.is_full() => self.filled.pop(),
            _ => self.empty.pop(),
        };
        let Some(mut magazine) = magazine else { return false };
        magazine.push(object);
        self.filled.push(magazine);
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
            places += magazine.capacity();
            stock.empty.push(magazine);
        }
        while stock.objects < objects {
            let Ok(object) = self.take_out::<K>() else {
                self.put_back(stock);
                return Err(OutOfMemory);
            };
            let has_room = stock.push(object);
            debug_assert!(has_room, "I1: as many places as objects");
        }
        Ok(stock)
    }

    /// Gives everything in `stock` back.
    pub(crate) fn put_back(&self, stock: Stock) {
        self.empty_all(stock.filled, stock.empty, Patience::Wait);
    }
}
