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

/// Returns a moment of a chart that ends at `last`, both in seconds, in the unit of that end.
pub(super) fn moment(at: f64, last: f64) -> String {
    let (scale, unit) = match last {
        1.0.. => (1.0, "s"),
        1e-3.. => (1e3, "ms"),
        _ => (1e6, "\u{b5}s"),
    };
    format!("{} {unit}", trimmed(at * scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_short_charts_can_be_told_apart() {
        assert_eq!([moment(0.5, 2.0), moment(0.005, 0.02)], ["0.5 s", "5 ms"]);
        assert_eq!([moment(0.01, 0.0151), moment(2e-6, 9e-6)], ["10 ms", "2 \u{b5}s"]);
    }

    #[test]
    fn steps_are_round_numbers_of_their_unit() {
        assert_eq!((round_step(7.0, false, 5.0), round_step(0.9, false, 5.0)), (2.0, 0.2));
        assert_eq!(round_step(700.0 * 1048576.0, true, 5.0), 200.0 * 1048576.0);
    }
}
