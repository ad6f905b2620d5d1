//! Elements as text. Whatever comes from outside goes through [`escaped`]: names are chosen by users, and a page must not run or
//! load what they say.

use std::fmt::{Display, Write as _};

/// Text as it may stand between tags and in quoted attributes. Control characters, which no document may hold, become a mark.
pub fn escaped(text: impl Display) -> String {
    let mut safe = String::new();
    for character in text.to_string().chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(' '),
            other if other.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// A drawing of fixed width that grows downwards.
#[derive(Default)]
pub struct Drawing {
    body: String,
}

/// Width of every drawing.
pub const WIDTH: f64 = 980.0;

impl Drawing {
    /// A box with a hint that a pointer shows and a screen reader reads.
    pub fn bar(&mut self, class: &str, [x, y, width, height]: [f64; 4], hint: &str) {
        // A sliver that cannot be seen says nothing.
        let width = width.max(1.5);
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" rx="1.5"><title>{}</title></rect>"#,
            escaped(hint)
        );
    }

    /// Text; `class` says how it is aligned.
    pub fn text(&mut self, class: &str, x: f64, y: f64, text: impl Display) {
        let _ = write!(self.body, r#"<text class="{class}" x="{x:.2}" y="{y:.2}">{}</text>"#, escaped(text));
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{x1:.2}" y1="{y1:.2}" x2="{x2:.2}" y2="{y2:.2}"/>"#
        );
    }

    /// Lines from point to point.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
        let _ = write!(self.body, r#"<polyline class="{class}" points="{}"/>"#, points.join(" "));
    }

    /// A filled shape.
    pub fn shape(&mut self, class: &str, points: &[(f64, f64)]) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.2},{y:.2}")).collect();
        let _ = write!(self.body, r#"<polygon class="{class}" points="{}"/>"#, points.join(" "));
    }

    /// A dot with a hint.
    pub fn dot(&mut self, class: &str, x: f64, y: f64, hint: &str) {
        let _ = write!(
            self.body,
            r#"<circle class="{class}" cx="{x:.2}" cy="{y:.2}" r="4"><title>{}</title></circle>"#,
            escaped(hint)
        );
    }

    /// The element, `height` high, with a name and a description for who cannot see it.
    pub fn finish(self, id: &str, height: f64, title: &str, description: &str) -> String {
        format!(
            r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-labelledby="{id}-t {id}-d"><title id="{id}-t">{}</title><desc id="{id}-d">{}</desc>{}</svg>"#,
            escaped(title),
            escaped(description),
            self.body
        )
    }
}

/// A table; the first row of `head` names the columns.
pub fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells
            .map(|cell| format!("<{tag}>{}</{}>", escaped(cell.trim()), tag.split(' ').next().unwrap_or(tag)))
            .collect()
    };
    let head = cells(r#"th scope="col""#, &mut head.iter().copied());
    let rows: String = rows
        .iter()
        .map(|row| format!("<tr>{}</tr>", cells("td", &mut row.iter().map(String::as_str))))
        .collect();
    let label = escaped(caption);
    format!(
        r#"<div class="scroll"><table aria-label="{label}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_becomes_markup() {
        assert_eq!(
            escaped("<script>\"a\" & 'b'\u{0}\n</script>"),
            "&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;\u{fffd} &lt;/script&gt;"
        );
    }
}
