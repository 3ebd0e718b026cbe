//! Question: does anything break in a long run?
//!
//!     soak                      runs for an hour
//!     soak --seconds 60
//!     soak --seed 17 --seconds 0      one episode again
//!
//! See `benches::soak` for what it does. It ends with status 0, or names the seed that fails.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use benches::soak::{Options, run};
use clap::{Arg, Command, value_parser};

fn main() -> ExitCode {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("N").help(help).value_parser(value_parser!(u64))
    };
    let arguments = Command::new("soak")
        .about("Works at random on all layers, with faults, and validates them")
        .arg(number("seconds", "how long new episodes begin [default: 3600]"))
        .arg(number("seed", "the seed of the first episode [default: the time]"))
        .arg(number("threads", "threads at the same time, at most [default: 6]"))
        .get_matches();
    let value = |name: &str| arguments.get_one::<u64>(name).copied();
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let options = Options {
        time: Duration::from_secs(value("seconds").unwrap_or(3600)),
        seed: value("seed").unwrap_or(now),
        threads: value("threads").unwrap_or(6).clamp(1, 64) as usize,
    };
    println!(
        "first seed {}, {} s, {} threads",
        options.seed,
        options.time.as_secs(),
        options.threads
    );
    let mut current = options.seed;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        run(options, |seed| current = seed)
    }));
    match outcome {
        Ok(summary) => {
            println!("{summary:#?}");
            ExitCode::SUCCESS
        }
        Err(_) => {
            eprintln!("failed: soak --seed {current} --seconds 0 --threads {}", options.threads);
            ExitCode::FAILURE
        }
    }
}
