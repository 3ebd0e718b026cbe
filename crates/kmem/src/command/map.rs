//! `kmem map`: draws memory at the end of a trace as heat maps.

use std::io::{Write, stdout};

use clap::{Arg, ArgMatches, Command};
use kmem::picture::painted;
use kmem::picture::style::Style;
use kmem::replay::pipeline::Options;
use kmem::views::map::{Map, by_mobility, by_order, by_owner};

use super::{
    Failure, OUTPUTS, Screen, folder, force, inputs, machine, output_folder, replay, traces,
};
use crate::say;

pub(super) fn command() -> Command {
    Command::new("map")
        .about("Show memory at the end of a trace: by free block, by use, by owner")
        .arg(inputs(
            "Compact traces, plain or zstd, - for standard input [default: the bundled one]",
        ))
        .arg(
            Arg::new("by")
                .long("by")
                .value_name("WHAT")
                .value_delimiter(',')
                .value_parser(["order", "mobility", "owner"])
                .default_value("owner,mobility,order")
                .help("Which maps"),
        )
        .arg(replay::memory())
        .arg(replay::cpus())
        .arg(folder("svg", "Write the maps as pictures, instead of showing them"))
        .arg(force())
        .after_help(format!(
            "Exit status: 0 fine, 1 the recording lost events, 2 the command line or\n\
             a trace is wrong.\n\
             {OUTPUTS}",
        ))
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let options = Options { checks: false, cpus: matches.get_one("cpus").copied() };
    let memory_bytes = matches.get_one("memory").copied().unwrap_or(machine::USUAL_BYTES);
    let mut machine = machine::Machine::new(memory_bytes, options);
    let names = matches.get_many::<String>("by").unwrap_or_default();
    let names: Vec<&str> = names.map(String::as_str).collect();
    let file_names: Vec<_> = names.iter().map(|name| format!("map-{name}")).collect();
    let pictures = output_folder(matches, "svg", file_names.iter().map(String::as_str), "svg")?;
    let mut out = stdout().lock();
    let mut is_whole = true;
    for source in traces(matches) {
        let source = source?;
        if let (None, Some(reopen)) =
            (matches.get_one::<usize>("memory"), machine::reopen(matches, &source))
        {
            machine.frames = Some(machine::fitting_frames(&reopen, &machine)?);
        }
        let replay =
            machine::play(source, &machine, screen, |stack, pages| (stack, pages), |_| ())?;
        for (index, name) in names.iter().enumerate() {
            let map: Map = match *name {
                "order" => by_order(replay.pages.target()),
                "mobility" => by_mobility(replay.pages.target()),
                _ => by_owner(replay.objects.target()),
            };
            if let Some(pictures) = &pictures {
                let mut text = Vec::new();
                map.draw(&mut text, &Style::still(true))?;
                let svg = painted::svg(&String::from_utf8_lossy(&text), name);
                pictures.write(&file_names[index], &svg.standalone())?;
                continue;
            }
            if index > 0 {
                writeln!(out)?;
            }
            map.draw(&mut out, &Style::still(screen.colour))?;
        }
        let losses = replay.losses();
        if !losses.is_none() {
            is_whole = false;
            let [first, second] = losses.sentence();
            match pictures {
                Some(_) => say(format_args!("{first}\n{second}")),
                None => writeln!(out, "{first}\n{second}")?,
            }
        }
    }
    out.flush()?;
    if is_whole { Ok(()) } else { Err(Failure::Findings) }
}
