//! What is asked of a measurement.

/// What a number counts. Samples are in seconds, bytes, bytes a second or plain numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
    BytesPerSecond,
    /// Things done in a second.
    PerSecond,
    /// How many of one thing come with another.
    Count,
    /// A ratio.
    Times,
}

/// What the number must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Nothing is asked; it explains the others.
    Told,
}

/// Where the number comes from: series of samples, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The median of one.
    Median(&'static str),
    /// The median of the first over the median of the second.
    Ratio(&'static str, &'static str),
}

/// The least, or the most, that this machine allows: what a perfect program would show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// What sets it: `SHA-256 of the delta`.
    pub(crate) what: &'static str,
    /// Series of its samples, in the goal's unit.
    pub(crate) series: &'static str,
}

/// A row of a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Goal {
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) bound: Bound,
    pub(crate) source: Source,
    pub(crate) limit: Option<Limit>,
}

/// A row that no limit stands beside.
pub(crate) const fn goal(name: &'static str, unit: Unit, bound: Bound, source: Source) -> Goal {
    let limit = None;
    Goal {
        name,
        unit,
        bound,
        source,
        limit,
    }
}

/// One for which nothing is asked.
pub(crate) const fn told(name: &'static str, unit: Unit, series: &'static str) -> Goal {
    goal(name, unit, Bound::Told, Source::Median(series))
}

/// How a measurement compares with its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    Told,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Told => "-",
        }
    }
}

impl Bound {
    pub(crate) fn judge(self, measured: f64) -> Verdict {
        let met = match self {
            Self::Told => return Verdict::Told,
            Self::AtMost(most) => measured <= most,
            Self::AtLeast(least) => measured >= least,
        };
        if met { Verdict::Met } else { Verdict::Missed }
    }

    pub(crate) fn text(self, unit: Unit) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {}", unit.text(most)),
            Self::AtLeast(least) => format!("≥ {}", unit.text(least)),
            Self::Told => "-".to_owned(),
        }
    }
}

/// Name of a unit and how many base units it has, largest first.
type Scale = &'static [(&'static str, f64)];

const KIB: f64 = 1024.0;
const SECONDS: Scale = &[("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)];
const BYTES: Scale = &[("GiB", KIB * KIB * KIB), ("MiB", KIB * KIB), ("KiB", KIB), ("B", 1.0)];
const SPEED: Scale = &[("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)];

impl Unit {
    /// Three digits that say something, and the unit that fits.
    pub(crate) fn text(self, value: f64) -> String {
        let scale = match self {
            Self::Seconds => SECONDS,
            Self::Bytes => BYTES,
            Self::BytesPerSecond => SPEED,
            Self::Times => return format!("{}×", digits(value)),
            Self::PerSecond => return format!("{value:.0}/s"),
            Self::Count => return format!("{value:.3}"),
        };
        let fits = scale.iter().find(|(_, size)| value.abs() >= *size);
        match fits.or(scale.last()) {
            Some((name, size)) => format!("{} {name}", digits(value / size)),
            None => digits(value),
        }
    }

    /// For programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Bytes => "B",
            Self::BytesPerSecond => "B/s",
            Self::PerSecond => "1/s",
            Self::Count => "count",
            Self::Times => "ratio",
        }
    }
}

fn digits(value: f64) -> String {
    let text = match value.abs() {
        v if v >= 1e5 => return format!("{value:.3e}"),
        v if v >= 100.0 => return format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_met_where_it_stands() {
        assert_eq!(Bound::AtMost(1.3).judge(1.3), Verdict::Met);
        assert_eq!(Bound::AtMost(1.3).judge(1.31), Verdict::Missed);
        assert_eq!(Bound::AtLeast(1000.0).judge(1000.0), Verdict::Met);
        assert_eq!(Bound::AtLeast(1000.0).judge(999.0), Verdict::Missed);
        assert_eq!(Bound::AtMost(1.3).judge(f64::NAN), Verdict::Missed);
        assert_eq!(Bound::AtLeast(1.3).judge(f64::NAN), Verdict::Missed);
        assert_eq!(Bound::Told.judge(1.0), Verdict::Told);
    }

    #[test]
    fn numbers_have_three_digits_and_a_unit_that_fits() {
        for (unit, value, text) in [
            (Unit::Seconds, 23.4567e-6, "23.5 µs"),
            (Unit::Seconds, 0.002, "2 ms"),
            (Unit::Seconds, 21.25, "21.2 s"),
            (Unit::Seconds, 0.0, "0 ns"),
            (Unit::Bytes, 48.0 * 1024.0, "48 KiB"),
            (Unit::Bytes, 12_545.0, "12.3 KiB"),
            (Unit::BytesPerSecond, 1.234e9, "1.23 GB/s"),
            (Unit::Times, 1.2345, "1.23×"),
            (Unit::Times, 13_000.4, "13000×"),
            (Unit::Times, 1000.0, "1000×"),
            (Unit::PerSecond, 12_345.6, "12346/s"),
            (Unit::Count, 0.0312, "0.031"),
        ] {
            assert_eq!(unit.text(value), text);
        }
        assert_eq!(Bound::AtMost(200e-6).text(Unit::Seconds), "≤ 200 µs");
        assert_eq!(Bound::AtLeast(1000.0).text(Unit::Times), "≥ 1000×");
    }
}
