//! Charts: numbers over time or by class, as SVG and as CSV.
//!
//! A chart is drawn for a width, so that its text keeps its size on a narrow screen.

use super::scale::{moment, round_step, trimmed};
use super::svg::{BANDS, Svg, short};
use super::text::{size, thousands};

/// What is drawn.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Stem of file names.
    pub name: &'static str,
    /// The caption, a few words.
    pub title: &'static str,
    /// How to read it.
    pub note: String,
    /// How the values are drawn.
    pub kind: Kind,
    /// What values are.
    pub unit: Unit,
    /// Names the places along the chart: seconds, or classes.
    pub places: Places,
    /// The moment that is marked, in seconds, and what it is.
    pub mark: Option<(f64, String)>,
    /// Bottom up.
    pub series: Vec<Series>,
}

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bands on top of one another.
    Stacked,
    /// Lines.
    Lines,
    /// A bar for each place; one series.
    Bars,
}

/// The unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of bytes.
    Bytes,
    /// A share in percent.
    Percent,
    /// A number of things.
    Count,
}

/// The places of values.
#[derive(Debug, Clone)]
pub enum Places {
    /// Seconds.
    Seconds(Vec<f64>),
    /// Classes by name, and what a class is.
    Classes(&'static str, Vec<String>),
}

/// One value for each place.
#[derive(Debug, Clone)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// The values.
    pub values: Vec<f64>,
}

/// Room for the numbers of the y axis.
pub(super) const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
pub(super) const TOP: f64 = 16.0;
/// Room for the x axis.
const BOTTOM: f64 = 26.0;
/// Height of the drawing itself.
pub(super) const INNER: f64 = 200.0;
/// Height of a line of the legend.
const LEGEND: f64 = 18.0;
/// Width of a character of the legend, at most.
pub(super) const CHARACTER: f64 = 6.9;

impl Chart {
    /// Draws the chart `width` pixels wide with its title, as a picture of its own.
    pub fn picture(&self, width: f64) -> Svg {
        self.svg(width).with_heading(self.title)
    }

    pub(super) fn plot(&self, width: f64) -> Plot {
        let highest = self.highest().max(1e-9);
        Plot { right: width - RIGHT, highest, is_logarithmic: self.is_logarithmic() }
    }

    /// Draws the chart `width` pixels wide, without its title.
    pub fn svg(&self, width: f64) -> Svg {
        let legend = self.legend(width);
        let lines = legend.last().map_or(0.0, |entry| entry.1 / LEGEND + 1.0);
        let height = TOP + INNER + BOTTOM + lines * LEGEND;
        let mut svg = Svg::new(width, height, self.title);
        let plot = self.plot(width);
        self.draw_axes(&mut svg, &plot);
        match self.kind {
            Kind::Stacked => self.draw_bands(&mut svg, &plot),
            Kind::Lines => self.draw_lines(&mut svg, &plot),
            Kind::Bars => self.draw_bars(&mut svg, &plot),
        }
        self.draw_mark(&mut svg, &plot);
        let below = TOP + INNER + BOTTOM;
        for (index, (x, y)) in legend.into_iter().enumerate() {
            svg.rect((x, below + y + 4.0), (10.0, 10.0), BANDS[index % 8], "");
            svg.text((x + 15.0, below + y + 13.0), "", &self.series[index].name);
        }
        svg
    }

    /// Returns the numbers: a header, then a line for each place.
    pub fn csv(&self) -> String {
        let (what, names): (&str, Vec<String>) = match &self.places {
            Places::Seconds(seconds) => {
                ("seconds", seconds.iter().map(|at| format!("{at:.6}")).collect())
            }
            Places::Classes(what, names) => (what, names.iter().map(|name| field(name)).collect()),
        };
        let mut text = field(what);
        let unit = match self.unit {
            Unit::Bytes => " (bytes)",
            Unit::Percent => " (%)",
            Unit::Count => "",
        };
        for series in &self.series {
            text.push_str(&format!(",{}", field(&format!("{}{unit}", series.name))));
        }
        for (place, name) in names.iter().enumerate() {
            text.push_str(&format!("\r\n{name}"));
            for series in &self.series {
                text.push_str(&format!(",{}", (series.values[place] * 1000.0).round() / 1000.0));
            }
        }
        text + "\r\n"
    }

    fn places(&self) -> usize {
        match &self.places {
            Places::Seconds(seconds) => seconds.len(),
            Places::Classes(_, names) => names.len(),
        }
    }

    /// Returns the largest value that is drawn.
    fn highest(&self) -> f64 {
        let at = |place: usize| self.series.iter().map(move |series| series.values[place]);
        let highest = |place| match self.kind {
            Kind::Stacked => at(place).sum(),
            Kind::Lines | Kind::Bars => at(place).fold(0.0, f64::max),
        };
        let highest = (0..self.places()).map(highest).fold(0.0, f64::max);
        // A thousandth more or less is no picture.
        if self.unit == Unit::Percent { highest.max(1.0) } else { highest }
    }

    /// Whether bars have a logarithmic scale: the smallest would not be visible otherwise.
    fn is_logarithmic(&self) -> bool {
        let values = || self.series.iter().flat_map(|series| &series.values).copied();
        let smallest = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        self.kind == Kind::Bars && values().fold(0.0, f64::max) > 50.0 * smallest
    }

    /// Returns how far along the chart each place is, from 0 to 1.
    pub(super) fn along(&self) -> Vec<f64> {
        match &self.places {
            Places::Seconds(seconds) => {
                let last = seconds.last().copied().unwrap_or(0.0).max(1e-9);
                seconds.iter().map(|at| at / last).collect()
            }
            Places::Classes(_, names) => {
                (0..names.len()).map(|index| (index as f64 + 0.5) / names.len() as f64).collect()
            }
        }
    }

    fn draw_axes(&self, svg: &mut Svg, plot: &Plot) {
        let step = match self.unit {
            // There are no parts of things.
            Unit::Count => round_step(plot.highest, false, 5.0).max(1.0),
            unit => round_step(plot.highest, unit == Unit::Bytes, 5.0),
        };
        let mut value = 0.0;
        while value <= plot.highest * 1.0001 {
            let y = plot.y(value);
            svg.path(&format!("M{LEFT} {}H{}", short(y), short(plot.right)), "rule", "");
            svg.text((LEFT - 6.0, y + 4.0), "faint end", &self.value(value));
            value = match plot.is_logarithmic {
                true => (value * 10.0).max(1.0),
                false => value + step,
            };
        }
        let y = TOP + INNER + 17.0;
        match &self.places {
            Places::Seconds(seconds) => {
                let last = seconds.last().copied().unwrap_or(0.0).max(1e-9);
                let step = round_step(last, false, ((plot.right - LEFT) / 80.0).max(2.0));
                let mut at = 0.0;
                while at <= last {
                    let class = if at == 0.0 { "faint" } else { "faint middle" };
                    svg.text((plot.x(at / last), y), class, &moment(at, last));
                    at += step;
                }
            }
            Places::Classes(_, names) => {
                let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(1);
                let room = (plot.right - LEFT) / names.len().max(1) as f64;
                let every = ((widest + 1) as f64 * CHARACTER / room).ceil().max(1.0) as usize;
                for (name, along) in names.iter().zip(self.along()).step_by(every) {
                    svg.text((plot.x(along), y), "faint middle", name);
                }
            }
        }
    }

    fn draw_bands(&self, svg: &mut Svg, plot: &Plot) {
        let xs: Vec<f64> = self.along().into_iter().map(|along| plot.x(along)).collect();
        let mut below = vec![0.0; xs.len()];
        for (index, series) in self.series.iter().enumerate() {
            let above: Vec<f64> =
                below.iter().zip(&series.values).map(|(below, value)| below + value).collect();
            let mut way = String::new();
            let upper = xs.iter().zip(&above);
            let lower = xs.iter().zip(&below).rev();
            for (x, value) in upper.chain(lower) {
                way.push(if way.is_empty() { 'M' } else { 'L' });
                way.push_str(&format!("{} {}", short(*x), short(plot.y(*value))));
            }
            if series.values.iter().any(|value| *value > 0.0) {
                svg.path(&(way + "Z"), BANDS[index % 8], &series.name);
            }
            below = above;
        }
    }

    fn draw_lines(&self, svg: &mut Svg, plot: &Plot) {
        for (index, series) in self.series.iter().enumerate() {
            let mut way = String::new();
            for (along, value) in self.along().into_iter().zip(&series.values) {
                way.push(if way.is_empty() { 'M' } else { 'L' });
                way.push_str(&format!("{} {}", short(plot.x(along)), short(plot.y(*value))));
            }
            svg.path(&way, &format!("line {}", BANDS[index % 8]), &series.name);
        }
    }

    fn draw_bars(&self, svg: &mut Svg, plot: &Plot) {
        let Places::Classes(_, names) = &self.places else { return };
        let room = (plot.right - LEFT) / names.len().max(1) as f64;
        for ((name, along), value) in names.iter().zip(self.along()).zip(&self.series[0].values) {
            let top = plot.y(*value);
            let tip = format!("{name}: {}", self.value(*value));
            let corner = (plot.x(along) - room * 0.4, top);
            svg.rect(corner, (room * 0.8, TOP + INNER - top), BANDS[0], &tip);
            let label = self.value(*value);
            if *value > 0.0 && label.chars().count() as f64 * CHARACTER <= room {
                svg.text((plot.x(along), top - 3.0), "faint middle", &label);
            }
        }
    }

    /// Draws a line at the marked moment.
    fn draw_mark(&self, svg: &mut Svg, plot: &Plot) {
        let (Some((at, what)), Places::Seconds(seconds)) = (&self.mark, &self.places) else {
            return;
        };
        let last = seconds.last().copied().unwrap_or(0.0).max(1e-9);
        let x = plot.x((at / last).min(1.0));
        svg.path(&format!("M{} {TOP}V{}", short(x), TOP + INNER), "mark", what);
        let (class, x) = match x > (LEFT + plot.right) / 2.0 {
            true => ("end", x - 5.0),
            false => ("", x + 5.0),
        };
        svg.text((x, TOP + 12.0), &format!("halo {class}"), what);
    }

    /// Returns the place of each entry of the legend; none for bars.
    fn legend(&self, width: f64) -> Vec<(f64, f64)> {
        if self.kind == Kind::Bars {
            return Vec::new();
        }
        let mut next = (LEFT.min(width / 12.0), 0.0);
        let first = next.0;
        let place = |series: &Series| {
            let entry = series.name.chars().count() as f64 * CHARACTER + 28.0;
            if next.0 + entry > width && next.0 > first {
                next = (first, next.1 + LEGEND);
            }
            let at = next;
            next.0 += entry;
            at
        };
        self.series.iter().map(place).collect()
    }

    /// Returns a value with its unit.
    pub(super) fn value(&self, value: f64) -> String {
        match self.unit {
            Unit::Bytes => size(value as u64),
            Unit::Percent => format!("{} %", trimmed(value)),
            Unit::Count => match value {
                1e6.. => format!("{} M", trimmed(value / 1e6)),
                _ => thousands(value as u64),
            },
        }
    }
}

/// Where the drawing lies.
pub(super) struct Plot {
    pub(super) right: f64,
    highest: f64,
    is_logarithmic: bool,
}

impl Plot {
    pub(super) fn x(&self, along: f64) -> f64 {
        LEFT + along * (self.right - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.is_logarithmic {
            true => (value + 1.0).ln() / (self.highest + 1.0).ln(),
            false => value / self.highest,
        };
        TOP + INNER * (1.0 - share)
    }
}

/// Quotes a field of CSV where it has to be (RFC 4180 §2).
pub fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(kind: Kind) -> Chart {
        let series =
            |name: &str, values: [f64; 3]| Series { name: name.into(), values: values.into() };
        Chart {
            name: "c",
            title: "t",
            note: String::new(),
            kind,
            unit: Unit::Count,
            places: Places::Seconds(vec![0.0, 1.0, 2.0]),
            mark: None,
            series: vec![series("one,", [1.0, 2.0, 3.0]), series("other", [4.0, 3.0, 2.0])],
        }
    }

    #[test]
    fn csv_has_every_number_and_quotes_names() {
        let text = chart(Kind::Lines).csv();
        assert_eq!(
            text,
            "seconds,\"one,\",other\r\n0.000000,1,4\r\n1.000000,2,3\r\n2.000000,3,2\r\n"
        );
    }

    #[test]
    fn bands_lie_on_top_of_one_another_and_fill_the_height() {
        let text = chart(Kind::Stacked).svg(174.0).inline();
        // 5 at most: the second band's upper edge is the top at every place.
        assert!(
            text.contains("d='M62 16L112 16L162 16L162 96L112 136L62 176Z' class='s1'"),
            "{text}"
        );
    }

    #[test]
    fn nothing_is_drawn_outside_of_the_picture() {
        for width in [340.0, 760.0] {
            let svg = chart(Kind::Stacked).svg(width);
            let text = svg.inline();
            for x in text.split(" x='").skip(1).filter_map(|rest| rest.split('\'').next()) {
                let x: f64 = x.parse().expect("a number");
                assert!((0.0..=width).contains(&x), "{x}");
            }
        }
    }
}
