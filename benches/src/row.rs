//! A line of the table: what one workload measured on ours, on the floor and on the rivals.

use serde_json::{Map, Value, json};

use crate::measure::{Sample, median};

/// The name under which each layer's contestants list our allocator.
pub const OURS: &str = "ours";
/// The name of the contestant that does nothing: what remains is the harness.
pub const FLOOR: &str = "floor";

/// The result of a workload: medians over the rounds.
#[derive(Clone, Debug)]
pub struct Row {
    /// The workload.
    pub name: String,
    /// The unit of `ours` and the rivals: `ns`, `us`, `ratio`, `%`, `B` or `pages`.
    pub unit: &'static str,
    /// Ours.
    pub ours: f64,
    /// The harness's own time, where the workload can run without an allocator.
    pub floor: Option<f64>,
    /// The 99.9th percentile of single operations of ours, the clock's own time included.
    pub p999: Option<f64>,
    /// The longest single operation of ours, the clock's own time included.
    pub max: Option<f64>,
    /// The smallest and the largest round of ours: the spread.
    pub spread: (f64, f64),
    /// The rivals that ran, by name.
    pub rivals: Vec<(&'static str, f64)>,
}

impl Row {
    /// Measures a workload on all contestants, in turn, `rounds` times. Those for which `run` has
    /// no answer are left out.
    ///
    /// # Panics
    /// When ours has no answer.
    pub fn compare<C>(
        name: String,
        contestants: &[(&'static str, C)],
        rounds: usize,
        mut run: impl FnMut(&'static str, &C) -> Option<Sample>,
    ) -> Self {
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); contestants.len()];
        for _ in 0..rounds {
            for ((who, contestant), samples) in contestants.iter().zip(&mut samples) {
                samples.extend(run(who, contestant));
            }
        }
        let of = |who: &str| {
            let index = contestants.iter().position(|(name, _)| *name == who);
            index.map(|index| &samples[index]).filter(|samples| !samples.is_empty())
        };
        let ours = of(OURS).expect("ours runs every workload");
        let is_rival = |who: &&'static str| *who != OURS && *who != FLOOR;
        let names = contestants.iter().map(|(name, _)| *name).filter(is_rival);
        let rivals = names.filter_map(|name| Some((name, middle(of(name)?, |s| s.mean_ns))));
        let means = || ours.iter().map(|sample| sample.mean_ns);
        Self {
            name,
            unit: "ns",
            ours: middle(ours, |s| s.mean_ns),
            floor: of(FLOOR).map(|samples| middle(samples, |s| s.mean_ns)),
            p999: Some(middle(ours, |s| s.p999_ns)).filter(|time| time.is_finite()),
            max: Some(middle(ours, |s| s.max_ns)).filter(|time| time.is_finite()),
            spread: (means().fold(f64::INFINITY, f64::min), means().fold(0.0, f64::max)),
            rivals: rivals.collect(),
        }
    }

    /// Says that the figures are in `unit`, not in nanoseconds.
    pub fn in_unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    /// Makes a row without rivals: the median of `values`, which are not empty.
    pub fn alone(name: &str, unit: &'static str, values: Vec<f64>) -> Self {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        Self {
            name: name.into(),
            unit,
            ours: median(values),
            floor: None,
            p999: None,
            max: None,
            spread: (least, most),
            rivals: Vec::new(),
        }
    }

    /// Returns the fastest rival, where the figures are times.
    pub fn best_rival(&self) -> Option<(&'static str, f64)> {
        let times = if matches!(self.unit, "ns" | "us") { &self.rivals[..] } else { &[] };
        times.iter().copied().min_by(|one, other| one.1.total_cmp(&other.1))
    }

    /// Returns ours as a share of the best rival's time, if a rival ran.
    pub fn ratio_to_best(&self) -> Option<f64> {
        self.best_rival().map(|(_, best)| self.ours / best)
    }

    /// Prints the row and, below it, the rivals.
    pub fn print(&self) {
        let figure = |value: Option<f64>| value.map_or_else(|| "-".into(), |it| format!("{it:.1}"));
        let (least, most) = self.spread;
        print!("{:<24} {:>9.2} {:<5}", self.name, self.ours, self.unit);
        print!(" ({least:.2} to {most:.2})  floor {}", figure(self.floor));
        print!("  p99.9 {}  max {}", figure(self.p999), figure(self.max));
        match (self.best_rival(), self.ratio_to_best()) {
            (Some((name, _)), Some(ratio)) => println!("  ratio {ratio:.3} to {name}"),
            _ => println!(),
        }
        if !self.rivals.is_empty() {
            let rivals = self.rivals.iter().map(|(name, time)| format!("{name} {time:.2}"));
            println!("{:>24} {}", "", rivals.collect::<Vec<_>>().join("  "));
        }
    }

    /// Returns the row as JSON; what was not measured is null.
    pub fn json(&self) -> Value {
        let rivals: Map<String, Value> =
            self.rivals.iter().map(|(name, time)| ((*name).into(), json!(time))).collect();
        json!({
            "name": self.name, "unit": self.unit, "ours": self.ours, "floor": self.floor,
            "p999": self.p999, "max": self.max, "rivals": rivals,
            "ratio_to_best": self.ratio_to_best(),
        })
    }
}

fn middle(samples: &[Sample], figure: fn(&Sample) -> f64) -> f64 {
    median(samples.iter().map(figure).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mean_ns: f64) -> Sample {
        Sample { mean_ns, p999_ns: f64::NAN, max_ns: 9.0 }
    }

    #[test]
    fn a_row_has_medians_and_the_ratio_to_the_best_rival_that_ran() {
        let contestants =
            [(OURS, 2.0), (FLOOR, 1.0), ("fast", 4.0), ("slow", 8.0), ("absent", 0.0)];
        let mut round = 0.0;
        let row = Row::compare("pair".into(), &contestants, 3, |who, time| {
            round += f64::from(who == OURS);
            (who != "absent").then_some(sample(time * round))
        });
        assert_eq!((row.ours, row.floor, row.spread), (4.0, Some(2.0), (2.0, 6.0)));
        assert_eq!((row.best_rival(), row.ratio_to_best()), (Some(("fast", 8.0)), Some(0.5)));
        let json = row.json();
        assert_eq!((json["p999"].is_null(), json["max"].as_f64()), (true, Some(9.0)));
        assert_eq!(json["rivals"]["slow"].as_f64(), Some(16.0));
        assert!(json["rivals"].get("absent").is_none());
    }

    #[test]
    fn a_figure_of_ours_alone_has_no_ratio() {
        let json = Row::alone("idle-pages", "pages", vec![0.0, 3.0, 1.0]).json();
        assert_eq!(json["ours"].as_f64(), Some(1.0));
        assert!(json["ratio_to_best"].is_null() && json["floor"].is_null());
    }
}
