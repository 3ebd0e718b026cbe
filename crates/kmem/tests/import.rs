//! `kmem import`: text that is part of the repository, and recordings made on the spot where that
//! is possible.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn kmem(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs")
}

/// Returns the name of a file that is not there: one of the last run's would not be written over.
fn temporary(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_TARGET_TMPDIR"), name].iter().collect();
    let _ = std::fs::remove_file(&path);
    path.to_str().expect("the folder's name is text").to_owned()
}

/// Returns a number of the replay's JSON.
fn total(trace: &str, field: &str) -> u64 {
    let output = kmem(&["replay", "--json", "-", trace]);
    let json = String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = format!("\"{field}\": ");
    let number = json.split(&*begin).nth(1).and_then(|rest| rest.split([',', '\n']).next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{field} in {json}"))
}

const SCRIPT: &str = "\
a program 7 [000]  1.000000001: kmem:kmalloc: call_site=f+0x1 ptr=0xffff888000001000 bytes_req=20 bytes_alloc=32 gfp_flags=GFP_KERNEL
a program 7 [001]  1.000000101: kmem:kmem_cache_alloc: call_site=f+0x1 ptr=0xffff888000002000 name=filp bytes_req=184 bytes_alloc=192 gfp_flags=GFP_KERNEL
a program 7 [001]  1.000000201: kmem:kfree: call_site=f+0x1 ptr=0xffff888000001000
a program 7 [001]  1.000000301: kmem:mm_page_alloc: page=0x10 pfn=0x10 order=2 migratetype=1 gfp_flags=GFP_HIGHUSER
";

#[test]
fn text_becomes_a_trace_that_replays_and_names_no_program() {
    let (script, trace) = (temporary("script.txt"), temporary("script.csv"));
    std::fs::write(&script, SCRIPT).expect("there is room");
    let output = kmem(&["import", "--lost-events-shown", &script, "-o", &trace]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = std::fs::read_to_string(&trace).expect("it was written");
    assert!(
        !text.contains("program") && text.contains("!s,1,filp\nA,100,1,2000,184,192,0,1,0\n"),
        "{text}"
    );
    assert_eq!(total(&trace, "events"), 4);
    assert_eq!((total(&trace, "bytes_requested"), total(&trace, "peak_live_pages")), (204, 4));
    let to_output = kmem(&["import", "--lost-events-shown", "--quiet", &script]);
    assert_eq!(String::from_utf8_lossy(&to_output.stdout), text);
    assert!(to_output.stderr.is_empty());
}

#[test]
fn lost_events_and_what_is_no_recording_have_their_exit_status() {
    let script = temporary("lost.txt");
    std::fs::write(&script, format!("CPU:1 [LOST 5 EVENTS]\n{SCRIPT}")).expect("there is room");
    let output = kmem(&["import", &script]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("The recording lost 5 events"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("# lost 5 events"));
    for (name, bytes) in
        [("text", &b"no event\n"[..]), ("binary", &[0xff, 0, 1, 2]), ("cut", b"PERFILE2")]
    {
        let path = temporary(name);
        std::fs::write(&path, bytes).expect("there is room");
        let output = kmem(&["import", &path]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), error.lines().count()), (Some(2), 1), "{error}");
        assert!(error.contains("expected ") && error.contains(", found "), "{error}");
        assert!(output.stdout.is_empty(), "nothing is written for {name}");
        let kept = temporary("kept.csv");
        std::fs::write(&kept, "what was there").expect("there is room");
        assert_eq!(kmem(&["import", &path, "-o", &kept]).status.code(), Some(2));
        assert_eq!(std::fs::read_to_string(&kept).expect("it is there"), "what was there");
    }
}

#[test]
fn a_recording_that_is_cut_leaves_what_was_there_and_no_half_trace() {
    let events = (0..100_000).map(|n: u64| {
        let address = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let time = format!("{}.{:06}", 1 + n / 1_000_000, n % 1_000_000);
        format!("p 7 [000] {time}: kmem:kfree: call_site=f ptr=0xffff8880{address:08x}\n")
    });
    let (script, packed) = (temporary("long.txt"), temporary("long.txt.zst"));
    std::fs::write(&script, events.collect::<String>()).expect("there is room");
    let zstd = Command::new("zstd").args(["-qf", &script, "-o", &packed]).status();
    if !zstd.is_ok_and(|status| status.success()) {
        println!("zstd is not there: nothing is cut");
        return;
    }
    // Cut far behind the first event, so that much is written before.
    let whole = std::fs::read(&packed).expect("it is there");
    std::fs::write(&packed, &whole[..whole.len() - 9]).expect("there is room");
    let kept = temporary("kept-from-a-cut-one.csv");
    for there in [false, true] {
        if there {
            std::fs::write(&kept, "what was there").expect("there is room");
        }
        let cut = kmem(&["import", &packed, "-o", &kept]);
        assert_eq!(cut.status.code(), Some(2), "{cut:?}");
        let error = String::from_utf8_lossy(&cut.stderr).into_owned();
        assert!(error.contains("expected the rest of a zstd frame"), "{error}");
        let left = std::fs::read_to_string(&kept).ok();
        assert_eq!(left.as_deref(), there.then_some("what was there"));
    }
    std::fs::write(&script, SCRIPT).expect("there is room");
    let output = kmem(&["import", "--lost-events-shown", &script, "-o", &kept]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(total(&kept, "events"), 4);
}

#[test]
fn a_recording_is_not_written_over_and_a_full_device_is_named() {
    let script = temporary("itself.txt");
    std::fs::write(&script, SCRIPT).expect("there is room");
    let error_of = |output: &str| {
        let output = kmem(&["import", &script, "-o", output]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).expect("it is text")
    };
    assert!(error_of(&script).ends_with("expected a file to write, found the recording itself\n"));
    assert_eq!(std::fs::read_to_string(&script).expect("it is there"), SCRIPT);
    let trace = temporary("earlier.csv");
    std::fs::write(&trace, "# kmem-compact 1\n").expect("there is room");
    let kept = "found a recorded trace, which stays as it is without --force\n";
    assert!(error_of(&trace).ends_with(kept));
    assert_eq!(std::fs::read_to_string(&trace).expect("it is there"), "# kmem-compact 1\n");
    assert!(
        error_of("/dev/full").starts_with("/dev/full: expected a file that can be written, found ")
    );
    assert!(
        error_of("/nowhere/t")
            .starts_with("/nowhere/t: expected a file that can be written, found ")
    );
}

#[test]
fn a_recording_that_was_cut_says_so_and_a_long_line_is_not_shown() {
    let Some(folder) = std::env::var_os("KTRACE_DIR").map(PathBuf::from) else {
        println!("KTRACE_DIR is not set: there is no recording to cut");
        return;
    };
    let whole =
        std::fs::read(folder.join("compile.perf-script-1000.txt.zst")).expect("it is there");
    let cut = temporary("cut.txt.zst");
    for bytes in [1, 4, 20, 300, 3000, whole.len() - 1] {
        std::fs::write(&cut, &whole[..bytes]).expect("there is room");
        let error = kmem(&["import", &cut]).stderr;
        let expected =
            format!("{cut}: expected the rest of a zstd frame, found the end of the file\n");
        assert_eq!(String::from_utf8_lossy(&error), expected, "{bytes} bytes");
    }
}

/// The first lines of full recordings, where `KTRACE_DIR` names their folder.
#[test]
fn the_text_of_real_recordings_is_read() {
    let Some(folder) = std::env::var_os("KTRACE_DIR").map(PathBuf::from) else {
        println!("KTRACE_DIR is not set: texts of perf and ftrace are not read");
        return;
    };
    let imported = |name: &str| {
        let output = kmem(&[
            "import",
            "--lost-events-shown",
            folder.join(name).to_str().expect("a path of text"),
        ]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("a trace is text");
        text.lines().filter(|line| !line.starts_with(['#', '!'])).count()
    };
    // Of 1,000 lines, 80 repeat the free of a page, and five free null.
    assert_eq!(imported("compile.perf-script-1000.txt.zst"), 915);
    let ftrace = imported("sample.ftrace.txt");
    assert!((800..1000).contains(&ftrace), "{ftrace}");
}

/// Records the kernel's events while something runs; `None` where that is not possible.
fn record(path: &str) -> Option<()> {
    let perf = |arguments: &[&str]| {
        let run = Command::new("perf").args(arguments).stdin(Stdio::null()).output();
        run.ok().filter(|output| output.status.success())
    };
    let _ = std::fs::remove_file(path);
    perf(&["record", "-q", "-m", "4096", "-e", "kmem:*", "-a", "-o", path, "--", "true"])?;
    Path::new(path).exists().then_some(())
}

#[test]
fn a_recording_made_here_has_the_totals_that_perf_says() {
    let (data, text) = (temporary("perf.data"), temporary("perf.txt"));
    if record(&data).is_none() {
        println!("perf is not there, or may not record: nothing is compared");
        return;
    }
    let script = Command::new("perf")
        .args(["script", "--ns", "-i", &data, "-F", "comm,tid,cpu,time,event,trace"])
        .stdin(Stdio::null())
        .output()
        .expect("it ran before");
    std::fs::write(&text, &script.stdout).expect("there is room");
    let stat = Command::new("perf")
        // Behind `stat` perf does not look for a file's name.
        .args(["kmem", "-i", &data, "stat", "--slab"])
        .stdin(Stdio::null())
        .output()
        .expect("it ran before");
    let refused = String::from_utf8_lossy(&stat.stderr).into_owned();
    let stat = String::from_utf8_lossy(&stat.stdout).into_owned();
    let says = |what: &str| -> Option<u64> {
        let rest = stat.split(what).nth(1)?;
        rest.split_whitespace().next()?.replace(',', "").parse().ok()
    };
    let (Some(requested), Some(allocated)) =
        (says("Total bytes requested:"), says("Total bytes allocated:"))
    else {
        println!("perf kmem stat said nothing that can be compared: {stat}{refused}");
        return;
    };
    let mut sources = vec![&text];
    if cfg!(feature = "perf-data") {
        sources.push(&data);
    }
    for source in sources {
        let trace = temporary("recorded.csv");
        let output = kmem(&["import", source, "-o", &trace]);
        assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
        assert_eq!(total(&trace, "bytes_requested"), requested, "{source}");
        assert_eq!(total(&trace, "bytes_allocated_traced"), allocated, "{source}");
    }
}

/// Records as [`record`] does, with more options; `None` where perf is not there or may not.
#[cfg(feature = "perf-data")]
fn record_with(options: &[&str], data: &str) -> Option<Vec<u8>> {
    let output = Command::new("perf")
        .args(["record", "-q", "-e", "kmem:*", "-a", "-m", "4096"])
        .args(options)
        .args(["-o", data, "--", "true"])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then_some(output.stdout)
}

#[test]
fn zstd_around_a_recording_of_text_is_unpacked_from_standard_input_too() {
    let (script, packed) = (temporary("packed.txt"), temporary("packed.txt.zst"));
    std::fs::write(&script, SCRIPT).expect("there is room");
    let zstd = Command::new("zstd").args(["-qf", &script, "-o", &packed]).status();
    if !zstd.is_ok_and(|status| status.success()) {
        println!("zstd is not there: nothing is packed");
        return;
    }
    let plain = kmem(&["import", "-q", &script]).stdout;
    assert_eq!(kmem(&["import", "-q", &packed]).stdout, plain);
    let from_input = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(["import", "-q", "-"])
        .stdin(std::fs::File::open(&packed).expect("it is there"))
        .output()
        .expect("it runs");
    assert_eq!(from_input.stdout, plain);
}

/// Mutation that it catches: the end of a stream within a record is the end of the recording.
#[cfg(feature = "perf-data")]
#[test]
fn a_piped_recording_that_is_cut_has_lost_events() {
    let Some(piped) = record_with(&[], "-") else {
        println!("perf is not there, or may not record: nothing is cut");
        return;
    };
    // Records are multiples of eight bytes long.
    let cut = temporary("cut.data");
    std::fs::write(&cut, &piped[..piped.len() / 64 * 56 + 3]).expect("there is room");
    let output = kmem(&["import", &cut, "--force", "-o", &temporary("cut.csv")]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("an unknown number of events"), "{error}");
}

#[test]
fn what_cannot_be_read_is_refused_with_what_can() {
    let folder = temporary("perf-folder");
    std::fs::create_dir_all(&folder).expect("there is room");
    std::fs::write(format!("{folder}/data"), "PERFILE2").expect("there is room");
    let refused = |input: &str| {
        let output = kmem(&["import", input]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = refused(&folder);
    assert!(error.contains(&format!("perf record --kcore; import {folder}/data")), "{error}");
    std::fs::write(format!("{folder}/data.0"), "").expect("there is room");
    let error = refused(&folder);
    assert!(error.contains("--threads; import the text of perf script"), "{error}");
    std::fs::remove_file(format!("{folder}/data.0")).expect("it was written");
    let recording = temporary("trace.dat");
    std::fs::write(&recording, b"\x17\x08\x44tracing6\0\0\x08").expect("there is room");
    let error = refused(&recording);
    assert!(error.contains("import the text of trace-cmd report"), "{error}");
}

#[cfg(feature = "perf-data")]
#[test]
fn compressed_and_piped_recordings_are_read_also_inside_zstd() {
    let file = temporary("compressed.data");
    if record_with(&["-z"], &file).is_none() {
        println!("perf is not there, or may not record: nothing is read");
        return;
    }
    let others = temporary("with-others.data");
    // Samples of a clock have no raw bytes.
    record_with(&["-e", "cpu-clock"], &others).expect("it recorded before");
    let mut recordings = vec![file, others];
    for (name, options) in [("piped.data", &[][..]), ("piped-and-compressed.data", &["-z"])] {
        let piped = record_with(options, "-").expect("it recorded before");
        recordings.push(temporary(name));
        std::fs::write(recordings.last().expect("one was added"), piped).expect("there is room");
    }
    for recording in recordings {
        let script = Command::new("perf")
            .args(["script", "--ns", "--show-lost-events", "-i", &recording])
            .args(["-F", "comm,tid,cpu,time,event,trace"])
            .stdin(Stdio::null())
            .output()
            .expect("it ran before");
        let (text, trace) = (temporary("script-of.txt"), temporary("compressed.csv"));
        std::fs::write(&text, &script.stdout).expect("there is room");
        let import = |input: &str| {
            let output = kmem(&["import", input, "--force", "-o", &trace]);
            assert!(matches!(output.status.code(), Some(0 | 1)), "{input}: {output:?}");
            ["events", "bytes_requested", "bytes_allocated_traced"].map(|name| total(&trace, name))
        };
        let expected = import(&text);
        assert!(expected[0] > 100, "{recording}: {expected:?}");
        assert_eq!(import(&recording), expected, "{recording}");
        let packed = format!("{recording}.zst");
        let zstd = Command::new("zstd").args(["-qf", &recording, "-o", &packed]).status();
        if zstd.is_ok_and(|status| status.success()) {
            assert_eq!(import(&packed), expected, "{packed}");
        }
    }
}
