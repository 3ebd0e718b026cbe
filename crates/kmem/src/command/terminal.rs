//! A full-screen terminal: unbuffered keys, and the old state restored when the program ends.

use std::io::{self, Read, Write, stdin, stdout};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Rows and columns of a terminal that does not report its size.
const USUAL: (usize, usize) = (24, 80);

/// A key press.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// `q`, or the end of input.
    Quit,
    /// Any other letter.
    Letter(char),
}

/// The alternate screen of the terminal; dropping it restores the normal one.
pub(super) struct Terminal {
    /// The old modes; `None` when standard input is no terminal.
    before: Option<Termios>,
}

impl Terminal {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(stdin()).ok();
        if let Some(before) = &before {
            let mut modes = before.clone();
            // No line buffering and no echo. Signals stay enabled, so that Ctrl-C ends the program.
            modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(stdin(), OptionalActions::Now, &modes)?;
        }
        let terminal = Self { before };
        // Switches to the alternate screen and hides the cursor.
        write!(stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }

    /// Shows the first of `lines`, as far as they fit on the screen.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let (rows, columns) = tcgetwinsize(stdout())
            .map(|size| (size.ws_row.into(), size.ws_col.into()))
            .ok()
            .filter(|(rows, columns)| *rows > 0 && *columns > 0)
            .unwrap_or(USUAL);
        let mut text = String::from("\x1b[H");
        for (row, line) in lines.iter().take(rows).enumerate() {
            let line: String = line.chars().take(columns).collect();
            let end = if row + 1 < rows.min(lines.len()) { "\r\n" } else { "" };
            // Highlights the column names.
            match line.contains("OBJ SIZE") {
                true => text.push_str(&format!("\x1b[7m{line:<columns$}\x1b[0m{end}")),
                false => text.push_str(&format!("{line}\x1b[K{end}")),
            }
        }
        text.push_str("\x1b[J");
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
        // An error while the program ends has no reader.
        let _ = write!(stdout(), "\x1b[?25h\x1b[?1049l");
        let _ = stdout().flush();
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), OptionalActions::Now, before);
        }
    }
}
