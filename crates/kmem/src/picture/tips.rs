//! The values of a chart over time at the pointer, without a script: each slice of the chart has a
//! box that its style shows while the pointer is over the slice.

use super::chart::{CHARACTER, Chart, INNER, LEFT, Places, Plot, TOP};
use super::svg::{BANDS, Svg};

/// Height of a line of a box.
const LINE: f64 = 15.0;
/// Around the text of a box.
const PADDING: f64 = 6.0;
/// Between the pointer's line and the box.
const GAP: f64 = 8.0;
/// Place for the colour in front of a line.
const COLOUR: f64 = 13.0;

/// Draws `chart` `width` pixels wide with its values at up to `slices` places of the pointer.
pub fn svg(chart: &Chart, width: f64, slices: usize) -> Svg {
    let mut svg = chart.svg(width);
    if let Places::Seconds(seconds) = &chart.places {
        draw(chart, seconds, &mut svg, &chart.plot(width), slices);
    }
    svg
}

/// Draws the boxes of up to `slices` slices.
fn draw(chart: &Chart, seconds: &[f64], svg: &mut Svg, plot: &Plot, slices: usize) {
    let places = chart.along();
    let slices = slices.min(places.len());
    if slices == 0 {
        return;
    }
    let width = (plot.right - LEFT) / slices as f64;
    for slice in 0..slices {
        let along = (slice as f64 + 0.5) / slices as f64;
        // The sample that is nearest to the middle of the slice.
        let after = places.partition_point(|place| *place < along);
        let candidates = [after.saturating_sub(1), after.min(places.len() - 1)];
        let distance = |place: &usize| (places[*place] - along).abs();
        let nearest =
            candidates.into_iter().min_by(|one, other| distance(one).total_cmp(&distance(other)));
        let place = nearest.unwrap_or(0);
        svg.begin_group("at");
        let left = LEFT + slice as f64 * width;
        svg.rect((left, TOP), (width, INNER), "hit", "");
        draw_box(chart, svg, plot, place, seconds[place], plot.x(places[place]));
        svg.end_group();
    }
}

/// Draws the line and the box of one place.
fn draw_box(chart: &Chart, svg: &mut Svg, plot: &Plot, place: usize, seconds: f64, x: f64) {
    let mut lines = vec![(None, format!("{seconds:.2} s"))];
    // Top down, as bands lie.
    for (index, series) in chart.series.iter().enumerate().rev() {
        let value = chart.value(series.values[place]);
        lines.push((Some(index), format!("{} {value}", series.name)));
    }
    let longest = lines.iter().map(|(_, text)| text.chars().count()).max().unwrap_or(0);
    let width = (longest as f64 * CHARACTER + COLOUR + 2.0 * PADDING).min(plot.right - LEFT);
    let height = lines.len() as f64 * LINE + 2.0 * PADDING;
    let left = match x + GAP + width <= plot.right {
        true => x + GAP,
        false => (x - GAP - width).max(2.0),
    };
    svg.begin_group("tip");
    svg.path(&format!("M{x:.1} {TOP}V{}", TOP + INNER), "guide", "");
    svg.rect((left, TOP), (width, height), "box", "");
    for (index, (band, text)) in lines.iter().enumerate() {
        let top = TOP + PADDING + index as f64 * LINE;
        if let Some(band) = band {
            svg.rect((left + PADDING, top + 3.0), (8.0, 8.0), BANDS[band % 8], "");
        }
        svg.text((left + PADDING + COLOUR, top + 11.0), "", text);
    }
    svg.end_group();
}
