//! The pictures of the book are what the program draws: recorded with `UPDATE_SNAPSHOTS`, compared
//! otherwise.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kmem::picture::painted;
use kmem::walkthrough::{Layer, walk};

/// Where the book has them.
fn pictures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/pictures")
}

/// Returns the output for a terminal with colours.
fn shown(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_kmem"))
        .args(["--color", "always"])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.stderr, b"", "{arguments:?}");
    String::from_utf8(output.stdout).expect("the output is text")
}

fn assert_recorded(name: &str, drawn: &str) {
    let path = pictures().join(format!("{name}.svg"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, drawn).expect("the pictures can be written");
        return;
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        recorded == drawn,
        "{} is not what is drawn; UPDATE_SNAPSHOTS=1 records the change, if it is meant",
        path.display()
    );
}

#[test]
fn walkthroughs() {
    for (layer, step) in
        [(Layer::Buddy, 8), (Layer::Slab, 7), (Layer::Cpus, 8), (Layer::Pressure, 5)]
    {
        let walk = walk(layer).expect("there is memory");
        let picture = walk.steps[step - 1].picture();
        assert_recorded(&format!("walkthrough-{}", layer.name()), &picture.standalone());
    }
}

#[test]
fn commands() {
    for (name, arguments, lines) in [
        ("plan", &["plan", "640"][..], 0..99),
        ("frag", &["frag", "tests/buddyinfo.txt"], 1..99),
        ("check", &["check", "--rows", "8"], 0..99),
        ("top", &["top", "--replay", "--once"], 0..20),
        ("map", &["map", "--mem", "512M", "--by", "owner"], 0..99),
        ("map-mobility", &["map", "--mem", "512M", "--by", "mobility"], 0..99),
        ("map-order", &["map", "--mem", "512M", "--by", "order"], 0..99),
    ] {
        let text = shown(arguments);
        let text: Vec<_> = text.lines().skip(lines.start).take(lines.len()).collect();
        assert_recorded(name, &painted::svg(&text.join("\n"), &arguments.join(" ")).standalone());
    }
}

#[test]
fn charts() {
    let folder: PathBuf = [env!("CARGO_TARGET_TMPDIR"), "charts"].iter().collect();
    shown(&["replay", "--mem", "512M", "--svg", folder.to_str().expect("a path of text")]);
    for name in ["memory", "held", "fragmentation", "lifetimes"] {
        let drawn =
            std::fs::read_to_string(folder.join(format!("{name}.svg"))).expect("it was written");
        assert_recorded(&format!("report-{name}"), &drawn);
    }
}

#[test]
fn the_book_shows_every_picture_and_has_every_command() {
    let mut book = String::new();
    for folder in ["..", "../kmem"] {
        let chapters = std::fs::read_dir(pictures().join(folder)).expect("the book has chapters");
        let paths = chapters.map(|chapter| chapter.expect("a readable folder").path());
        for chapter in paths.filter(|path| path.extension().is_some_and(|kind| kind == "md")) {
            book += &std::fs::read_to_string(chapter).expect("text");
        }
    }
    for picture in std::fs::read_dir(pictures()).expect("the book has pictures") {
        let name = picture.expect("a readable folder").file_name();
        let name = name.to_str().expect("a name of text");
        assert!(book.contains(name), "{name} is shown nowhere");
    }
    let help = shown(&["--help"]);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    // A description of several lines goes on further to the right.
    let commands = commands.take_while(|line| !line.is_empty());
    let commands = commands.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let commands: Vec<_> = commands.filter(|command| !command.is_empty()).collect();
    assert!(commands.len() > 10 && commands.contains(&"walkthrough"), "{commands:?}");
    for command in commands {
        assert!(command == "help" || book.contains(&format!("kmem {command}")), "{command}");
    }
}
