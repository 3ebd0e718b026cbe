//! The judge for a terminal: reads a script with the answers of a buddy allocator from a file or
//! from standard input, and prints the first line that is wrong. Exit code 1 if there is one.

use std::io::Read;
use std::process::ExitCode;

const HELP: &str = "Usage: buddy-judge [FILE]

Judges a script with the answers of a buddy allocator, from FILE or standard input:

  memory 16K unit 1K
  alloc A 3.6K -> 0
  alloc B 2 -> 4K
  free A -> ok
  list 2: 0
  state 4- 2B 2- 8-

Prints the first line that is wrong, the state at that line, and the right one.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut text = Vec::new();
    let read = match arguments.as_slice() {
        [flag] if flag == "--help" || flag == "-h" => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        [] => std::io::stdin().lock().read_to_end(&mut text).map(|_| ()),
        [path] => std::fs::read(path).map(|bytes| text = bytes),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = read {
        eprintln!(
            "buddy-judge: {}: {error}",
            arguments.first().map_or("standard input", |path| path)
        );
        return ExitCode::from(2);
    }
    let verdict = playground::judge::judge(&String::from_utf8_lossy(&text));
    println!("{verdict}");
    if verdict.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
