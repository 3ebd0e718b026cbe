//! The files that commands write: complete or not there, and never over a recording.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{kmem, with_default_signals};

const SCRIPT: &str = "x-1 [001] 5.000000: kfree: call_site=f ptr=0x10\n";
const TRACE: &str = "!g,0,G\n!s,0,filp\nA,0,0,40,184,192,0,0\n";
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// An empty folder of its own for each test.
fn folder(name: &str) -> PathBuf {
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "files", name].iter().collect();
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("there is room");
    folder
}

fn write(path: &Path, text: &str) -> String {
    fs::write(path, text).expect("there is room");
    path.to_str().expect("of text").to_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .expect("it is there")
        .map(|entry| entry.expect("it is there").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Each command that writes a file, and the option that names the file or folder.
fn writers<'t>(trace: &'t str, script: &'t str) -> Vec<Vec<&'t str>> {
    let mut writers = vec![
        vec!["import", script, "-o"],
        vec!["map", trace, "--svg"],
        vec!["walkthrough", "buddy", "--html"],
        vec!["walkthrough", "buddy", "--svg"],
    ];
    for option in
        ["--report", "--json", "--csv", "--svg", "--slabinfo", "--buddyinfo", "--pagetypeinfo"]
    {
        writers.push(vec!["replay", trace, option]);
    }
    writers
}

fn is_folder(writer: &[&str]) -> bool {
    matches!(writer.last(), Some(&"--svg" | &"--csv"))
}

#[test]
fn every_output_is_whole_and_nothing_lies_beside_it() {
    let at = folder("whole");
    let inputs = folder("whole-inputs");
    let (trace, script) = (write(&inputs.join("t.csv"), TRACE), write(&inputs.join("s"), SCRIPT));
    for (index, mut writer) in writers(&trace, &script).into_iter().enumerate() {
        let place = at.join(index.to_string());
        writer.push(place.to_str().expect("of text"));
        let (status, _, error) = kmem(&writer);
        assert_eq!(status, Some(0), "{writer:?}: {error}");
        match place.is_dir() {
            true => assert!(!names(&place).is_empty(), "{writer:?}"),
            false => assert!(fs::metadata(&place).is_ok_and(|file| file.len() > 0), "{writer:?}"),
        }
        let hidden = |name: &String| name.starts_with('.');
        assert!(!names(&at).iter().any(hidden), "{writer:?}: {:?}", names(&at));
        assert!(!place.is_dir() || !names(&place).iter().any(hidden), "{writer:?}");
    }
}

#[test]
fn an_output_that_cannot_be_written_costs_no_work_and_changes_nothing() {
    let at = folder("refused");
    let inputs = folder("refused-inputs");
    let (trace, script) = (write(&inputs.join("t.csv"), TRACE), write(&inputs.join("s"), SCRIPT));
    let kept = write(&at.join("kept"), "what was there");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o444)).expect("it is ours");
    let target = write(&at.join("target"), "what was there");
    symlink(&target, at.join("link")).expect("links can be made");
    symlink(at.join("nothing"), at.join("dangling")).expect("links can be made");
    let before = names(&at);
    let places = ["kept", "link", "dangling", "missing/file", "."].map(|place| at.join(place));
    for mut writer in writers(&trace, &script).into_iter().filter(|writer| !is_folder(writer)) {
        for path in &places {
            writer.push(path.to_str().expect("of text"));
            let (status, out, error) = kmem(&writer);
            assert_eq!((status, &*out), (Some(2), ""), "{writer:?}: {error}");
            assert!(error.contains("expected a file that can be written"), "{writer:?}: {error}");
            assert!(error.lines().count() == 1, "{writer:?}: {error}");
            writer.pop();
        }
    }
    assert_eq!(names(&at), before);
    for file in [&kept, &target] {
        assert_eq!(fs::read_to_string(file).expect("it is there"), "what was there");
    }
}

#[test]
fn a_folder_with_a_link_or_a_recording_in_it_is_refused_before_the_work() {
    let inputs = folder("folders-inputs");
    let trace = write(&inputs.join("t.csv"), TRACE);
    for (option, name) in [("--csv", "memory.csv"), ("--svg", "map-owner.svg")] {
        let at = folder("folders");
        write(&at.join(name), TRACE);
        let (status, out, error) = kmem(&["replay", &trace, option, at.to_str().expect("of text")]);
        assert_eq!((status, &*out), (Some(2), ""), "{error}");
        assert!(error.contains("a recorded trace, which stays as it is"), "{error}");
        fs::remove_file(at.join(name)).expect("it is there");
        symlink(&trace, at.join(name)).expect("links can be made");
        let (status, out, error) = kmem(&["replay", &trace, option, at.to_str().expect("of text")]);
        assert_eq!((status, &*out), (Some(2), ""), "{error}");
        assert!(error.contains("a symbolic link, which is not followed"), "{error}");
        assert_eq!(names(&at), [name]);
    }
}

#[test]
fn recordings_of_every_kind_stay_without_force() {
    let at = folder("recordings");
    let (trace, script) = (write(&at.join("t.csv"), TRACE), write(&at.join("s"), SCRIPT));
    let recordings = [
        SCRIPT,
        TRACE,
        "# kmem-compact 1\n",
        "PERFILE2 and more",
        "\u{17}\u{8}Dtracing6",
        "(\u{b5}/\u{fd}",
        "slabinfo - version: 2.1\n# name\n",
        "Node 0, zone Normal 1 2 3\n",
        "BIOS-e820: [mem 0x0-0xfff] usable\n",
    ];
    for recording in recordings {
        // A zstd frame begins with bytes that are no text.
        let bytes: Vec<u8> = recording.chars().map(|character| character as u8).collect();
        for mut writer in writers(&trace, &script).into_iter().filter(|writer| !is_folder(writer)) {
            let place = at.join("recording");
            fs::write(&place, &bytes).expect("there is room");
            writer.push(place.to_str().expect("of text"));
            let (status, _, error) = kmem(&writer);
            assert_eq!(status, Some(2), "{writer:?} over {recording:?}: {error}");
            assert!(error.contains("--force"), "{error}");
            assert_eq!(fs::read(&place).expect("it is there"), bytes);
            writer.push("--force");
            let (status, _, error) = kmem(&writer);
            assert_eq!(status, Some(0), "{writer:?} over {recording:?}: {error}");
            assert_ne!(fs::read(&place).expect("it is there"), bytes);
        }
    }
}

#[test]
fn two_outputs_do_not_share_a_file() {
    let at = folder("shared");
    let trace = write(&at.join("t.csv"), TRACE);
    let (one, same) = (at.join("out"), at.join(".").join("out"));
    let [one, same] = [&one, &same].map(|path| path.to_str().expect("of text"));
    let (status, _, error) = kmem(&["replay", &trace, "--report", one, "--json", same]);
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("the file of another output"), "{error}");
    assert_eq!(names(&at), ["t.csv"]);
}

#[test]
fn devices_and_pipes_are_written_directly() {
    let at = folder("devices");
    let (trace, script) = (write(&at.join("t.csv"), TRACE), write(&at.join("s"), SCRIPT));
    for mut writer in writers(&trace, &script).into_iter().filter(|writer| !is_folder(writer)) {
        writer.push("/dev/null");
        let (status, _, error) = kmem(&writer);
        assert_eq!(status, Some(0), "{writer:?}: {error}");
        writer.pop();
        writer.push("/dev/stdout");
        let (status, out, error) = kmem(&writer);
        assert_eq!(status, Some(0), "{writer:?}: {error}");
        assert!(!out.is_empty(), "{writer:?}");
        // Standard output may be a file, which `/dev/stdout` continues and does not begin anew.
        let file = fs::File::create(at.join("redirected")).expect("there is room");
        let run = Command::new(env!("CARGO_BIN_EXE_kmem")).args(&writer).stdout(file).status();
        assert!(run.expect("it runs").success());
        let redirected = fs::read(at.join("redirected")).expect("it is there");
        if writer[0] != "replay" {
            assert_eq!(redirected.len(), out.len(), "{writer:?}");
        }
    }
    assert!(fs::metadata("/dev/null").expect("it is there").file_type().is_char_device());
}

/// Starts an import that waits for the rest of its input.
fn waiting_import(output: &Path) -> Child {
    let mut import = Command::new(env!("CARGO_BIN_EXE_kmem"));
    import.args(["import", "-", "-o"]).arg(output).stdin(Stdio::piped()).stderr(Stdio::null());
    with_default_signals(&mut import).spawn().expect("it runs")
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn signals_leave_no_temporary_file_and_keep_the_old_one() {
    use std::os::unix::process::ExitStatusExt;
    for (name, signal) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15)] {
        let at = folder("signals");
        let output = at.join("out.csv");
        write(&output, "what was there");
        let mut child = waiting_import(&output);
        wait_for("the temporary file", || names(&at).len() == 2);
        let kill = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(kill.expect("it runs").success());
        // Closing the input would end the import.
        let input = child.stdin.take();
        let status = child.wait().expect("it is our child");
        drop(input);
        assert_eq!(status.signal(), Some(signal), "{name}");
        assert_eq!(names(&at), ["out.csv"], "{name}");
        assert_eq!(fs::read_to_string(&output).expect("it is there"), "what was there");
    }
}

#[test]
fn a_signal_that_is_ignored_from_the_start_stays_ignored() {
    use std::io::Write;
    let at = folder("nohup");
    let output = at.join("out.csv");
    let mut child = Command::new("sh")
        .args(["-c", "trap '' HUP; exec \"$0\" import - -o \"$1\"", env!("CARGO_BIN_EXE_kmem")])
        .arg(&output)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    wait_for("the temporary file", || names(&at).len() == 1);
    let kill = Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status();
    assert!(kill.expect("it runs").success());
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(SCRIPT.as_bytes()).expect("it reads");
    drop(input);
    assert!(child.wait().expect("it is our child").success());
    assert_eq!(names(&at), ["out.csv"]);
}

#[test]
fn an_error_after_the_output_was_opened_leaves_nothing() {
    use std::io::Write;
    let at = folder("errors");
    let output = at.join("out.csv");
    let mut child = waiting_import(&output);
    let mut input = child.stdin.take().expect("it is piped");
    // Events of another kind alone: at the end of the input it turns out to be no recording.
    input.write_all(b"x-1 [001] 5.000000: sched_switch: prev_comm=x\n").expect("it reads");
    drop(input);
    assert_eq!(child.wait().expect("it is our child").code(), Some(2));
    assert!(names(&at).is_empty(), "{:?}", names(&at));
}
