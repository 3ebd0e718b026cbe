//! The program as a user runs it.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use kmem::picture::style::{Rest, Style};
use kmem::walkthrough::{Layer, pages, play, walk};

fn kmem(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_kmem")).args(arguments).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("the output is text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn plain_prints_the_states_of_the_example_file() {
    let example = include_str!("../../buddy/tests/buddy-16k.txt");
    let expected: String = example
        .lines()
        .filter_map(|line| line.strip_prefix('#').map_or_else(|| line.split_once("=>"), |_| None))
        .map(|(_, state)| format!("{}\n", state.trim()))
        .collect();
    let (status, out, error) = kmem(&["walkthrough", "buddy", "--plain"]);
    assert_eq!((status, out.as_str(), error.as_str()), (Some(0), expected.as_str(), ""));
}

#[test]
fn both_copies_of_the_example_are_equal() {
    assert_eq!(
        include_str!("../src/walkthrough/example-16k.txt"),
        include_str!("../../buddy/tests/buddy-16k.txt")
    );
}

/// Compares with a recorded output; with `UPDATE_SNAPSHOTS` set, records it instead.
fn assert_recorded(layer: &str, recorded: &str) {
    let (status, out, error) = kmem(&["walkthrough", layer, "--plain"]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        let path = format!("{}/tests/snapshots/{layer}.txt", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, &out).expect("the snapshots can be written");
        return;
    }
    assert_eq!(out, recorded, "UPDATE_SNAPSHOTS=1 records the change, if it is meant");
}

#[test]
fn the_plain_states_of_slabs_are_the_recorded_ones() {
    assert_recorded("slab", include_str!("snapshots/slab.txt"));
}

#[test]
fn the_plain_states_under_pressure_are_the_recorded_ones() {
    assert_recorded("pressure", include_str!("snapshots/pressure.txt"));
}

#[test]
fn the_plain_states_of_magazines_are_the_recorded_ones() {
    assert_recorded("cpus", include_str!("snapshots/cpus.txt"));
}

#[test]
fn what_one_cpu_frees_another_one_gets_by_the_depot() {
    let (_, out, _) = kmem(&["walkthrough", "cpus"]);
    assert!(out.contains("takes the full one from the depot"), "{out}");
    assert!(out.contains("Slabs grown for that: 0."), "{out}");
}

#[test]
fn every_step_is_a_picture_and_all_of_them_a_page() {
    for layer in Layer::ALL {
        let steps = pages::steps(layer).expect("there is memory");
        let (_, plain, _) = kmem(&["walkthrough", layer.name(), "--plain"]);
        assert_eq!(steps.len(), plain.lines().count(), "{layer:?}");
        assert!(steps.iter().all(|step| step.contains("\x1b[1m")), "each has a caption");
    }
    let folder = format!("{}/steps", env!("CARGO_TARGET_TMPDIR"));
    let page = format!("{folder}.html");
    let (status, out, _) = kmem(&["walkthrough", "all", "--svg", &folder, "--html", &page]);
    assert_eq!((status, out.as_str()), (Some(0), ""));
    let page = std::fs::read_to_string(page).expect("it was written");
    let pictures = std::fs::read_dir(&folder).expect("it was made").count();
    assert_eq!(page.matches("<svg").count(), pictures);
    assert!(pictures >= 40 && !page.contains('\x1b') && page.len() < 2_000_000);
    let eighth = std::fs::read_to_string(format!("{folder}/buddy-08.svg"));
    let eighth = eighth.expect("it was written");
    assert!(eighth.contains("never join"), "{eighth}");
}

/// Returns the numbers of a text, in order.
fn numbers(text: &str) -> Vec<usize> {
    let text = text.replace(',', "");
    let parts = text.split(|character: char| !character.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

/// Text, plain line and picture of each step are drawn from one state: what they show is the same.
#[test]
fn text_and_picture_of_each_step_agree() {
    for layer in Layer::ALL {
        let walk = walk(layer).expect("there is memory");
        let texts = pages::steps(layer).expect("there is memory");
        assert_eq!(walk.steps.len(), texts.len());
        for (index, (step, text)) in walk.steps.iter().zip(&texts).enumerate() {
            let at = format!("{layer:?}, step {}", index + 1);
            let drawing = step.drawing().inline();
            let (plain, notes) = (step.state.plain(), step.state.notes());
            assert!(text.contains(&*step.caption), "{at}");
            let shown = text.replace("\n  ", "\n");
            assert!(notes.iter().all(|note| shown.contains(&**note)), "{at}: {notes:?} {text}");
            let count = |class: &str| drawing.matches(&format!("class='{class}'")).count();
            let cells = |letters: &str| {
                plain.chars().filter(|character| letters.contains(*character)).count()
            };
            match layer {
                Layer::Buddy => {
                    let blocks: Vec<&str> = plain.split(' ').collect();
                    let free = blocks.iter().filter(|block| block.ends_with('-')).count();
                    assert_eq!(
                        (count("taken"), count("idle")),
                        (blocks.len() - free, free),
                        "{at}"
                    );
                }
                Layer::Slab => {
                    assert_eq!((count("taken"), count("idle")), (cells("#"), cells(".")), "{at}");
                    assert_eq!(numbers(&notes[0])[1], cells("#"), "{at}: {notes:?}");
                }
                Layer::Cpus => {
                    let [_, rest] = plain.splitn(2, ", ").collect::<Vec<_>>()[..] else {
                        panic!("{plain}")
                    };
                    let slots = rest.split(", ").take(2).flat_map(|slot| {
                        let lengths = slot.rsplit(' ').next().expect("it has a word").split('+');
                        lengths
                            .filter_map(|length| length.parse::<usize>().ok())
                            .collect::<Vec<_>>()
                    });
                    let depot = rest.split("depot ").nth(1).expect("it has a depot");
                    let depot = numbers(depot)[..2].iter().product::<usize>();
                    assert_eq!(count("taken"), slots.sum::<usize>() + depot, "{at}: {plain}");
                }
                Layer::Pressure => {
                    let bar = plain.split(' ').next().expect("it has a bar");
                    let of = |letters: &str| {
                        bar.chars().filter(|character| letters.contains(*character)).count()
                    };
                    // The legend has one of each.
                    assert_eq!(count("taken"), of("D") + 1, "{at}");
                    assert_eq!(count("other"), of("I") + 1, "{at}");
                    assert_eq!(count("taken-kept"), of("d") + 1, "{at}");
                    assert_eq!(count("other-kept"), of("i"), "{at}");
                    assert_eq!(count("idle"), of(".") + 1, "{at}");
                    assert!(notes[0].contains(&format!("{} page", of("."))), "{at}: {notes:?}");
                }
            }
        }
    }
}

#[test]
fn what_a_caption_says_of_changes_is_the_difference_of_the_states() {
    let cpus = walk(Layer::Cpus).expect("there is memory").steps;
    // In use, and free in slabs.
    let of = |step: usize| {
        let numbers = numbers(&cpus[step].state.notes()[0]);
        (numbers[2], numbers[1])
    };
    let popped = numbers(&cpus[3].caption)[0];
    assert!(popped > 0 && cpus[3].caption.contains("touches no slab"), "{}", cpus[3].caption);
    assert_eq!(of(3), (of(2).0 + popped, of(2).1), "step 4");
    let warm = numbers(&cpus[8].caption)[1];
    assert_eq!(of(8), (of(7).0 + warm, of(7).1), "step 9");
    assert!(numbers(&cpus[7].state.plain())[2] > 0, "it runs empty in the next step, not before");

    let pressure = walk(Layer::Pressure).expect("there is memory").steps;
    // Free pages, dentries, their slabs, inodes, their slabs.
    let of = |step: usize| numbers(&pressure[step].state.notes()[0]);
    let said = |step: usize| numbers(&pressure[step].caption);
    assert_eq!(said(3), [of(2)[2] - of(3)[2]], "step 4");
    assert_eq!(said(4), [of(4)[3] - of(3)[3], of(3)[2] - of(4)[2]], "step 5");
    assert_eq!(said(6), [of(6)[2] - of(5)[2], of(5)[4] - of(6)[4]], "step 7");
    assert_eq!(said(8), [of(8)[0] - of(7)[0]], "step 9");
}

#[test]
fn each_step_says_how_often_blocks_were_split_and_merged_for_it() {
    let (_, out, _) = kmem(&["walkthrough", "buddy"]);
    let of_step = |step: &str| {
        let mut lines = out.lines().skip_while(|line| *line != step);
        lines.nth(3).unwrap_or_else(|| panic!("{step} in {out}"))
    };
    assert_eq!(of_step("allocate A 3.6K"), "  free blocks: 1 x 4K, 1 x 8K; 2 splits");
    assert_eq!(of_step("free C"), "  free blocks: 2 x 2K", "neighbours that are no buddies");
    // 2K and 2K are 4K, which finds its buddy in turn.
    assert_eq!(of_step("free G"), "  free blocks: 1 x 2K, 1 x 8K; 2 merges");
}

#[test]
fn steps_wait_for_a_line_each() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(["walkthrough", "buddy", "--step"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all("\n".repeat(13).as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("free blocks:").count(), 13);
}

#[test]
fn slabs_begin_in_different_sets_and_keep_constructed_state() {
    let (status, out, _) = kmem(&["walkthrough", "slab"]);
    assert_eq!(status, Some(0));
    let sets: std::collections::HashSet<_> =
        out.lines().filter_map(|line| line.split_once("| set ")).map(|(_, set)| set).collect();
    assert_eq!(sets.len(), 4, "as many sets as colours: {out}");
    assert!(out.contains("the same object, as it was left: count of uses 1"), "{out}");
    assert!(out.contains("constructor calls since then: 0"), "{out}");
}

#[test]
fn under_pressure_each_cache_grows_at_the_cost_of_the_other_and_all_pages_are_free_again() {
    let (status, out, _) = kmem(&["walkthrough", "pressure", "--plain"]);
    assert_eq!(status, Some(0));
    let count = |line: &str, letter| line.chars().filter(|character| *character == letter).count();
    let bars: Vec<&str> = out.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(bars.iter().all(|bar| bar.len() == 64), "{out}");
    let idle: Vec<_> = bars.iter().map(|bar| (count(bar, 'd'), count(bar, 'i'))).collect();
    let used: Vec<_> = bars.iter().map(|bar| (count(bar, 'D'), count(bar, 'I'))).collect();
    assert!(idle[2].0 > 30 && used[4] == (0, used[4].1) && used[4].1 > idle[2].0, "{out}");
    assert!(idle[5].1 > 20 && used[6].0 >= idle[5].1 - 1, "{out}");
    assert_eq!(out.lines().last(), Some(&*format!("{} free 64", ".".repeat(64))));
}

#[test]
fn every_walkthrough_fits_80_columns_and_has_no_colours_when_piped() {
    for layer in Layer::ALL.map(Layer::name) {
        for arguments in [&["walkthrough", layer][..], &["walkthrough", layer, "--plain"]] {
            let (status, out, _) = kmem(arguments);
            assert_eq!(status, Some(0));
            assert!(!out.contains('\x1b'), "{layer}");
            let long = out.lines().find(|line| line.chars().count() > 80);
            // A plain state is one line, however long.
            assert!(long.is_none() || arguments.len() == 3, "{long:?}");
        }
    }
}

#[test]
fn the_tour_shows_all_layers_at_once_and_ends_with_the_totals() {
    let started = std::time::Instant::now();
    let (status, out, error) = kmem(&[]);
    assert_eq!((status, error.as_str()), (Some(0), ""));
    // Pauses alone would take more than nine seconds.
    assert!(started.elapsed().as_secs() < 9, "{:?}", started.elapsed());
    assert_eq!(out.matches("free blocks:").count(), 13);
    assert!(out.contains("never join, and cannot serve 4K"), "{out}");
    assert!(out.contains("constructor calls since then") && out.contains("all 64 pages free"));
    let last = out.lines().last().expect("there is a last line");
    assert!(last.starts_with("Everything freed: all ") && last.contains(" pages free"), "{last}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "fits 80 columns");
}

/// Accepts the given number of bytes, then fails.
struct Takes(usize);

impl Write for Takes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_output_that_ends_anywhere_is_an_error_and_leaves_no_mess() {
    for plain in [false, true] {
        let style = Style { plain, colour: true, rest: Rest::None };
        for bytes in (0..).step_by(151) {
            let played = Layer::ALL.map(|layer| play(layer, &mut Takes(bytes), &style));
            if played.iter().all(Result::is_ok) {
                assert!(bytes > 500);
                break;
            }
            assert!(bytes < 100_000, "{played:?}");
        }
    }
}

#[test]
fn usage_errors_end_with_two_and_say_why() {
    for arguments in [&["walk"][..], &["walkthrough"], &["walkthrough", "buddy", "--fast"]] {
        let (status, out, error) = kmem(arguments);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(!error.is_empty());
    }
    for wrong in ["0", "-1", "nan", "inf", "1e-30", "x"] {
        let (status, out, error) = kmem(&["walkthrough", "buddy", &format!("--speed={wrong}")]);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{wrong}");
        assert!(error.contains("a number from 0.001 to 1000"), "{error}");
    }
    assert_eq!(kmem(&["walkthrough", "buddy", "--speed", "0.001"]).0, Some(0));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
