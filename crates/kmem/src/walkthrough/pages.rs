//! A walkthrough as a page of pictures, and as the texts that a terminal shows.

use std::io;

use super::{Layer, play, walk};
use crate::picture::page::{END, begin};
use crate::picture::style::{PAGE_END, Rest, Style};
use crate::picture::svg::escaped;

/// Plays `layer` and returns its steps, each as a terminal with colours would show it.
///
/// # Errors
/// When the system gives no memory.
pub fn steps(layer: Layer) -> io::Result<Vec<String>> {
    let mut out = Vec::new();
    play(layer, &mut out, &Style { plain: false, colour: true, rest: Rest::Page })?;
    let text = String::from_utf8(out).map_err(io::Error::other)?;
    let steps = text.split(PAGE_END).map(|step| step.trim_matches('\n').to_owned());
    Ok(steps.filter(|step| !step.is_empty()).collect())
}

/// Returns the steps of `layers` as one page that needs nothing else.
///
/// # Errors
/// When the system gives no memory.
pub fn html(layers: &[Layer]) -> io::Result<String> {
    let mut html = begin("Memory, step by step");
    for layer in layers {
        let walk = walk(*layer)?;
        html.push_str(&format!(
            "<h1>{}</h1>\n<p>{}</p>\n<p>{}</p>\n<div class='grid'>\n",
            layer.title(),
            layer.about(),
            escaped(walk.introduction.trim())
        ));
        for (index, step) in walk.steps.iter().enumerate() {
            let notes = step.state.notes().into_iter();
            let notes: String = notes.map(|note| format!("<p>{}</p>", escaped(&note))).collect();
            html.push_str(&format!(
                "<section><h2>{}. {}</h2><div class='scroll fit'>{}</div>{}</section>\n",
                index + 1,
                escaped(&step.title()),
                step.drawing().inline(),
                notes
            ));
        }
        html.push_str("</div>\n");
    }
    Ok(html + END)
}

/// Returns the caption of a step as text, for readers who cannot see the picture.
pub fn title(step: &str) -> String {
    let bold = step.split("\x1b[1m").nth(1).and_then(|rest| rest.split("\x1b[0m").next());
    escaped(bold.unwrap_or("a step").trim()).replace('\n', " ")
}
