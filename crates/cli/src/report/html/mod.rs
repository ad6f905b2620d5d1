//! The report as a page: one file that loads nothing, runs nothing and says all of it also in words and tables. Light or dark as the
//! reader's screen is.

mod markup;
mod rounds;
mod scale;
mod timeline;

use super::{Story, pause_rows, text};
use crate::output::{date, span_us};
use ferry_model::api::MoveState;
use markup::{escaped, table};
use std::fmt::Write as _;

/// Nothing is loaded from anywhere, whatever a name says.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The whole page.
pub fn page(story: &Story) -> String {
    let mut body = String::new();
    head(&mut body, story);
    pictures(&mut body, story);
    tables(&mut body, story);
    let title = escaped(story.headline());
    let style = include_str!("style.css");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn head(body: &mut String, story: &Story) {
    let _ = writeln!(body, "<h1>{}</h1>", escaped(story.headline()));
    let about = format!("{}, by {}, {} UTC", story.id, story.method_name(), date(story.began_unix));
    let _ = writeln!(body, "<p class=\"soft\">{}</p>", escaped(about));
    if let Some(error) = &story.error {
        let _ = writeln!(body, "<p class=\"bad\">{}</p>", escaped(error));
    }
    body.push_str("<dl class=\"figures\">\n");
    for (name, value) in text::figures(story) {
        let class = if name == "stood still" { " class=\"first\"" } else { "" };
        let _ = writeln!(body, "<div{class}><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(value));
    }
    body.push_str("</dl>\n");
    if let Some(chosen) = &story.chosen {
        let _ = writeln!(body, "<p>{}</p>", escaped(&chosen.reason));
    }
    for remedy in &story.remedies {
        let told = format!("After {}: {}", span_us(remedy.at_us), remedy.what.reason);
        let _ = writeln!(body, "<p>{}</p>", escaped(told));
    }
}

fn pictures(body: &mut String, story: &Story) {
    if story.phases.is_empty() {
        return;
    }
    let mut key = vec![("k-calm", "phase while it runs")];
    if story.pause.is_some() {
        key.push(("k-still", "while it stands still"));
    }
    if !story.rounds.is_empty() {
        key.push(("k-calm-soft", "round: area is bytes sent"));
        key.push(("k-dirty", "memory dirtied in a second"));
    }
    let mut caption = "The move from its begin to its end.".to_owned();
    if story.pause.is_some() {
        caption.push_str(" The pause opens to the full width below, with what it went to; both hosts work at the same time.");
    }
    if story.summary.outage_us.is_some() {
        key.push(("k-outside", "a client waited"));
        caption.push_str(" Of the client's wait only the length is known; it is drawn from the freeze on.");
    }
    figure(body, "Timeline", &caption, &key, &timeline::draw(story));
    if story.rounds.len() > 1 {
        let caption =
            "What each round found dirty and sent, on a logarithmic axis. A falling line converges.";
        figure(
            body,
            "Rounds",
            caption,
            &[("k-dirty", "found dirty"), ("k-calm", "sent")],
            &rounds::draw(story),
        );
    }
}

fn figure(body: &mut String, title: &str, caption: &str, key: &[(&str, &str)], drawing: &str) {
    let key: String =
        key.iter().map(|(class, name)| format!("<span><i class=\"{class}\"></i>{name}</span>")).collect();
    let _ = writeln!(
        body,
        "<figure>\n<h2>{title}</h2>\n<figcaption>{caption}</figcaption>\n<div class=\"key\" aria-hidden=\"true\">{key}</div>\n{drawing}\n</figure>"
    );
}

fn tables(body: &mut String, story: &Story) {
    let mut section = |title: &str, content: String| {
        let _ = writeln!(body, "<section>\n<h2>{title}</h2>\n{content}\n</section>");
    };
    if let Some(pause) = &story.pause {
        let mut rows = pause_rows(pause);
        rows.push(vec!["stood still".to_owned(), String::new(), span_us(pause.us())]);
        section("What the pause went to", table("Causes of the pause", &["cause", "from", "took"], &rows));
    }
    if !story.rounds.is_empty() {
        let head = [
            "round",
            "took",
            "found dirty",
            "sent",
            "zero",
            "dirtied/s",
            "sent/s",
            "pause expected after it",
        ];
        section("Round by round", table("Rounds", &head, &text::rounds(story)));
    }
    if let Some(chosen) = story.chosen.as_ref().filter(|chosen| !chosen.predictions.is_empty()) {
        let mut rows = text::predictions(&chosen.predictions);
        if story.state == MoveState::Done {
            let sums = &story.summary;
            let known = |us: Option<u64>| us.map_or_else(String::new, span_us);
            rows.push(vec![
                "as it came".to_owned(),
                known(sums.downtime_us),
                String::new(),
                known(sums.total_us),
                sums.rounds.to_string(),
                crate::output::bytes(sums.sent_bytes),
            ]);
        }
        let head = ["method", "stands still at most", "waits afterwards", "in all", "rounds", "sent"];
        section("What was predicted", table("Predictions", &head, &rows));
    }
    if !story.notes.is_empty() {
        let notes: String = story
            .notes
            .iter()
            .map(|note| {
                format!("<time>{}</time><span>{}</span>", escaped(span_us(note.at_us)), escaped(&note.what))
            })
            .collect();
        section("Notes", format!("<div class=\"note\">{notes}</div>"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{live, moved};
    use super::*;
    use ferry_model::event::{Cause, Phase, What};

    fn of(one: &ferry_model::api::Move) -> String {
        page(&Story::of(one))
    }

    /// Tags that are open, innermost last; panics at one that closes another.
    fn check_nesting(page: &str) {
        let mut open: Vec<String> = Vec::new();
        let without_style =
            page.split_once("<style>").unwrap().0.to_owned() + page.split_once("</style>").unwrap().1;
        for tag in without_style.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("a tag that ends");
            let name = tag.trim_start_matches('/').split([' ', '\n']).next().unwrap();
            if tag.starts_with('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "{tag}");
            } else if !(tag.ends_with('/') || tag.starts_with('!') || name == "meta") {
                open.push(name.to_owned());
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn a_live_move_has_pictures_tables_and_words() {
        let page = of(&live("web"));
        check_nesting(&page);
        for wanted in [
            "<h1>web moved from alpha to beta</h1>",
            "id=\"timeline-t\"",
            "id=\"rounds-d\"",
            "<dt>stood still</dt><dd>14.2 ms</dd>",
            "<dt>clients waited at most</dt><dd>15.3 ms</dd>",
            "the pause: 14.2 ms",
            "a client waited",
            "in the pause",
            "as it came",
            "class=\"dirty-line\"",
            "prefers-color-scheme: dark",
        ] {
            assert!(page.contains(wanted), "{wanted:?} is missing");
        }
        assert_eq!(page.matches("<svg").count(), page.matches("role=\"img\"").count());
        assert!(!page.contains("NaN") && !page.contains("inf"), "a place that is no number");
    }

    #[test]
    fn it_loads_and_runs_nothing() {
        let page = of(&live("web")).to_lowercase();
        for unwanted in
            ["://", "<script", "<img", "<link", "<iframe", "@import", "url(", "src=", "href=", " on"]
        {
            let found = page.match_indices(unwanted).find(|(at, _)| {
                // ` on` is an attribute only inside of a tag and before `=`.
                unwanted != " on"
                    || page[*at..].split([' ', '>']).nth(1).is_some_and(|word| word.contains('='))
            });
            assert_eq!(found, None);
        }
    }

    #[test]
    fn names_and_notes_stay_text() {
        let mut one = live("</title><script>alert('x')</script>");
        one.events.push(ferry_model::event::Event {
            at_us: 1,
            what: What::Note { text: "<img src=//evil onerror=x> & \"q\"".into() },
        });
        one.error = Some(ferry_model::error::Error::new(ferry_model::error::Kind::Unable, "<b>no</b>"));
        let page = of(&one);
        check_nesting(&page);
        for unwanted in ["<script", "<img", "<b>"] {
            assert!(!page.contains(unwanted), "{unwanted}");
        }
        assert_eq!(page.matches("<title>&lt;/title&gt;&lt;script&gt;").count(), 1);
        assert!(page.contains("&lt;img src=//evil onerror=x&gt; &amp; &quot;q&quot;"));
    }

    #[test]
    fn a_move_without_rounds_or_without_anything_has_a_page_too() {
        let start = |phase| What::PhaseStart { phase };
        let page = of(&moved(
            "web",
            vec![
                (0, start(Phase::Prepare)),
                (500, What::PhaseEnd { phase: Phase::Prepare }),
                (500, start(Phase::Freeze)),
                (900, What::Spent { cause: Cause::Freeze, us: 300 }),
                (2_000, start(Phase::Resume)),
                (2_500, What::PhaseEnd { phase: Phase::Resume }),
                (2_600, What::End { error: None }),
            ],
        ));
        check_nesting(&page);
        assert!(
            page.contains("the pause: 2.0 ms") && !page.contains("id=\"rounds-t\"") && !page.contains("NaN")
        );
        let empty = of(&moved("web", vec![]));
        check_nesting(&empty);
        assert!(!empty.contains("<svg"));
    }
}
