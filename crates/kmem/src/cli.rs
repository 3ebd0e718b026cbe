//! The command line.

use clap::{Arg, ArgAction, Command};

/// What the user wants to see.
pub(crate) struct Request {
    /// Only the states, one a line.
    pub(crate) plain: bool,
}

/// Reads the command line; on a usage error, or when help was asked for, ends the program.
pub(crate) fn parse() -> Request {
    let plain = Arg::new("plain")
        .long("plain")
        .action(ArgAction::SetTrue)
        .help("Print only the states, one a line");
    let buddy = Command::new("buddy")
        .about(
            "The 16 KiB example: blocks split and merge, and two free neighbours that cannot join",
        )
        .arg(plain);
    let walkthrough = Command::new("walkthrough")
        .about("Show an allocator at work, step by step")
        .subcommand_required(true)
        .subcommand(buddy);
    let kmem = Command::new("kmem")
        .about("Look at memory: pictures drawn from the live state of the allocators")
        .version(env!("CARGO_PKG_VERSION"))
        .after_help("Without a command: the walkthrough of the buddy allocator.")
        .subcommand(walkthrough);
    let matches = kmem.get_matches();
    let buddy = matches.subcommand().and_then(|(_, walkthrough)| walkthrough.subcommand());
    Request { plain: buddy.is_some_and(|(_, buddy)| buddy.get_flag("plain")) }
}
