//! A stock: free objects put by in magazines, out of everybody's reach, for [`Reserve`](crate::Reserve) and
//! [`Prefilled`](crate::Prefilled).
//!
//! # Invariants
//! - I1: the magazines of `filled` hold an object each at least, and only the first has room for more; those of `empty` hold
//!   none.

use core::ptr::NonNull;

use page_frame::OutOfMemory;

use crate::checks::Checks;
use crate::core::Core;
use crate::magazine::Chain;
use crate::system::System;
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

impl<S: System> Core<S> {
    /// Puts `objects` objects by, with magazines for them.
    ///
    /// # Errors
    /// [`OutOfMemory`]; then nothing is held.
    pub(crate) fn put_by<K: Checks>(&self, objects: usize) -> Result<Stock, OutOfMemory> {
        let stock = Stock { filled: Chain::new(), empty: Chain::new(), objects: 0 };
        // Gives everything back where memory ends, or a constructor panics.
        let mut put_by = PutBy { core: self, stock: Some(stock) };
        let mut places = 0;
        while places < objects {
            let magazine = self.new_magazine().ok_or(OutOfMemory)?;
            places += magazine.capacity();
            put_by.stock().empty.push(magazine);
        }
        while put_by.stock().objects < objects {
            let object = self.take_out::<K>()?;
            let has_room = put_by.stock().push(object);
            debug_assert!(has_room, "I1: as many places as objects");
        }
        put_by.stock.take().ok_or(OutOfMemory)
    }

    /// Gives everything in `stock` back.
    pub(crate) fn put_back(&self, stock: Stock) {
        self.empty_all(stock.filled, stock.empty, Patience::Wait);
    }
}

/// A stock that is being put by. Dropping it gives everything back.
struct PutBy<'c, S: System> {
    core: &'c Core<S>,
    stock: Option<Stock>,
}

impl<S: System> PutBy<'_, S> {
    fn stock(&mut self) -> &mut Stock {
        self.stock.as_mut().expect("the stock is there until it is complete")
    }
}

impl<S: System> Drop for PutBy<'_, S> {
    fn drop(&mut self) {
        if let Some(stock) = self.stock.take() {
            self.core.put_back(stock);
        }
    }
}
