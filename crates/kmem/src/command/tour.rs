//! `kmem` without a command: all walkthroughs, then the bundled trace.

use std::time::Duration;

use kmem::picture::style::Rest;
use kmem::walkthrough::Layer;

use super::walkthrough::play;
use super::{Failure, Screen, replay};

/// Time that each step stays on a terminal: the 45 steps take about ten seconds.
const PAUSE: Duration = Duration::from_millis(220);

pub(super) fn run(screen: Screen) -> Result<(), Failure> {
    for layer in Layer::ALL {
        play(layer, false, Rest::Pause(PAUSE), screen)?;
    }
    replay::bundled(screen)
}
