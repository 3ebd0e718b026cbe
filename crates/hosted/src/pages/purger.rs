//! A thread that purges at intervals, for programs that want one.
//!
//! # Concepts
//! Without this thread, a free that finds too many idle pages purges them itself. With it, frees
//! need not purge ([`Pages::without_purging`]): each interval [`Pages::decay`] purges half of the
//! pages that were idle for all of the interval. So pages that are soon allocated again stay, and a
//! program that sleeps keeps a quarter after two intervals, a sixteenth after four.

use core::time::Duration;

use crate::pages::Pages;
use crate::purge::background::Background;
use crate::system::os_error::OsError;

/// A thread that calls [`Pages::decay`] at intervals. Dropping it stops the thread and waits for
/// its end.
///
/// A child of `fork` does not have the thread; it may start another.
///
/// ```no_run
/// use std::time::Duration;
/// let pages: &'static _ = Box::leak(Box::new(hosted::Pages::new()?.without_purging()));
/// let purger = hosted::Purger::start(pages, Duration::from_secs(1))?;
/// # Ok::<(), hosted::OsError>(())
/// ```
#[derive(Debug)]
pub struct Purger {
    _thread: Background<Pages>,
}

impl Purger {
    /// Starts a thread that calls [`Pages::decay`] each `interval`. The thread blocks all signals.
    /// Example: see [`Purger`].
    ///
    /// # Errors
    /// The error of `pthread_create`.
    pub fn start(pages: &'static Pages, interval: Duration) -> Result<Self, OsError> {
        let run = |pages: &'static Pages| _ = pages.decay();
        Ok(Self { _thread: Background::start(c"purger", interval, pages, run)? })
    }
}
