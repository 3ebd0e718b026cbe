//! Without a command: all walkthroughs and the bundled trace, one after the other.

use std::time::Duration;

use super::walkthrough::{LAYERS, play};
use super::{Failure, Screen, replay};

/// How long a step stays on a terminal: the 34 steps take about nine seconds.
const PAUSE: Duration = Duration::from_millis(280);

pub(super) fn run(screen: Screen) -> Result<(), Failure> {
    for layer in LAYERS {
        play(layer, false, PAUSE, screen)?;
    }
    replay::bundled(screen)
}
