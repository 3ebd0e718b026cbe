//! A thread that gives memory back, for programs that want one: at intervals, rather than at a free.
//!
//! # Concepts
//! Without it the free that finds too much idle memory gives it back, and pays for it. With it frees need not (see
//! [`Pages::keeping`]): each interval, half of the memory that was idle for all of the interval goes. So what is wanted again soon
//! stays, and of a program that sleeps nothing is left after a few intervals: a quarter after two, a sixteenth after four. When
//! nothing was handed out for an interval, the caches are asked too, as in a fall of use (`giving`).

use core::time::Duration;

use page_frame::PAGE_SIZE;

use crate::{Background, OsError, Pages};

/// So many pages or fewer go at once, not by half.
const FEW_PAGES: usize = (256 << 10) / PAGE_SIZE;

impl Pages {
    /// Ends an interval: gives half of the memory back that was idle since the last call, by blocks of up to 2 MiB, all of it when
    /// it is little; returns how many pages went. Asks the caches first when nothing was handed out meanwhile. For a thread that calls this at
    /// intervals; O(sections), and a system call for each block that goes.
    ///
    /// ```
    /// use hosted::Pages;
    /// use page_frame::{Order, PageSource};
    /// let pages = Pages::with_space(1 << 30)?.keeping();
    /// let block = pages.allocate(Order::new(9).unwrap())?;
    /// // SAFETY: ours, and not used any more.
    /// unsafe { pages.free(block) };
    /// assert_eq!(pages.end_interval(), 0); // it was in use in this interval
    /// assert!(pages.end_interval() >= 256); // half of the block's 512 pages at least
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn end_interval(&self) -> usize {
        if !self.note_interval() {
            self.ask_caches();
        }
        let idle = self.idle_pages();
        let surplus = self.least_idle(idle).min(idle);
        let going = if surplus <= FEW_PAGES { surplus } else { surplus / 2 };
        if going == 0 { 0 } else { self.give_back(idle - going) }
    }
}

/// A thread that ends an interval of some pages again and again. Dropping it stops the thread, and waits for that.
///
/// A child of `fork` has none; it starts one of its own if it wants one.
#[derive(Debug)]
pub struct Purger {
    _thread: Background<Pages>,
}

impl Purger {
    /// Starts a thread that calls [`Pages::end_interval`] each `interval`. It takes no signals of the program's.
    ///
    /// # Errors
    /// The system's, when there can be no thread.
    pub fn start(pages: &'static Pages, interval: Duration) -> Result<Self, OsError> {
        let run = |pages: &'static Pages| _ = pages.end_interval();
        Ok(Self { _thread: Background::start(c"purger", interval, pages, run)? })
    }
}
