//! Rounds beside each other: what each found dirty and what it sent. They differ by powers of ten, so the axis is logarithmic, and
//! the marks are dots: a box over such an axis has no meaningful length.

use super::markup::{Drawing, WIDTH};
use super::scale::Scale;
use crate::output::bytes;
use crate::report::Story;

const LEFT: f64 = 90.0;
const RIGHT: f64 = WIDTH - 40.0;
const TOP: f64 = 18.0;
const HEIGHT: f64 = 190.0;
/// Most rounds whose dots have their number of bytes beside them.
const NAMED_MAX: usize = 12;

/// Draws them.
pub fn draw(story: &Story) -> String {
    let mut drawing = Drawing::default();
    let values = |of: fn(&ferry_model::strategy::measured::Round) -> u64| -> Vec<u64> {
        story.rounds.iter().map(|round| of(&round.what.round)).collect()
    };
    let (dirty, sent) = (values(|round| round.dirty_bytes), values(|round| round.sent_bytes));
    let log = |value: u64| (value.max(1) as f64).log2();
    let all = || dirty.iter().chain(&sent).copied().filter(|value| *value > 0);
    let (least, most) = (all().min().unwrap_or(1), all().max().unwrap_or(1));
    // Whole steps of 16: 64 KiB, 1 MiB, 16 MiB ..
    let (low, high) = ((log(least) / 4.0).floor() * 4.0, ((log(most) / 4.0).ceil() * 4.0).max(4.0));
    let base = TOP + HEIGHT;
    let size = Scale::new([low, high], [base, TOP]);
    let last = story.rounds.len().saturating_sub(1).max(1);
    let place = Scale::new([0.0, last as f64], [LEFT + 40.0, RIGHT - 40.0]);
    let mut power = low;
    while power <= high {
        let y = size.at(power);
        drawing.line("grid", [LEFT, y, RIGHT, y]);
        drawing.text("end", LEFT - 10.0, y + 4.0, bytes(2_f64.powf(power) as u64));
        power += 4.0;
    }
    for (class, name, values, above) in
        [("dirty", "found dirty", &dirty, true), ("calm", "sent", &sent, false)]
    {
        let points: Vec<(f64, f64)> = (0..)
            .zip(values.iter())
            .map(|(number, value)| (place.at(f64::from(number)), size.at(log(*value))))
            .collect();
        drawing.path(if above { "dirty-line" } else { "calm-line" }, &points);
        for ((x, y), (number, value)) in points.into_iter().zip((0..).zip(values)) {
            drawing.dot(class, x, y, &format!("round {number}: {} {name}", bytes(*value)));
            if values.len() <= NAMED_MAX && !above {
                drawing.text("", x + 8.0, y - 7.0, bytes(*value));
            }
        }
    }
    let every = story.rounds.len().div_ceil(16).max(1);
    for (number, round) in story.rounds.iter().enumerate() {
        let one = &round.what.round;
        let x = place.at(number as f64);
        if one.last {
            drawing.text("middle", x, base + 20.0, "in the pause");
        } else if number % every == 0 {
            drawing.text("middle", x, base + 20.0, format!("round {}", one.number));
        }
    }
    drawing.line("axis", [LEFT, base, RIGHT, base]);
    let told: Vec<String> = sent.iter().map(|sent| bytes(*sent)).collect();
    drawing.finish(
        "rounds",
        base + 32.0,
        "Bytes of each round",
        &format!("Sent, round by round: {}.", told.join(", ")),
    )
}
