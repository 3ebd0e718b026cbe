//! A full-screen terminal: unbuffered keys, and the old state restored when the program ends.
//!
//! On a terminal without a movable cursor (`TERM=dumb`) the screens are printed one after another.

use std::io::{self, Read, Write, stdin, stdout};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Rows and columns of a terminal that does not report its size.
const USUAL: (usize, usize) = (24, 80);

/// How often, and at what interval, `restore` tries to get the lock.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The state to restore; `None` while the terminal is in its own state.
static TAKEN: Mutex<Option<Taken>> = Mutex::new(None);

/// A key press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// `q`, or the end of input.
    Quit,
    /// Any other letter.
    Letter(char),
}

/// A terminal that was taken.
struct Taken {
    /// The old modes; `None` when standard input is no terminal.
    before: Option<Termios>,
    is_full_screen: bool,
}

/// The alternate screen of the terminal; dropping it restores the normal one.
pub(super) struct Terminal {
    is_full_screen: bool,
    /// Whether column names stand out.
    has_colour: bool,
}

impl Terminal {
    pub(super) fn enter(has_colour: bool) -> io::Result<Self> {
        let before = tcgetattr(stdin()).ok();
        let is_full_screen = !super::is_dumb();
        // The lock is held, so that a signal finds the terminal either taken or not.
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &before {
            let mut modes = before.clone();
            // No line buffering and no echo. Signals stay enabled, so that Ctrl-C ends the program.
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(stdin(), OptionalActions::Now, &modes)?;
        }
        *taken = Some(Taken { before, is_full_screen });
        let terminal = Self { is_full_screen, has_colour };
        if is_full_screen {
            // Switches to the alternate screen and hides the cursor.
            write!(stdout(), "\x1b[?1049h\x1b[?25l")?;
        }
        Ok(terminal)
    }

    /// Returns the rows and columns of the terminal.
    pub(super) fn size() -> (usize, usize) {
        tcgetwinsize(stdout())
            .map(|size| (size.ws_row.into(), size.ws_col.into()))
            .ok()
            .filter(|(rows, columns)| *rows > 0 && *columns > 0)
            .unwrap_or(USUAL)
    }

    /// Shows the first of `lines`, as far as they fit on the screen. The line that contains
    /// `heading` stands out.
    pub(super) fn draw(&mut self, lines: &[String], heading: &str) -> io::Result<()> {
        let (rows, columns) = Self::size();
        let mut text = String::new();
        let cut = |line: &String| line.chars().take(columns).collect::<String>();
        if self.is_full_screen {
            text.push_str("\x1b[H");
            for (row, line) in lines.iter().take(rows).map(cut).enumerate() {
                let end = if row + 1 < rows.min(lines.len()) { "\r\n" } else { "" };
                match self.has_colour && line.contains(heading) {
                    true => text.push_str(&format!("\x1b[7m{line:<columns$}\x1b[0m{end}")),
                    false => text.push_str(&format!("{line}\x1b[K{end}")),
                }
            }
            text.push_str("\x1b[J");
        } else {
            lines.iter().take(rows).map(cut).for_each(|line| text.push_str(&(line + "\n")));
            text.push('\n');
        }
        // No drawing after `restore`, which a signal calls.
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.is_none() {
            return Ok(());
        }
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Waits for a key, at most for `patience`.
    pub(super) fn key(&mut self, patience: Duration) -> io::Result<Option<Key>> {
        let input = stdin();
        let timeout = Timespec::try_from(patience).ok();
        let ready = poll(&mut [PollFd::new(&input, PollFlags::IN)], timeout.as_ref());
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            ready => ready?,
        };
        let mut byte = [0];
        Ok(Some(match input.lock().read(&mut byte)? {
            0 => Key::Quit,
            _ if matches!(byte[0], b'q' | b'Q') => Key::Quit,
            _ => Key::Letter(char::from(byte[0])),
        }))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Restores the terminal if it was taken. An error while the program ends has no reader.
pub(crate) fn restore() {
    // A thread that draws on a stopped terminal (Ctrl-S) holds the lock until it goes on.
    let mut locked = TAKEN.try_lock();
    for _ in 0..LOCK_ATTEMPTS {
        if !matches!(locked, Err(TryLockError::WouldBlock)) {
            break;
        }
        std::thread::sleep(LOCK_PAUSE);
        locked = TAKEN.try_lock();
    }
    let mut taken = match locked {
        Ok(taken) => taken,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return,
    };
    let Some(taken) = taken.take() else { return };
    if taken.is_full_screen {
        // Past the buffer of standard output: its lock may be held by a thread that waits.
        let _ = rustix::io::write(rustix::stdio::stdout(), b"\x1b[?25h\x1b[?1049l");
    }
    if let Some(before) = &taken.before {
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}
