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
    assert!(output.contains("cache QIB_user_(0)"), "{output}");
}

/// Returns the usable frames of a map, as ranges.
fn usable(name: &str) -> Result<Vec<(usize, usize)>, String> {
    let file = BufReader::new(File::open(file(name)).expect("it is there"));
    let map = kmem::memory_map::read(name, file).map_err(|error| error.to_string())?;
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
        ("pagetypeinfo.txt", vec!["Node 0, zone DMA:", "Node 0, zone Normal:"]),
    ] {
        let (status, output, error) = kmem(&["frag", &file(name)]);
        assert_eq!(status, Some(0), "{name}: {error}");
        for zone in zones {
            assert!(output.contains(zone), "{name}: {zone} in {output}");
        }
    }
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
