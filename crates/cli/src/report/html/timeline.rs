//! The whole move along its time: phases as bars, the link's and the workload's rates beneath on the same axis, and the pause magnified.
//!
//! A round is drawn as a box as wide as it took and as high as its bytes in a second, so that its area is the bytes sent; the rate at
//! which memory was dirtied is a line on the same axis. Where the line is below the boxes, rounds get smaller.

use super::markup::{Drawing, WIDTH};
use super::scale::Scale;
use crate::output::{bytes, span_us};
use crate::progress::phase_name;
use crate::report::{Pause, Story, cause_name};
use ferry_model::event::Phase;

/// Where the axes begin and end, from the left.
const LEFT: f64 = 162.0;
const RIGHT: f64 = WIDTH - 20.0;
/// Height of a row, and of the bar in it.
const ROW: f64 = 22.0;
const BAR: f64 = 13.0;
/// Height of the plot of rates.
const PLOT: f64 = 130.0;

/// Draws it.
pub fn draw(story: &Story) -> String {
    let mut drawing = Drawing::default();
    let time = Scale::new([0.0, story.end_us as f64], [LEFT, RIGHT]);
    let mut y = 22.0;
    let top = y - 6.0;
    let rates_top = y + story.phases.len() as f64 * ROW + 26.0;
    let with_rounds = !story.rounds.is_empty();
    let bottom = if with_rounds { rates_top + PLOT } else { y + story.phases.len() as f64 * ROW + 4.0 };
    for tick in time.ticks(6.0) {
        let x = time.at(tick);
        drawing.line("grid", [x, top, x, bottom]);
        drawing.text("middle", x, 10.0, span(tick));
    }
    if let Some(pause) = &story.pause {
        lens(&mut drawing, pause, time, [top, bottom, bottom + 34.0]);
    }
    for phase in &story.phases {
        let (from, to) = (time.at(phase.begin_us as f64), time.at(phase.end_us as f64));
        let still = (Phase::Freeze..=Phase::Resume).contains(&phase.what);
        let name = phase_name(phase.what);
        let took = span_us(phase.us());
        drawing.text("end", LEFT - 12.0, y + 11.0, name);
        let class = if still { "still" } else { "calm" };
        drawing.bar(
            class,
            [from, y, to - from, BAR],
            &format!("{name}: {took}, from {}", span_us(phase.begin_us)),
        );
        beside(&mut drawing, [from, to], y, &took);
        y += ROW;
    }
    if with_rounds {
        rates(&mut drawing, story, time, rates_top);
    }
    let mut height = bottom + 16.0;
    if let Some(pause) = &story.pause {
        height = magnified(&mut drawing, story, pause, bottom + 34.0);
    }
    drawing.finish("timeline", height, "Timeline of the move", &describe(story))
}

/// The pause as a band over the whole height, opening to the full width below.
fn lens(drawing: &mut Drawing, pause: &Pause, time: Scale, [top, bottom, opened]: [f64; 3]) {
    let from = time.at(pause.begin_us as f64);
    let to = time.at(pause.end_us as f64).max(from + 1.5);
    drawing.shape(
        "lens",
        &[(from, top), (to, top), (to, bottom), (RIGHT, opened), (LEFT, opened), (from, bottom)],
    );
}

/// Rounds and the rate of dirtying, in bytes in a second.
fn rates(drawing: &mut Drawing, story: &Story, time: Scale, top: f64) {
    let sent = story.rounds.iter().filter_map(|round| round.what.round.bytes_per_s());
    let dirtied = story.rounds.iter().filter_map(|round| round.what.round.dirty_bytes_per_s());
    let most = sent.chain(dirtied).max().unwrap_or(1);
    let base = top + PLOT;
    let rate = Scale::new([0.0, most as f64 * 1.08], [base, top]);
    drawing.text("end", LEFT - 12.0, top - 8.0, "bytes in a second");
    for tick in binary_ticks(most) {
        let y = rate.at(tick as f64);
        drawing.line("grid", [LEFT, y, RIGHT, y]);
        drawing.text("end", LEFT - 12.0, y + 4.0, bytes(tick));
    }
    for round in &story.rounds {
        let one = &round.what.round;
        let (from, to) = (time.at(round.begin_us as f64), time.at(round.end_us as f64));
        let height = base - rate.at(one.bytes_per_s().unwrap_or(0) as f64);
        let name =
            if one.last { "the round in the pause".to_owned() } else { format!("round {}", one.number) };
        let hint = format!(
            "{name}: {} sent in {}, {} found dirty",
            bytes(one.sent_bytes),
            span_us(one.duration_us),
            bytes(one.dirty_bytes)
        );
        drawing.bar(
            if one.last { "still" } else { "calm-soft edge" },
            [from, base - height, to - from, height],
            &hint,
        );
        if to - from > 92.0 {
            drawing.text(
                "middle",
                f64::midpoint(from, to),
                base - 8.0,
                format!("{} sent", bytes(one.sent_bytes)),
            );
        }
    }
    let points: Vec<(f64, f64, u64)> = story
        .rounds
        .iter()
        .filter_map(|round| {
            let dirtied = round.what.round.dirty_bytes_per_s()?;
            // It was dirtied until the scan, which the round begins with.
            Some((time.at(round.begin_us as f64), rate.at(dirtied as f64), dirtied))
        })
        .collect();
    let line: Vec<(f64, f64)> = points.iter().map(|(x, y, _)| (*x, *y)).collect();
    drawing.path("dirty-line", &line);
    for (x, y, dirtied) in points {
        drawing.dot("dirty", x, y, &format!("{} dirtied in a second", bytes(dirtied)));
    }
    drawing.line("axis", [LEFT, base, RIGHT, base]);
}

/// The pause over the full width: what it went to, and how long clients waited. Gives the height of all.
fn magnified(drawing: &mut Drawing, story: &Story, pause: &Pause, top: f64) -> f64 {
    let outage = story.summary.outage_us.unwrap_or(0);
    let length = pause.us().max(outage);
    let time = Scale::new([0.0, length as f64], [LEFT, RIGHT]);
    let rows = pause.causes.len() + usize::from(outage > 0) + 1;
    let first = top + 42.0;
    let bottom = first + rows as f64 * ROW;
    drawing.text("strong", LEFT, top + 17.0, format!("the pause: {}", span_us(pause.us())));
    for tick in time.ticks(7.0) {
        let x = time.at(tick);
        drawing.line("grid", [x, first - 6.0, x, bottom]);
        drawing.text("middle", x, first - 10.0, span(tick));
    }
    let mut y = first;
    let mut row = |name: &str, class: &str, from: u64, us: u64| {
        let (begin, end) = (time.at(from as f64), time.at((from + us) as f64));
        let took = span_us(us);
        drawing.text("end", LEFT - 12.0, y + 11.0, name);
        drawing.bar(class, [begin, y, end - begin, BAR], &format!("{name}: {took}"));
        beside(drawing, [begin, end], y, &took);
        y += ROW;
    };
    row("stood still", "still-soft edge", 0, pause.us());
    for cause in &pause.causes {
        row(cause_name(cause.what), "still", cause.begin_us.saturating_sub(pause.begin_us), cause.us());
    }
    if outage > 0 {
        row("a client waited", "outside", 0, outage);
    }
    bottom + 10.0
}

/// How long a bar took: behind it, or before it, or where it fills the picture, on it.
fn beside(drawing: &mut Drawing, [begin, end]: [f64; 2], y: f64, took: &str) {
    let end = end.max(begin + 1.5);
    if end + 70.0 < RIGHT {
        drawing.text("", end + 6.0, y + 11.0, took);
    } else if begin - 70.0 > LEFT {
        drawing.text("end", begin - 6.0, y + 11.0, took);
    } else {
        drawing.text("on", begin + 8.0, y + 10.5, took);
    }
}

fn span(us: f64) -> String {
    match us {
        us if us <= 0.0 => "0".to_owned(),
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{} ms", trimmed(us / 1e3)),
        us => format!("{} s", trimmed(us / 1e6)),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Round numbers of bytes up to `most`: a quarter of its power of two, and so on.
fn binary_ticks(most: u64) -> Vec<u64> {
    let step = (most / 3).max(1);
    let step = 1_u64 << step.ilog2();
    (0..=most / step).map(|number| number * step).collect()
}

fn describe(story: &Story) -> String {
    let phases: Vec<String> = story
        .phases
        .iter()
        .map(|phase| format!("{} {}", phase_name(phase.what), span_us(phase.us())))
        .collect();
    let mut text = format!("Phases: {}.", phases.join(", "));
    if let Some(pause) = &story.pause {
        let causes: Vec<String> = pause
            .causes
            .iter()
            .map(|cause| format!("{} {}", cause_name(cause.what), span_us(cause.us())))
            .collect();
        text.push_str(&format!(" It stood still for {}: {}.", span_us(pause.us()), causes.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_bar_took_stands_where_there_is_room() {
        let label = |begin, end| {
            let mut drawing = Drawing::default();
            beside(&mut drawing, [begin, end], 0.0, "20.31 s");
            drawing.finish("x", 20.0, "", "")
        };
        assert!(label(LEFT, LEFT + 50.0).contains(r#"class="" x="218.00""#));
        assert!(label(RIGHT - 5.0, RIGHT).contains(r#"class="end" x="949.00""#));
        // Not over the name of its row.
        assert!(label(LEFT + 5.0, RIGHT).contains(r#"class="on" x="175.00""#));
    }

    #[test]
    fn ticks_of_bytes_are_few_and_round() {
        for most in [1, 5, 1_000, 600 << 20, u64::MAX / 2] {
            let ticks = binary_ticks(most);
            assert!((2..=7).contains(&ticks.len()), "{most}: {ticks:?}");
        }
        assert_eq!([span(0.0), span(1500.0), span(2e6), span(20.0)], ["0", "1.5 ms", "2 s", "20 µs"]);
    }
}
