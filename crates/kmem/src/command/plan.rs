//! `kmem plan`: shows how a cache lays out its slabs for an object size.

use std::io::{Write, stdout};

use clap::error::ErrorKind;
use clap::{Arg, ArgMatches, Command};
use kmem::picture::style::Style;
use kmem::views::plan::plan;

use super::{Failure, Screen};

/// C's alignment of a structure with a pointer.
const ALIGNMENT: &str = "8";

pub(super) fn command() -> Command {
    let number = |text: &str| super::bytes(text).ok_or("a number of bytes, or K, M");
    Command::new("plan")
        .about("Show how a cache cuts its slabs: objects, colours and waste of each order")
        .arg(
            Arg::new("SIZE")
                .required(true)
                .value_parser(number)
                .help("Size of an object in bytes, up to 4M"),
        )
        .arg(
            Arg::new("ALIGN")
                .value_parser(number)
                .default_value(ALIGNMENT)
                .help("Alignment in bytes, a power of two"),
        )
}

pub(super) fn run(matches: &ArgMatches, screen: Screen) -> Result<(), Failure> {
    let number = |name| *matches.get_one::<usize>(name).expect("required, or with a default");
    let style = Style::still(screen.colour);
    let mut out = stdout().lock();
    if let Err(error) = plan(&mut out, number("SIZE"), number("ALIGN"), &style)? {
        super::refuse(command(), ErrorKind::ValueValidation, error);
    }
    Ok(out.flush()?)
}
