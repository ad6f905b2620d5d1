//! From quantities to places: where a value lies on an axis, and which values are named there.

/// An axis from `begin` to `end`, drawn from `from` to `to`.
#[derive(Clone, Copy)]
pub struct Scale {
    begin: f64,
    end: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// An axis that is never empty.
    pub fn new([begin, end]: [f64; 2], [from, to]: [f64; 2]) -> Self {
        Self { begin, end: if end > begin { end } else { begin + 1.0 }, from, to }
    }

    /// Where `value` lies; what is beyond the axis lies at its end.
    pub fn at(&self, value: f64) -> f64 {
        let part = ((value - self.begin) / (self.end - self.begin)).clamp(0.0, 1.0);
        self.from + part * (self.to - self.from)
    }

    /// Round values along it, about `count` of them: steps of 1, 2 or 5 times a power of ten.
    pub fn ticks(&self, count: f64) -> Vec<f64> {
        let rough = (self.end - self.begin) / count.max(1.0);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= rough);
        let step = step.unwrap_or(power * 10.0);
        let first = (self.begin / step).ceil() as i64;
        let last = (self.end / step).floor() as i64;
        (first..=last).map(|number| number as f64 * step).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lie_between_the_ends() {
        let scale = Scale::new([0.0, 10.0], [100.0, 200.0]);
        assert_eq!([scale.at(-5.0), scale.at(5.0), scale.at(50.0)], [100.0, 150.0, 200.0]);
        let empty = Scale::new([3.0, 3.0], [0.0, 1.0]);
        assert!(empty.at(3.0).is_finite());
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(Scale::new([0.0, 10.0], [0.0, 1.0]).ticks(5.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        for end in [0.0007, 0.3, 1.0, 17.0, 123_456.0, 9e18] {
            let ticks = Scale::new([0.0, end], [0.0, 1.0]).ticks(6.0);
            assert!((2..=9).contains(&ticks.len()), "{end}: {ticks:?}");
        }
    }
}
