//! Pictures of a report: for each sort of figure one SVG file, drawn from the rows and nothing else.
//!
//! A row is a line with a dot for each sample, a stroke at the median and a red one at what is to be reached. Figures beside each other
//! differ by powers of ten, so the axis is logarithmic; names stand beside the lines, because a legend has to be looked up.

use crate::report::{Report, Row};
use std::fmt::Write as _;

/// Width of the names, of the drawing and of the figures beside it, pixels.
const NAMES: f64 = 400.0;
const DRAWING: f64 = 420.0;
const FIGURES: f64 = 150.0;
/// Height of a line, and what is above and below all of them, pixels.
const LINE: f64 = 26.0;
const ABOVE: f64 = 44.0;
const BELOW: f64 = 34.0;

/// A picture: its file, its title and the rows that are in it.
type Picture = (&'static str, &'static str, fn(&Row) -> bool);

const PICTURES: [Picture; 5] = [
    ("outage.svg", "The longest that a client waited", |row| {
        row.name.ends_with("client outage") && row.unit == "ms"
    }),
    ("still.svg", "How long it stood still, and how long beyond its memory", |row| {
        row.name.ends_with(": stood still") || row.name.ends_with("beyond its memory")
    }),
    ("throughput.svg", "Bytes of memory that arrive in a second", |row| row.unit == "MiB/s"),
    ("total.svg", "The whole move", |row| row.name.ends_with(": total")),
    ("faults.svg", "Pages served to tasks that wait for them", |row| row.unit == "us"),
];

/// The pictures for which there are rows, each with the name of its file.
#[must_use]
pub fn draw(report: &Report) -> Vec<(&'static str, String)> {
    let there = PICTURES.iter().filter_map(|(file, title, belongs)| {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| belongs(row)).collect();
        (!rows.is_empty()).then(|| (*file, picture(title, &rows)))
    });
    there.collect()
}

fn picture(title: &str, rows: &[&Row]) -> String {
    let axis = Axis::over(rows);
    let (width, height) = (NAMES + DRAWING + FIGURES, ABOVE + BELOW + LINE * rows.len() as f64);
    let bottom = height - BELOW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"16\">{}</text>\n",
        text(title)
    );
    for tick in axis.ticks() {
        let x = axis.x(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {ABOVE}V{bottom:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#666\">{}</text>",
            bottom + 18.0,
            number(tick)
        );
    }
    for (index, row) in rows.iter().enumerate() {
        line(&mut svg, &axis, row, ABOVE + LINE * (index as f64 + 0.5));
    }
    svg.push_str("</svg>\n");
    svg
}

fn line(svg: &mut String, axis: &Axis, row: &Row, y: f64) {
    let _ = write!(svg, "<text x=\"12\" y=\"{:.1}\">{}</text>", y + 4.0, text(&row.name));
    for sample in &row.samples {
        let x = axis.x(*sample);
        let _ = write!(
            svg,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"#4878a8\" fill-opacity=\"0.5\"/>"
        );
    }
    let mut stroke = |value: f64, colour: &str| {
        let x = axis.x(value);
        let (from, to) = (y - 9.0, y + 9.0);
        let _ = write!(svg, "<path d=\"M{x:.1} {from:.1}V{to:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/>");
    };
    stroke(row.value, "#204060");
    if let Some(bound) = row.bound.filter(|bound| *bound > 0.0) {
        stroke(bound, "#c03030");
    }
    let reach = row.bound.map(|bound| format!(" ({})", number(bound))).unwrap_or_default();
    let _ = writeln!(
        svg,
        "<text x=\"{:.1}\" y=\"{:.1}\">{} {}{reach}</text>",
        NAMES + DRAWING + 14.0,
        y + 4.0,
        number(row.value),
        text(&row.unit)
    );
}

/// A logarithmic axis over whole powers of ten.
struct Axis {
    from: f64,
    to: f64,
}

impl Axis {
    fn over(rows: &[&Row]) -> Self {
        let values = rows.iter().flat_map(|row| row.samples.iter().chain(row.bound.iter()));
        let positive: Vec<f64> = values.copied().filter(|value| *value > 0.0).collect();
        let least = positive.iter().copied().fold(f64::INFINITY, f64::min);
        let most = positive.iter().copied().fold(0.0, f64::max);
        if positive.is_empty() {
            return Self { from: 0.0, to: 1.0 };
        }
        let (from, to) = (least.log10().floor(), most.log10().ceil());
        Self { from, to: to.max(from + 1.0) }
    }

    /// Where a value is; what is not positive is at the left end.
    fn x(&self, value: f64) -> f64 {
        let at = if value > 0.0 { (value.log10() - self.from) / (self.to - self.from) } else { 0.0 };
        NAMES + DRAWING * at.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.from as i32..=self.to as i32).map(|power| 10_f64.powi(power))
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn text(raw: &str) -> String {
    raw.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;

    #[test]
    fn samples_and_bounds_stand_where_the_axis_says_and_names_stay_text() {
        let rows = vec![
            Row::new("a <b>: client outage", "ms", vec![1.0, 10.0, 100.0]).at_most(10.0),
            Row::new("unseen", "count", vec![7.0]),
        ];
        let machine = Machine::here();
        let report = Report { bench: "live".into(), machine, rows, skipped: Vec::new() };
        let pictures = draw(&report);
        let [("outage.svg", svg)] = &pictures[..] else { panic!("{pictures:?}") };
        assert_eq!(svg.matches("<circle").count(), 3);
        for x in [NAMES, NAMES + DRAWING / 2.0, NAMES + DRAWING] {
            assert!(svg.contains(&format!("cx=\"{x:.1}\"")), "{svg}");
        }
        assert!(svg.contains("a &lt;b&gt;") && !svg.contains("unseen") && svg.contains("#c03030"), "{svg}");
    }
}
