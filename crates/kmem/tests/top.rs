//! `kmem top`, once and on a terminal of its own.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{kmem, with_default_signals};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

const CACHES: &str =
    "slabinfo - version: 2.1\n# name\nfilp 7 21 184 21 1 : tunables 0 0 0 : slabdata 1 1 0\n";

fn temporary(name: &str, contents: &[u8]) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    std::fs::write(&path, contents).expect("there is room for the file");
    path.to_str().expect("the folder's name is text").to_owned()
}

/// The bytes of output that are searched: a few screens.
const LAST_BYTES: usize = 4096;

/// `kmem top` on a terminal, and what it has shown there so far.
struct OnTerminal {
    child: Child,
    keys: File,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl OnTerminal {
    fn start(arguments: &[&str]) -> Self {
        Self::start_with(&[&["top"], arguments].concat(), &[("TERM", "xterm")])
    }

    fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let terminal =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&terminal).expect("it is ours");
        unlockpt(&terminal).expect("it is ours");
        let name = ptsname(&terminal, Vec::new()).expect("it has a name").into_string();
        let open = || {
            let mut options = File::options();
            options
                .read(true)
                .write(true)
                .open(name.as_deref().expect("of text"))
                .expect("it opens")
        };
        let mut top = Command::new(env!("CARGO_BIN_EXE_kmem"));
        top.args(arguments).envs(environment.iter().copied());
        top.stdin(open()).stdout(open()).stderr(open());
        let child = with_default_signals(&mut top).spawn().expect("it runs");
        let keys = File::from(terminal);
        let mut screen = keys.try_clone().expect("it can be read and written");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            // Reading fails when the program has ended.
            while let Ok(read @ 1..) = screen.read(&mut part) {
                seen.lock().expect("nobody panics with it").extend_from_slice(&part[..read]);
            }
        });
        Self { child, keys, shown }
    }

    fn text(&self) -> String {
        let shown = self.shown.lock().expect("nobody panics with it");
        String::from_utf8_lossy(&shown[shown.len().saturating_sub(LAST_BYTES)..]).into_owned()
    }

    /// Forgets what was shown, and waits until something with `text` in it is.
    fn wait_for(&self, text: &str) {
        self.shown.lock().expect("nobody panics with it").clear();
        let started = Instant::now();
        while !self.text().contains(text) {
            assert!(started.elapsed() < PATIENCE, "{text} does not come, but {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end, but shows {:?}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        // After a failed test no other code ends the child.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn signals_restore_the_terminal() {
    use rustix::termios::{LocalModes, tcgetattr};
    use std::os::unix::process::ExitStatusExt;
    let path = temporary("signalled.slabinfo", CACHES.as_bytes());
    for (name, signal) in [("HUP", 1), ("INT", 2), ("TERM", 15)] {
        let mut top = OnTerminal::start(&["-d", "0.1", &path]);
        top.wait_for("filp");
        let modes = || tcgetattr(&top.keys).expect("it is a terminal").local_modes;
        assert!(!modes().contains(LocalModes::ECHO), "it is taken");
        let kill = Command::new("kill").args(["-s", name, &top.child.id().to_string()]).status();
        assert!(kill.expect("it runs").success());
        assert!(
            modes().contains(LocalModes::ECHO | LocalModes::ICANON) || {
                std::thread::sleep(Duration::from_millis(500));
                modes().contains(LocalModes::ECHO | LocalModes::ICANON)
            }
        );
        assert_eq!(top.end().signal(), Some(signal), "{name}");
        std::thread::sleep(Duration::from_millis(100));
        assert!(top.text().ends_with("\x1b[?25h\x1b[?1049l"), "{name}: {:?}", top.text());
    }
}

#[test]
fn a_dumb_terminal_gets_no_escapes_from_any_command() {
    let path = temporary("dumb.slabinfo", CACHES.as_bytes());
    let trace = temporary("dumb.csv", b"!g,0,G\n!s,0,filp\nA,0,0,40,184,192,0,0\n");
    let dumb = [("TERM", "dumb"), ("NO_COLOR", "")];
    let mut top = OnTerminal::start_with(&["top", "-d", "0.1", &path], &dumb);
    top.wait_for("filp");
    top.wait_for("filp");
    top.keys.write_all(b"q").expect("it reads keys");
    assert_eq!(top.end().code(), Some(0), "{}", top.text());
    assert!(!top.text().contains('\x1b'), "{:?}", top.text());
    for arguments in [
        &["replay", &trace][..],
        &["check", &trace],
        &["map", &trace],
        &["plan", "640"],
        &["frag", "tests/buddyinfo.txt"],
        &["walkthrough", "buddy", "--speed", "1000"],
    ] {
        for environment in [&dumb[..], &[("TERM", "xterm"), ("NO_COLOR", "1")]] {
            let mut run = OnTerminal::start_with(arguments, environment);
            let status = run.end().code();
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(status, Some(0), "{arguments:?}: {}", run.text());
            let text = run.text();
            let is_plain = match environment[0].1 {
                "dumb" => !text.contains('\x1b'),
                // Progress bars may move the cursor there.
                _ => !text.split('\x1b').any(|part| part.starts_with("[3")),
            };
            assert!(is_plain, "{arguments:?}, {environment:?}: {text:?}");
        }
    }
    let mut run = OnTerminal::start_with(&["plan", "640"], &[("TERM", "xterm"), ("NO_COLOR", "")]);
    assert_eq!(run.end().code(), Some(0));
    std::thread::sleep(Duration::from_millis(50));
    assert!(run.text().contains('\x1b'), "a test without colours could not fail");
}

#[test]
fn what_is_no_slabinfo_is_refused_once_and_on_a_terminal() {
    let empty = temporary("empty.slabinfo", b"");
    let (status, out, error) = kmem(&["top", "--once", &empty]);
    assert_eq!((status, &*out), (Some(2), ""), "{error}");
    assert_eq!(
        error,
        format!("{empty}: expected `slabinfo - version: 2.1`, 2.0 or 1.1, found an empty file\n")
    );
    let mut top = OnTerminal::start(&[&empty]);
    assert_eq!(top.end().code(), Some(2), "{}", top.text());
}

#[test]
fn a_trace_that_is_none_ends_the_screen_with_its_error() {
    let bad = temporary("bad.csv", b"f,0,0,0\nq\n");
    for arguments in [&["--replay", &bad][..], &["--once", "--replay", &bad]] {
        let mut top = OnTerminal::start(arguments);
        assert_eq!(top.end().code(), Some(2), "{}", top.text());
        std::thread::sleep(Duration::from_millis(100));
        assert!(top.text().contains("bad.csv:2: expected an event"), "{}", top.text());
    }
}

#[test]
fn a_file_that_goes_away_is_waited_for() {
    let path = temporary("coming-and-going.slabinfo", CACHES.as_bytes());
    let mut top = OnTerminal::start(&["-d", "0.1", &path]);
    top.wait_for("filp");
    std::fs::remove_file(&path).expect("it is there");
    top.wait_for("waiting for the file; found now: No such file");
    // The last good state stays, below the note.
    top.wait_for("filp");
    // Half of it is written.
    temporary("coming-and-going.slabinfo", &CACHES.as_bytes()[..40]);
    top.wait_for("waiting for the file; found now: `filp 7 21`");
    temporary("coming-and-going.slabinfo", CACHES.replace("filp", "pipe").as_bytes());
    top.wait_for("pipe");
    top.wait_for("pipe");
    assert!(!top.text().contains("waiting"), "{}", top.text());
    top.keys.write_all(b"q").expect("it reads keys");
    assert_eq!(top.end().code(), Some(0), "{}", top.text());
}

#[test]
fn a_replay_that_is_over_stays_and_says_so() {
    let trace = temporary("short.csv", b"!g,0,G\n!s,0,filp\nA,0,0,40,184,192,0,0\n");
    let mut top = OnTerminal::start(&["-d", "0.1", "--replay", &trace]);
    top.wait_for("the replay has ended");
    top.wait_for("filp");
    top.keys.write_all(b"q").expect("it reads keys");
    assert_eq!(top.end().code(), Some(0), "{}", top.text());
}

#[test]
fn a_file_beside_a_replay_is_refused_as_one_of_them_would_not_be_shown() {
    let path = temporary("beside.slabinfo", CACHES.as_bytes());
    let (status, out, error) = kmem(&["top", "--once", &path, "--replay"]);
    assert_eq!((status, &*out), (Some(2), ""), "{error}");
    assert!(error.contains("cannot be used with"), "{error}");
}

#[test]
fn a_delay_is_a_number_of_seconds() {
    let path = temporary("delayed.slabinfo", CACHES.as_bytes());
    for wrong in ["nan", "inf", "-1", "1e30", "x"] {
        let delay = format!("-d={wrong}");
        let (status, out, error) = kmem(&["top", "--once", &delay, &path]);
        assert_eq!((status, &*out), (Some(2), ""), "{wrong}");
        assert!(error.contains("a number of seconds from 0 to 86400"), "{error}");
    }
    assert_eq!(kmem(&["top", "--once", "-d=0.5", &path]).0, Some(0));
}

/// Objects that the watched program has, of a size of which it has few others.
const OBJECTS: usize = 50_000;

/// Returns how many objects of `cache` are in use, by the file at `path`.
fn active(path: &str, cache: &str) -> Option<usize> {
    // It may be written at this moment.
    let (_, out, _) = kmem(&["top", "-o", path]);
    let line = out.lines().find(|line| line.trim_end().ends_with(cache))?.to_owned();
    line.split_whitespace().nth(1)?.parse().ok()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The program that the next test watches. It frees its objects on the first command and ends on
/// the second.
fn allocate_and_wait() {
    let told = Arc::new(Mutex::new(0));
    let heard = Arc::clone(&told);
    let listener = std::thread::spawn(move || {
        for _ in 0..2 {
            std::io::stdin().read_line(&mut String::new()).expect("somebody writes");
            *heard.lock().expect("nobody panics with it") += 1;
        }
    });
    let mut objects: Vec<Vec<u8>> = (0..OBJECTS).map(|_| vec![1; 700]).collect();
    while !listener.is_finished() {
        if *told.lock().expect("nobody panics with it") == 1 {
            objects.clear();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_program_on_our_malloc_is_watched_while_it_runs() {
    // The test runs itself as that program.
    if std::env::var_os("WATCHED").is_some() {
        return allocate_and_wait();
    }
    let own = std::env::current_exe().expect("a path");
    let target = own.ancestors().nth(3).expect("target, profile, deps");
    // Cargo builds none for tests, as nothing can be linked to it. Other tests use this build too.
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--profile", "preload", "-p", "kmalloc-preload", "--target-dir"])
        .arg(target)
        .status();
    assert!(built.is_ok_and(|status| status.success()), "the library cannot be built");
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "live.slabinfo"].iter().collect();
    let _ = std::fs::remove_file(&path);
    let text = path.to_str().expect("the folder's name is text");
    let mut program = Command::new(&own)
        .args(["--exact", "a_program_on_our_malloc_is_watched_while_it_runs", "--nocapture"])
        .env("WATCHED", "1")
        .env("LD_PRELOAD", target.join("preload/libkmalloc_preload.so"))
        .env("KMALLOC_STATS", &path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("it runs");
    let mut told = program.stdin.take().expect("it is piped");
    wait_until("the program's memory", || {
        active(text, "kmalloc-704").is_some_and(|active| active >= OBJECTS)
    });
    let mut top = OnTerminal::start(&["-d", "0.1", "-s", "a", text]);
    top.wait_for("kmalloc-704");
    told.write_all(b"free\n").expect("it reads");
    wait_until("its end", || {
        active(text, "kmalloc-704").is_some_and(|active| active < OBJECTS / 10)
    });
    told.write_all(b"end\n").expect("it reads");
    assert!(program.wait().is_ok_and(|status| status.success()), "the program did its work");
    top.wait_for("kmalloc");
    top.keys.write_all(b"q").expect("it reads keys");
    assert_eq!(top.end().code(), Some(0), "{}", top.text());
}
