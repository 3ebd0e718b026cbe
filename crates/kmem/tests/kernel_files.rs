//! Files in the formats of real kernels and tools, each with the oddity that its name says: `kmem`
//! reads what can be read, and says what cannot.

mod common;

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use common::kmem;

fn file(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/kernel_files", name].iter().collect();
    path.to_str().expect("the folder's name is text").to_owned()
}

/// Imports a recording; returns the trace's name, the exit status and standard error.
fn imported(name: &str) -> (String, Option<i32>, String) {
    let trace: PathBuf = [env!("CARGO_TARGET_TMPDIR"), &format!("{name}.trace")].iter().collect();
    let _ = std::fs::remove_file(&trace);
    let trace = trace.to_str().expect("the folder's name is text").to_owned();
    let (status, _, error) = kmem(&["import", &file(name), "-o", &trace]);
    (trace, status, error)
}

#[test]
fn losses_are_kept_in_the_trace_and_said_by_every_command() {
    for (name, lost) in [
        ("lost-events.ftrace", "an unknown number of events in 1 place"),
        ("tracecmd-report.txt", "204,600 events"),
        ("tracecmd-dropped-nonum.txt", "an unknown number of events in 1 place"),
        ("overrun.ftrace", "977,266 events"),
    ] {
        let (trace, status, error) = imported(name);
        assert_eq!(status, Some(1), "{name}: {error}");
        assert!(error.contains(&format!("The recording lost {lost}")), "{name}: {error}");
        let commands: [&[&str]; 5] = [
            &["check", &trace],
            &["replay", &trace],
            &["map", "--by", "owner", "--memory", "16M", &trace],
            &["diff", &trace, &trace],
            &["top", "--once", "--replay", &trace],
        ];
        for command in commands {
            let (status, output, _) = kmem(command);
            assert_eq!(status, Some(1), "{command:?}: {output}");
            assert!(output.contains(&format!("lost {lost}")), "{command:?}: {output}");
        }
    }
    let (trace, ..) = imported("tracecmd-report.txt");
    let (_, json, _) = kmem(&["replay", "--json", "-", &trace]);
    assert!(json.contains("\"lost_events\": 204600"), "{json}");
    assert!(json.contains("\"uncounted_losses\": 0"), "{json}");
    assert!(json.contains("\"losses_known\": true"), "{json}");
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "csv-of-losses"].iter().collect();
    let folder = folder.to_str().expect("the folder's name is text");
    let (status, ..) = kmem(&["replay", "--memory", "16M", "--csv", folder, &trace]);
    assert_eq!(status, Some(1));
    let totals = std::fs::read_to_string(format!("{folder}/totals.csv")).expect("it was written");
    assert!(totals.contains("\r\nlost_events,204600\r\n"), "{totals}");
}

#[test]
fn text_of_perf_that_hides_losses_leaves_them_open_in_every_command() {
    let (trace, status, error) = imported("rhel6.txt");
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("perf script tells with --show-lost-events"), "{error}");
    for command in ["check", "replay"] {
        let (status, output, _) = kmem(&[command, &trace]);
        assert_eq!(status, Some(1), "{output}");
        assert!(output.contains("Lost events: not known"), "{output}");
        assert!(!output.contains("Nothing is lost"), "{output}");
    }
    let (_, json, _) = kmem(&["replay", "--json", "-", &trace]);
    assert!(json.contains("\"losses_known\": false"), "{json}");
}

#[test]
fn a_second_free_is_a_mistake_unless_events_were_lost_before_it() {
    let (trace, ..) = imported("lost-between.ftrace");
    let (_, output, _) = kmem(&["check", &trace]);
    assert!(output.contains("freed twice                        0"), "{output}");
    assert!(output.contains("freed twice by losses              1"), "{output}");
    let (trace, ..) = imported("lost-before.ftrace");
    let (_, output, _) = kmem(&["check", &trace]);
    assert!(output.contains("freed twice                        1"), "{output}");
}

#[test]
fn a_failed_allocation_is_left_out() {
    let (trace, status, error) = imported("pagefail.ftrace");
    assert_eq!(status, Some(0), "{error}");
    assert!(error.contains("3 allocations of pages failed"), "{error}");
    let (status, output, _) = kmem(&["check", "--whole", &trace]);
    assert_eq!(status, Some(0), "{output}");
}

#[test]
fn hidden_pointers_are_an_error() {
    let (trace, status, error) = imported("ptrval.ftrace");
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains("pointers that the kernel has hidden"), "{error}");
    assert!(!PathBuf::from(trace).exists(), "nothing is written");
}

#[test]
fn frees_of_old_kernels_count_and_names_stay_whole() {
    let (trace, ..) = imported("rhel6.txt");
    let (_, output, _) = kmem(&["check", &trace]);
    assert!(output.contains("live at the end                    0"), "{output}");
    let (trace, ..) = imported("v-comma.txt");
    let (_, output, _) = kmem(&["check", &trace]);
    assert!(output.contains("cache QIB user (0)"), "{output}");
    let (_, output, _) = kmem(&["replay", &trace]);
    assert!(output.contains("  QIB user (0) "), "{output}");
    let slabs = format!("{}/v-comma.slabinfo", env!("CARGO_TARGET_TMPDIR"));
    let (status, ..) = kmem(&["replay", "--force", "--slabinfo", &slabs, &trace]);
    assert_eq!(status, Some(1), "the recording does not show losses");
    let (_, output, _) = kmem(&["top", "--once", &slabs]);
    for name in ["QIB user (0)", "a,b \"c\""] {
        let is_there = output.lines().any(|line| line.trim_end().ends_with(name));
        assert!(is_there, "{name} in {output}");
    }
}

/// Returns the usable frames of a map, as ranges.
fn usable(name: &str) -> Result<Vec<(usize, usize)>, String> {
    let file = BufReader::new(File::open(file(name)).expect("it is there"));
    let map =
        kmem::kernel_files::memory_map::read(name, file).map_err(|error| error.to_string())?;
    Ok(map.runs.iter().map(|run| (run.start.get(), run.end.get())).collect())
}

#[test]
fn memory_maps_of_all_dialects_are_read() {
    for (name, expected) in [
        ("e820-26.txt", vec![(0, 0x9f), (0x100, 0x3ff90), (0x100000, 0x140000)]),
        ("e820-dmesg.txt", vec![(1, 0x9f), (0x100, 0x3ffe0)]),
        ("e820-virtual.txt", vec![(1, 0x9f), (0x100, 0xc0000), (0x100000, 0x640000)]),
        ("e820-nogap.txt", vec![(0, 0x9f), (0x100, 0x3ffe0), (0x100000, 0x140000)]),
        ("e820-hole2.txt", vec![(0, 0x9f), (0x100, 0x1000)]),
        ("e820-crlf.txt", vec![(0, 0x9f), (0x100, 0x8000)]),
        ("e820-journal.txt", vec![(0, 0x9f), (0x200, 0x8000)]),
        ("iomem-arm64.txt", vec![(0x40000, 0xc0000), (0x100000, 0x140000)]),
        ("iomem.txt", vec![(1, 0x9f), (0x100, 0x3ffe0), (0x100000, 0x140000)]),
    ] {
        assert_eq!(usable(name), Ok(expected), "{name}");
    }
    let error = usable("iomem-hidden.txt").expect_err("only root sees addresses");
    assert!(error.contains("only root may read"), "{error}");
}

#[test]
fn one_odd_line_of_slabinfo_does_not_refuse_the_file() {
    for (name, rows, complaint) in [
        ("slab-stat.txt", vec!["dentry", "kmalloc-64"], None),
        ("slab-wrap.txt", vec!["nf_conntrack", "filp"], Some("2 numbers cannot be right")),
        ("slab-names.txt", vec!["QIB user (0)", "#odd", "dm-crypt #3", ":A-0000192"], None),
        ("slab-names2.txt", vec!["#odd", "request_sock_TCP(12:foo)"], None),
        ("slab-bom.txt", vec!["caf\u{fffd}", "filp"], Some("1 line is left out")),
        ("slab-old.txt", vec!["kmem_cache", "size-4096"], None),
        ("slab-2.0.txt", vec!["dentry_cache", "size-4096"], None),
    ] {
        let (status, output, error) = kmem(&["top", "--once", &file(name)]);
        assert_eq!(status, Some(0), "{name}: {error}");
        for row in rows {
            let is_there = output.lines().any(|line| line.trim_end().ends_with(row));
            assert!(is_there, "{name}: {row} in {output}");
        }
        match complaint {
            Some(complaint) => assert!(output.contains(complaint), "{name}: {output}"),
            None => assert!(!output.contains('?'), "{name}: {output}"),
        }
    }
}

#[test]
fn free_blocks_are_read_from_files_and_from_reports() {
    for (name, zones) in [
        ("buddy-date.txt", vec!["Node 0, zone DMA:", "Node 10, zone Movable:"]),
        ("oom.txt", vec!["Node 0, zone DMA: 15 MiB free", "Node 0, zone DMA32: 55.4 MiB free"]),
        ("oom-report.txt", vec!["Node 0, zone Normal: 4.16 MiB free"]),
        ("oom-2.6.txt", vec!["Node 0, zone DMA: 576 KiB free", "Node 0, zone Normal: 808 KiB"]),
        ("oom-journal.txt", vec!["Node 0, zone Normal: 41.5 MiB free"]),
        ("pagetypeinfo.txt", vec!["Node 0, zone DMA:", "Node 0, zone Normal:"]),
        (
            "pagetypeinfo-numa.txt",
            vec!["Node 1, zone Normal: 781 MiB free in 150,000 blocks", "Node 3, zone Device:"],
        ),
    ] {
        let (status, output, error) = kmem(&["frag", &file(name)]);
        assert_eq!(status, Some(0), "{name}: {error}");
        for zone in zones {
            assert!(output.contains(zone), "{name}: {zone} in {output}");
        }
    }
}

#[test]
fn pages_of_another_size_are_refused_by_their_size() {
    let (status, _, error) = kmem(&["frag", &file("oom-arm64-64k.txt")]);
    assert_eq!(status, Some(2));
    assert!(error.contains("found a kernel with pages of 64 KiB"), "{error}");
}

/// Returns the events of an imported recording, each without its time, and what `import` said.
fn events(name: &str) -> (Vec<String>, String) {
    let (trace, status, error) = imported(name);
    assert!(matches!(status, Some(0 | 1)), "{name}: {error}");
    let trace = std::fs::read_to_string(trace).expect("it was written");
    let event = |line: &str| {
        let (kind, rest) = line.split_once(',')?;
        let (_, rest) = rest.split_once(',')?;
        (kind.len() == 1).then(|| format!("{kind},{rest}"))
    };
    (trace.lines().filter_map(event).collect(), error)
}

/// Mutations that they catch: only a line break ends a line; UTF-16 is read as UTF-8; a mark of
/// `trace_marker` that looks like an event is one.
#[test]
fn recordings_in_the_text_of_other_systems_are_the_same_recordings() {
    let (plain, error) = events("marker.ftrace");
    assert_eq!(
        plain,
        [
            "a,2,12ab34c0,120,128,0,0",
            "A,2,aa5b7000,4096,4096,1,1,2",
            "f,0,12ab34c0",
            "F,2,aa5b7000"
        ]
    );
    assert!(error.contains("1 of other kinds"), "{error}");
    for name in ["old-mac.ftrace", "powershell.ftrace"] {
        assert_eq!(events(name), (plain.clone(), error.clone()), "{name}");
    }
    let text = std::fs::read(file("powershell.ftrace")).expect("it is there");
    let slabs = std::fs::read_to_string(file("slab-2.0.txt")).expect("it is there");
    let utf16: Vec<u8> = slabs.encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert!(text.starts_with(b"\xff\xfe"));
    let path = format!("{}/slabs-utf16.txt", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&path, utf16).expect("there is room");
    assert_eq!(
        kmem(&["top", "--once", &path]).1,
        kmem(&["top", "--once", &file("slab-2.0.txt")]).1
    );
}

#[test]
fn every_form_of_an_event_line_is_read() {
    let chain =
        ["a,3,102e5d800,640,1024,0,0", "p,1,128ecb,0,1,1,1", "P,1,128ecb,0", "f,3,102e5d800"];
    assert_eq!(events("perf-chains.txt").0, chain);
    for (name, cpu) in [("perf-F-ip-sym.txt", 3), ("perf-F-no-cpu.txt", 0)] {
        let expected = [format!("a,{cpu},102e5d800,640,1024,0,0"), format!("f,{cpu},102e5d800")];
        assert_eq!(events(name).0, expected, "{name}");
    }
    let latency = ["a,1,c5a1e400,640,1024,0,0", "p,0,11a2b3,0,1,1", "P,0,11a2b3,0", "f,1,c5a1e400"];
    assert_eq!(events("latency-format.ftrace").0, latency);
    // The call site is the first function of the stack that is none of the page allocator.
    let stack =
        ["a,1,102e5d800,640,1024,0,0", "p,1,128ecb,0,0,1,1", "f,1,102e5d800", "P,1,128ecb,0"];
    assert_eq!(events("tracecmd-stack.txt").0, stack);
    let (trace, ..) = imported("tracecmd-stack.txt");
    assert!(
        std::fs::read_to_string(trace).expect("it is there").contains("!s,1,alloc_slab_page\n")
    );
}

#[test]
fn events_without_a_time_are_refused_with_the_line() {
    let (trace, status, error) = imported("perf-F-notime.txt");
    assert_eq!(status, Some(2), "{error}");
    assert!(error.contains(":1: expected kmem events with a time"), "{error}");
    assert!(error.contains("found `swapper     0 [003] kmem:kmalloc"), "{error}");
    assert!(!PathBuf::from(trace).exists(), "nothing is written");
}

#[test]
fn zstd_around_any_file_of_a_kernel_is_unpacked() {
    let pack = |name: &str| -> Option<String> {
        let packed = format!("{}/{name}.zst", env!("CARGO_TARGET_TMPDIR"));
        let from = format!("tests/kernel_files/{name}");
        let zstd = std::process::Command::new("zstd").args(["-qf", &from, "-o", &packed]).status();
        zstd.is_ok_and(|status| status.success()).then_some(packed)
    };
    let Some(oom) = pack("oom-report.txt") else {
        println!("zstd is not there: nothing is packed");
        return;
    };
    let rest = |out: String| out.split_once('\n').map(|(_, rest)| rest.to_owned());
    let plain = kmem(&["frag", "tests/kernel_files/oom-report.txt"]);
    assert_eq!(rest(kmem(&["frag", &oom]).1), rest(plain.1));
    let slabs = pack("slab-stat.txt").expect("it packed before");
    let plain = kmem(&["top", "--once", "tests/kernel_files/slab-stat.txt"]);
    assert_eq!(kmem(&["top", "--once", &slabs]), plain);
    let map = pack("e820-dmesg.txt").expect("it packed before");
    let trace = format!("{}/map-zstd.csv", env!("CARGO_TARGET_TMPDIR"));
    std::fs::write(&trace, "f,0,0,0\n").expect("there is room");
    let blocks = |map: &str| {
        let (status, out, error) =
            kmem(&["replay", "--map", map, "--zones", "--buddyinfo", "/dev/stdout", &trace]);
        assert_eq!(status, Some(0), "{error}");
        out.lines().filter(|line| line.starts_with("Node ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(blocks(&map), blocks("tests/kernel_files/e820-dmesg.txt"));
    // A stream that is cut is an error, not an empty file.
    let whole = std::fs::read(&oom).expect("it is there");
    std::fs::write(&oom, &whole[..whole.len() - 9]).expect("there is room");
    let (status, _, error) = kmem(&["frag", &oom]);
    assert_eq!(status, Some(2));
    assert!(error.contains("the end of the file instead of the rest of a zstd frame"), "{error}");
}
