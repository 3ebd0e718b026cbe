//! SVG, written by hand: rectangles, paths and text with classes, whose colours are variables with
//! a light and a dark set.

use std::fmt::Write;

/// Colours of pictures and reports, light and dark. Bands `s0` to `s7` differ in hue and in
/// lightness.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--paper:#ffffff;--panel:#f6f7f9;--ink:#1c2128;--faint:#5c6673;--rule:#d5dae1;\
--taken:#2f7f95;--other:#b97a10;--meta:#8d59a8;--idle:#dfe4ea;--on:#ffffff;--good:#2c7a3f;--bad:#c0392b;\
--s0:#3867b0;--s1:#dd8e22;--s2:#bf4a3a;--s3:#3f9d8a;--s4:#84a838;--s5:#a45c9c;--s6:#8d6e4f;--s7:#97a1ae}\
@media(prefers-color-scheme:dark){:root{--paper:#14171c;--panel:#1c2027;--ink:#e4e8ee;--faint:#9aa5b3;--rule:#353c47;\
--taken:#3f9cb5;--other:#c78f34;--meta:#a679c0;--idle:#2c333d;--on:#0f1216;--good:#63c07a;--bad:#ef7f70;\
--s0:#6b9be0;--s1:#e8a648;--s2:#e0766a;--s3:#5cbfab;--s4:#a5c65c;--s5:#c98bc3;--s6:#b79774;--s7:#747f8e}}\
svg text{fill:var(--ink);font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\
svg .mono{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}\
svg .bold{font-weight:700}svg text.faint{fill:var(--faint)}svg text.end{text-anchor:end}svg text.middle{text-anchor:middle}\
svg text.on{fill:var(--on)}svg text.black{fill:#0f1216}svg text.good{fill:var(--good)}svg text.bad{fill:var(--bad)}\
svg .rule{stroke:var(--rule);stroke-width:1;fill:none}svg .line{fill:none;stroke-width:2;stroke-linejoin:round}\
svg .paper{fill:var(--paper)}svg .idle{fill:var(--idle)}svg .taken{fill:var(--taken)}svg .other{fill:var(--other)}\
svg .meta{fill:var(--meta)}\
svg .taken-kept{fill:none;stroke:var(--taken);stroke-width:2}svg .other-kept{fill:none;stroke:var(--other);stroke-width:2}\
svg .s0{fill:var(--s0)}svg .s1{fill:var(--s1)}svg .s2{fill:var(--s2)}svg .s3{fill:var(--s3)}\
svg .s4{fill:var(--s4)}svg .s5{fill:var(--s5)}svg .s6{fill:var(--s6)}svg .s7{fill:var(--s7)}\
svg .line.s0{fill:none;stroke:var(--s0)}svg .line.s1{fill:none;stroke:var(--s1)}svg .line.s2{fill:none;stroke:var(--s2)}\
svg .line.s3{fill:none;stroke:var(--s3)}svg .line.s4{fill:none;stroke:var(--s4)}svg .line.s5{fill:none;stroke:var(--s5)}\
svg .line.s6{fill:none;stroke:var(--s6)}svg .line.s7{fill:none;stroke:var(--s7)}\
svg .mark{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3;fill:none}\
svg text.halo{font-weight:700;paint-order:stroke;stroke:var(--panel);stroke-width:3px}";

/// The style of charts that show values at the pointer.
pub const TIPS: &str = "\
svg .hit{fill:transparent}svg .tip{display:none;pointer-events:none}svg .at:hover .tip{display:block}\
svg .guide{stroke:var(--ink);stroke-width:1}svg .box{fill:var(--paper);stroke:var(--rule);fill-opacity:.94}";

/// Height of a heading.
const HEADING: f64 = 26.0;

/// The classes of distinct bands.
pub const BANDS: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];

/// A picture in the making. Lengths are in pixels at its natural size.
#[derive(Debug, Clone)]
pub struct Svg {
    width: f64,
    height: f64,
    title: String,
    body: String,
}

impl Svg {
    /// Returns an empty picture; `title` is what is read aloud in its place.
    pub fn new(width: f64, height: f64, title: &str) -> Self {
        Self { width, height, title: escaped(title), body: String::new() }
    }

    /// Returns the size.
    pub fn size(&self) -> (f64, f64) {
        (self.width, self.height)
    }

    /// Adds a rectangle. With a `tip`, it shows when it is pointed at.
    pub fn rect(
        &mut self,
        (x, y): (f64, f64),
        (width, height): (f64, f64),
        class: &str,
        tip: &str,
    ) {
        let (x, y, width, height) = (short(x), short(y), short(width), short(height));
        let attributes =
            format!("x='{x}' y='{y}' width='{width}' height='{height}' class='{class}'");
        self.element("rect", &attributes, tip);
    }

    /// Adds a path in SVG's own notation.
    pub fn path(&mut self, way: &str, class: &str, tip: &str) {
        self.element("path", &format!("d='{way}' class='{class}'"), tip);
    }

    /// Adds text whose baseline begins, or by class ends, at a point.
    pub fn text(&mut self, (x, y): (f64, f64), class: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(
            "<text x='{}' y='{}' class='{class}'>{text}</text>",
            short(x),
            short(y)
        ));
    }

    /// Adds text of equally wide characters, stretched to `width` whatever the font.
    pub fn cells(&mut self, (x, y): (f64, f64), width: f64, class: &str, text: &str) {
        let (x, y, width, text) = (short(x), short(y), short(width), escaped(text));
        self.add(format_args!(
            "<text x='{x}' y='{y}' class='mono {class}' textLength='{width}' lengthAdjust='spacingAndGlyphs'>{text}</text>"
        ));
    }

    /// Begins a group of elements.
    pub fn begin_group(&mut self, class: &str) {
        self.add(format_args!("<g class='{class}'>"));
    }

    /// Ends the group that was begun last.
    pub fn end_group(&mut self) {
        self.add(format_args!("</g>"));
    }

    /// Returns the picture with a heading above it.
    pub fn with_heading(mut self, heading: &str) -> Self {
        let body = format!(
            "<text x='12' y='20' class='bold'>{}</text>\n<g transform='translate(0,{HEADING})'>\n{}</g>\n",
            escaped(heading),
            self.body
        );
        self.body = body;
        self.height += HEADING;
        self
    }

    /// Returns the picture for a page that has [`STYLE`].
    pub fn inline(&self) -> String {
        self.whole("", &format!(" style='width:{}px'", short(self.width)))
    }

    /// Returns the picture as a file of its own.
    pub fn standalone(&self) -> String {
        let paper = "<rect width='100%' height='100%' class='paper'/>";
        let size = format!(" width='{}' height='{}'", short(self.width), short(self.height));
        self.whole(&format!("<style>{STYLE}</style>{paper}\n"), &size) + "\n"
    }

    fn whole(&self, head: &str, attributes: &str) -> String {
        let (width, height) = (short(self.width), short(self.height));
        format!(
            "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'{attributes} role='img' aria-label='{}'>{head}{}</svg>",
            self.title, self.body
        )
    }

    fn element(&mut self, name: &str, attributes: &str, tip: &str) {
        match tip {
            "" => self.add(format_args!("<{name} {attributes}/>")),
            tip => {
                let tip = escaped(tip);
                self.add(format_args!("<{name} {attributes}><title>{tip}</title></{name}>"));
            }
        }
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        self.body.write_fmt(text).expect("a String takes all text");
        self.body.push('\n');
    }
}

/// Returns `text` with nothing in it that markup would take for its own, inside elements and quoted
/// attributes.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // XML has no other control characters, not even escaped.
            '\n' | '\t' => safe.push(character),
            control if control.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// Returns a length with at most one decimal.
pub fn short(length: f64) -> String {
    let text = format!("{length:.1}");
    text.strip_suffix(".0").map_or_else(|| text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_leave_its_place() {
        let mut svg = Svg::new(10.0, 10.0, "a'b");
        svg.text((1.0, 2.5), "end", "</text><script>&\u{1b}");
        svg.rect((0.0, 0.0), (1.0, 1.0), "s0", "\"'");
        let text = svg.standalone();
        assert!(text.contains("&lt;/text&gt;&lt;script&gt;&amp;\u{fffd}"), "{text}");
        assert!(text.contains("aria-label='a&#39;b'") && text.contains("<title>&quot;&#39;"));
        assert_eq!(text.matches("</text>").count(), 1);
    }

    #[test]
    fn lengths_are_short() {
        assert_eq!([1.0, 1.25, -0.5, 100.04].map(short), ["1", "1.2", "-0.5", "100"]);
    }
}
