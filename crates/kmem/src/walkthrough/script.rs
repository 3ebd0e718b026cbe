//! The worked example as a list of steps: what is allocated and freed, and the state that the
//! textbook shows.

/// One thing that the example does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation<'t> {
    /// Allocates a block for a number of units, under a name.
    Allocate { name: &'t str, units: usize },
    /// Frees the block of that name.
    Free { name: &'t str },
}

/// Operations between two states of the example.
pub(super) struct Step<'t> {
    /// As the example words it.
    pub(super) text: &'t str,
    pub(super) operations: Vec<Operation<'t>>,
}

/// The example file: `operation; operation => state`, `#` starts a comment.
const EXAMPLE: &str = include_str!("example-16k.txt");

/// Returns the steps of the example.
pub(super) fn example() -> Vec<Step<'static>> {
    let lines = EXAMPLE.lines().filter(|line| !line.starts_with('#'));
    let steps = lines.filter_map(|line| line.split_once("=>"));
    steps
        .map(|(text, _)| Step {
            text: text.trim(),
            operations: text.split(';').filter_map(operation).collect(),
        })
        .collect()
}

fn operation(text: &str) -> Option<Operation<'_>> {
    let words: Vec<_> = text.split_whitespace().collect();
    match words[..] {
        ["allocate", name, size] => Some(Operation::Allocate { name, units: units(size)? }),
        ["free", name] => Some(Operation::Free { name }),
        _ => None,
    }
}

/// Returns the units of 1 KiB that hold `size`: `3.6K`, or a number of bytes.
fn units(size: &str) -> Option<usize> {
    match size.strip_suffix('K') {
        Some(kib) => kib.parse::<f64>().ok().map(|kib| kib.ceil() as usize),
        None => size.parse::<usize>().ok().map(|bytes| bytes.div_ceil(1024)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_units() {
        assert_eq!(operation("allocate A 3.6K"), Some(Operation::Allocate { name: "A", units: 4 }));
        assert_eq!(operation(" allocate J 610"), Some(Operation::Allocate { name: "J", units: 1 }));
        assert_eq!(operation("free C "), Some(Operation::Free { name: "C" }));
        assert_eq!(operation("start"), None);
    }

    #[test]
    fn every_line_of_the_example_is_a_step_and_every_operation_is_understood() {
        let steps = example();
        assert_eq!(steps.len(), 13);
        let understood: usize = steps.iter().map(|step| step.operations.len()).sum();
        let written: usize = steps.iter().map(|step| step.text.split(';').count()).sum();
        assert_eq!(understood, written - 1, "all but `start`");
    }
}
