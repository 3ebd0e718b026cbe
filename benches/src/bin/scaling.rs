//! How throughput grows with the number of CPUs: on one and two real cores; simulated, up to 256
//! CPUs, with the feature `counted`. See [`benches::scaling`]. The row `spread` prints how many
//! pages and lines consecutive allocations touch instead, see [`benches::objects::spread`].
//!
//!     cargo run --release -p benches --features counted --bin scaling -- [ROW...]

use benches::objects::spread;
use benches::scaling::rows::Row;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |row: &Row| {
        wanted.is_empty() || wanted.iter().any(|name| row.name.starts_with(name.as_str()))
    };
    let rows: Vec<Row> = Row::all().into_iter().filter(is_wanted).collect();
    if !rows.is_empty() {
        print(&rows);
    }
    if wanted.is_empty() || wanted.iter().any(|name| name == "spread") {
        print_spread();
    }
}

/// Prints the pages and lines that consecutive allocations from a fragmented cache touch.
fn print_spread() {
    const COUNTS: [usize; 4] = [64, 512, 2048, 8192];

    println!("\npages / lines touched by consecutive allocations from a fragmented cache");
    println!("| bytes | order | 64 objects | 512 | 2048 | 8192 |");
    println!("|---|---|---|---|---|---|");
    for bytes in [32, 64, 256] {
        let columns = COUNTS.map(|count| spread::measure(bytes, count));
        for (row, (name, _)) in columns[0].iter().enumerate() {
            let cell = |column: &Vec<(&str, spread::Touched)>| {
                let touched = column[row].1;
                format!("{} / {}", touched.pages, touched.lines)
            };
            println!("| {bytes} | {name} | {} |", columns.each_ref().map(cell).join(" | "));
        }
    }
}

/// Prints speedups, transfers and atomic changes of simulated CPUs.
#[cfg(feature = "counted")]
fn print(rows: &[Row]) {
    use benches::scaling::rows::Contestant;
    use benches::scaling::simulated::run;

    /// Blocks of each CPU.
    const BLOCKS: usize = 1024;

    let join = |figures: &[String]| figures.join(" | ");
    println!("speedups, and transfers for a block; cycles for a block on one CPU");
    println!("| row | allocator | cycles | 2 | 4 | 16 | 64 | 256 | transfers at 64 | at 256 |");
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut counts = Vec::new();
    for row in rows {
        for contestant in row.contestants() {
            let outcomes = [1, 2, 4, 16, 64, 256].map(|cpus| run(row, *contestant, cpus, BLOCKS));
            let one = outcomes[0].throughput();
            let speedup = |at: usize| format!("{:.1}", outcomes[at].throughput() / one);
            let transfers = |at: usize| format!("{:.2}", outcomes[at].transfers());
            println!(
                "| {} | {} | {:.0} | {} | {} |",
                row.name,
                contestant.name(row.layer),
                1000.0 / one,
                join(&[1, 2, 3, 4, 5].map(speedup)),
                join(&[4, 5].map(transfers)),
            );
            if *contestant == Contestant::Ours {
                let changes = |at: usize| {
                    let [all, shared] = outcomes[at].changes();
                    format!("{all:.0} / {shared:.0}")
                };
                counts.push(format!("| {} | {} |", row.name, join(&[1, 2, 3, 4, 5].map(changes))));
            }
        }
    }
    println!("\natomic read-modify-writes of ours for 1000 blocks: all / of shared lines");
    println!("| row | 2 | 4 | 16 | 64 | 256 |");
    println!("|---|---|---|---|---|---|");
    counts.iter().for_each(|line| println!("{line}"));
}

/// Prints speedups of two real threads.
#[cfg(not(feature = "counted"))]
fn print(rows: &[Row]) {
    use benches::scaling::real::speedup;

    /// Blocks of each thread.
    const BLOCKS: usize = 1 << 18;
    const ROUNDS: usize = 7;

    println!("| row | allocator | speedup of two threads |");
    println!("|---|---|---|");
    for row in rows {
        for contestant in row.contestants() {
            let speedup = speedup(row, *contestant, BLOCKS, ROUNDS);
            println!("| {} | {} | {speedup:.2} |", row.name, contestant.name(row.layer));
        }
    }
}
