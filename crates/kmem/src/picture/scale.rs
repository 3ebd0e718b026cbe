//! Round numbers for the axes of charts.

/// Returns a round distance of which about `count` make `highest`; for bytes, a round number of
/// their unit.
pub(super) fn round_step(highest: f64, bytes: bool, count: f64) -> f64 {
    let unit = match bytes {
        true => f64::from(1 << (10 * (highest.max(1.0).log2() / 10.0) as u32).min(30)),
        false => 1.0,
    };
    let rough = highest / unit / count;
    let decade = 10_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade).into_iter().find(|step| *step >= rough);
    step.unwrap_or(decade * 10.0) * unit
}

/// Returns a number without zeros behind its point.
pub(super) fn trimmed(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_numbers_of_their_unit() {
        assert_eq!((round_step(7.0, false, 5.0), round_step(0.9, false, 5.0)), (2.0, 0.2));
        assert_eq!(round_step(700.0 * 1048576.0, true, 5.0), 200.0 * 1048576.0);
    }
}
