//! `kmem walkthrough`: shows an allocator at work step by step, on the terminal, as pictures or as
//! a page.

use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use kmem::picture::style::{Rest, Style};
use kmem::walkthrough::{self, Layer, pages};

use super::{Failure, OUTPUTS, Screen, file, folder, force, output, output_folder};

/// Time that each step stays on a terminal.
const PAUSE: Duration = Duration::from_millis(900);
/// The name that selects all walkthroughs.
const ALL: &str = "all";

pub(super) fn command() -> Command {
    let flag = |name, help| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let speed = Arg::new("speed")
        .long("speed")
        .value_name("FACTOR")
        .value_parser(factor)
        .help("How many times as fast as usual");
    let arguments = [
        flag("plain", "Print only the states, one a line"),
        flag("step", "Wait for Enter after each step"),
        speed,
        folder("svg", "Write each step as a picture, instead of showing it"),
        file("html", "Write all steps as one page, instead of showing them"),
        force(),
    ];
    let layer = |name, about| Command::new(name).about(about).args(&arguments).after_help(OUTPUTS);
    Command::new("walkthrough")
        .about("Show an allocator at work, step by step")
        .subcommand_required(true)
        .subcommands(Layer::ALL.map(|each| layer(each.name(), each.about())))
        .subcommand(layer(ALL, "All of them, one after the other"))
}

/// Parses a speed factor. At its limits a step stays for a quarter of an hour, or for less than a
/// millisecond.
fn factor(text: &str) -> Result<f32, String> {
    text.parse()
        .ok()
        .filter(|factor| (0.001..=1000.0).contains(factor))
        .ok_or_else(|| "a number from 0.001 to 1000".to_owned())
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let (name, matches) = matches.subcommand().expect("a walkthrough has a name");
    let layers: Vec<_> =
        Layer::ALL.into_iter().filter(|layer| name == ALL || name == layer.name()).collect();
    let mut is_written = false;
    let html = output(matches, "html")?;
    if let Some(folder) = output_folder(matches, "svg", [], "svg")? {
        is_written = true;
        for layer in &layers {
            for (index, step) in walkthrough::walk(*layer)?.steps.iter().enumerate() {
                let name = format!("{}-{:02}", layer.name(), index + 1);
                folder.write(&name, &step.picture().standalone())?;
            }
        }
    }
    if let Some(html) = html {
        is_written = true;
        html.write_and_commit(&pages::html(&layers)?)?;
    }
    if is_written {
        return Ok(());
    }
    let speed = matches.get_one::<f32>("speed").copied().unwrap_or(1.0);
    let rest = match matches.get_flag("step") {
        true => Rest::Key,
        false => Rest::Pause(PAUSE.div_f32(speed)),
    };
    for layer in layers {
        play(layer, matches.get_flag("plain"), rest, screen)?;
    }
    Ok(())
}

pub(super) fn play(layer: Layer, plain: bool, rest: Rest, screen: Screen) -> Result<(), Failure> {
    let rest = match rest {
        Rest::Pause(_) if plain || !stdout().is_terminal() => Rest::None,
        rest => rest,
    };
    let style = Style { plain, colour: screen.colour && !plain, rest };
    let mut out = stdout().lock();
    walkthrough::play(layer, &mut out, &style)?;
    Ok(out.flush()?)
}
