//! Standard output that takes nothing.

use std::fs::File;
use std::process::{Command, Stdio};

#[test]
fn an_error_that_cannot_be_said_has_its_status_all_the_same() {
    for arguments in [&["replay", "/nowhere"][..], &["import", "/nowhere"], &["plan", "0"]] {
        let full = File::options().write(true).open("/dev/full").expect("Linux has one");
        let mut command = Command::new(env!("CARGO_BIN_EXE_kmem"));
        let status = command.args(arguments).stdin(Stdio::null()).stderr(full).status();
        assert_eq!(status.expect("it runs").code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_full_device_is_no_finding_but_status_2_of_every_command() {
    let trace: std::path::PathBuf = [env!("CARGO_TARGET_TMPDIR"), "one-free.csv"].iter().collect();
    let script = trace.with_extension("txt");
    let buddyinfo = trace.with_extension("buddyinfo");
    let slabinfo = trace.with_extension("slabinfo");
    for (path, text) in [
        (&trace, "f,0,0,0\n"),
        (&script, "x-1 [001] 5.000000: kfree: call_site=f ptr=0x10\n"),
        (&buddyinfo, "Node 0, zone Normal 0 0 0 0 0 0 0 0 0 0 8\n"),
        (&slabinfo, "slabinfo - version: 2.1\n"),
    ] {
        std::fs::write(path, text).expect("there is room");
    }
    let [trace, script, buddyinfo, slabinfo] =
        [&trace, &script, &buddyinfo, &slabinfo].map(|path| path.to_str().expect("of text"));
    for arguments in [
        &[][..],
        &["walkthrough", "all"],
        &["walkthrough", "buddy", "--plain"],
        &["replay", trace],
        &["replay", "--json", "-", trace],
        &["replay", "--json", "/dev/full", trace],
        &["import", script],
        &["check", trace],
        &["map", trace],
        &["frag", buddyinfo],
        &["plan", "640"],
        &["top", "--once", slabinfo],
        &["top", "--once", "--replay", trace],
        &["completions", "bash"],
    ] {
        let full = File::options().write(true).open("/dev/full").expect("Linux has one");
        let output = Command::new(env!("CARGO_BIN_EXE_kmem"))
            .arg("--quiet")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(full)
            .stderr(Stdio::piped())
            .spawn()
            .and_then(std::process::Child::wait_with_output)
            .expect("it runs");
        let error = String::from_utf8(output.stderr).expect("it is text");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains("No space left on device"), "{arguments:?}: {error}");
    }
}
