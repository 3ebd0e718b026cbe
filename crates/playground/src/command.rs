//! Commands of the page: a line that says what to do, then a script.
//!
//! ```text
//! buddy 4          the state of the buddy after four steps of the script
//! slab 4           the same for a slab cache
//! pressure 4       the same for two caches over little memory
//! judge            the verdict on a script with answers
//! ```

use alloc::format;
use alloc::string::String;

use crate::input::complaint::Complaint;
use crate::input::limits::MAX_BYTES;
use crate::json::Json;
use crate::judge;
use crate::{buddy_scene, pressure_scene, slab_scene};

/// Performs one command and returns its answer, see [`Engine::answer`].
///
/// ```
/// let answer = playground::answer("buddy 1\nmemory 16K unit 1K\nalloc A 3.6K");
/// assert!(answer.contains(r#""plain":"4A 4- 8-""#));
/// assert!(playground::answer("dance").contains("complaint"));
/// ```
pub fn answer(command: &str) -> String {
    Engine::new().answer(command)
}

/// Performs commands one after another.
///
/// An answer depends on its command alone. The engine keeps the buddy of the last command, so that
/// a command that adds a step to the script before costs that step, and not all of them.
///
/// ```
/// let mut engine = playground::Engine::new();
/// engine.answer("buddy 1\nmemory 16K unit 1K\nalloc A 3.6K");
/// let answer = engine.answer("buddy 2\nmemory 16K unit 1K\nalloc A 3.6K\nalloc B 1.5K");
/// assert!(answer.contains(r#""plain":"4A 2B 2- 8-""#));
/// ```
#[derive(Default)]
pub struct Engine {
    buddy: buddy_scene::Session,
}

impl Engine {
    /// Returns an engine that has performed nothing.
    pub const fn new() -> Self {
        Self { buddy: buddy_scene::Session::new() }
    }

    /// Performs a command and returns its answer, which is JSON. No input makes it panic.
    pub fn answer(&mut self, command: &str) -> String {
        let (head, script) = command.split_once('\n').unwrap_or((command, ""));
        if script.len() > MAX_BYTES {
            let message = format!("The text is longer than {} MiB.", MAX_BYTES >> 20);
            return refuse(&Complaint::new(1, message));
        }
        let (name, position) = head.split_once(' ').unwrap_or((head, ""));
        let position = position.parse().unwrap_or(usize::MAX);
        let answer = match name {
            "buddy" => self.buddy.show(script, position),
            "slab" => slab_scene::show(script, position),
            "pressure" => pressure_scene::show(script, position),
            "judge" => Ok(judge::judge(script).to_json()),
            _ => Err(Complaint::new(1, "There is no such command.")),
        };
        answer.unwrap_or_else(|complaint| refuse(&complaint))
    }
}

/// Returns a complaint about an input that has no state at all.
fn refuse(Complaint { line, message }: &Complaint) -> String {
    let complaint = Json::object().number("line", *line).text("message", message);
    Json::object().member("complaint", complaint).finish()
}
