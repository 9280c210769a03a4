//! Line plots as SVG: axes, grid, curves, legend.

use std::fmt::Write as _;

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 55.0;
/// Told apart by people who do not see all colours too (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"];

/// Mapping of values to positions on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// In equal steps, from 0 or the smallest value.
    Linear,
    /// By powers of ten.
    Log,
}

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Beside it.
    pub title: &'static str,
    /// Mapping of values to positions.
    pub scale: Scale,
    /// Places and texts of the grid's lines; found if there are none.
    pub ticks: Vec<(f64, String)>,
}

/// A line of the plot.
#[derive(Clone, Debug)]
pub struct Curve {
    /// In the legend.
    pub name: String,
    /// In order.
    pub points: Vec<(f64, f64)>,
    /// Curves of one colour belong together.
    pub colour: usize,
    /// Dashes, for the lesser curve of one colour.
    pub is_dashed: bool,
    /// A mark at each point.
    pub has_marks: bool,
}

/// Draws a whole SVG file.
#[must_use]
pub fn draw(title: &str, x: &Axis, y: &Axis, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| curve.points.iter());
    let x_range = Range::new(x, points().map(|point| point.0));
    let y_range = Range::new(y, points().map(|point| point.1));
    let place_x = |value: f64| LEFT + x_range.share(value) * (WIDTH - LEFT - RIGHT);
    let place_y = |value: f64| HEIGHT - BOTTOM - y_range.share(value) * (HEIGHT - TOP - BOTTOM);

    let mut svg = String::new();
    // Writing to a String cannot fail.
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _ = svg.write_fmt(text);
        svg.push('\n');
    };
    line(format_args!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">"#
    ));
    line(format_args!(r##"<rect width="100%" height="100%" fill="#ffffff"/>"##));
    line(format_args!(
        r#"<text x="{}" y="22" font-size="15" text-anchor="middle">{}</text>"#,
        WIDTH / 2.0,
        escape(title)
    ));
    for (value, text) in x_range.ticks(x) {
        let (at, bottom) = (place_x(value), HEIGHT - BOTTOM);
        line(format_args!(
            r##"<path d="M{at:.1} {TOP}V{bottom}" stroke="#dddddd"/><text x="{at:.1}" y="{}" text-anchor="middle">{text}</text>"##,
            bottom + 16.0
        ));
    }
    for (value, text) in y_range.ticks(y) {
        let (at, right) = (place_y(value), WIDTH - RIGHT);
        line(format_args!(
            r##"<path d="M{LEFT} {at:.1}H{right}" stroke="#dddddd"/><text x="{}" y="{:.1}" text-anchor="end">{text}</text>"##,
            LEFT - 6.0,
            at + 4.0
        ));
    }
    line(format_args!(
        r#"<text x="{}" y="{}" text-anchor="middle">{}</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        escape(x.title)
    ));
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    line(format_args!(
        r#"<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{}</text>"#,
        escape(y.title)
    ));
    for (index, curve) in curves.iter().enumerate() {
        let colour = COLOURS[curve.colour % COLOURS.len()];
        let dashes = if curve.is_dashed { r#" stroke-dasharray="5 4""# } else { "" };
        let places: Vec<(f64, f64)> =
            curve.points.iter().map(|(x, y)| (place_x(*x), place_y(*y))).collect();
        let path: String = places.iter().map(|(x, y)| format!("{x:.1},{y:.1} ")).collect();
        line(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.8"{dashes}/>"#,
            path.trim_end()
        ));
        for (x, y) in places.iter().filter(|_| curve.has_marks) {
            line(format_args!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="2.5" fill="{colour}"/>"#));
        }
        #[expect(clippy::cast_precision_loss, reason = "curves are few")]
        let at = TOP + 16.0 + 17.0 * index as f64;
        line(format_args!(
            r#"<path d="M{} {}h24" stroke="{colour}" stroke-width="1.8"{dashes}/><text x="{}" y="{at}">{}</text>"#,
            LEFT + 12.0,
            at - 4.0,
            LEFT + 42.0,
            escape(&curve.name)
        ));
    }
    line(format_args!("</svg>"));
    svg
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An axis's ends, in powers of ten if it is logarithmic.
struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    fn new(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let is_usable = |value: &f64| axis.scale == Scale::Linear || *value > 0.0;
        for value in values.filter(is_usable).chain(axis.ticks.iter().map(|tick| tick.0)) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let (low, high) = match axis.scale {
            // Up to the next 2, 5 or 10, so that a curve isn't flattened by an empty decade.
            Scale::Log => (logarithm_below(low), -logarithm_below(1.0 / high)),
            Scale::Linear if low >= 0.0 => (0.0, high * 1.05),
            Scale::Linear => (low, high * 1.05),
        };
        Self { scale: axis.scale, low, high: if high > low { high } else { low + 1.0 } }
    }

    /// From 0 at the low end to 1 at the high one.
    fn share(&self, value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log if value > 0.0 => value.log10(),
            Scale::Log => self.low,
        };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn ticks(&self, axis: &Axis) -> Vec<(f64, String)> {
        if !axis.ticks.is_empty() {
            return axis.ticks.clone();
        }
        let mut ticks = Vec::new();
        match self.scale {
            Scale::Log => {
                let mut power = self.low.floor();
                while power <= self.high {
                    for digit in [1.0, 2.0, 5.0] {
                        let value = digit * 10f64.powf(power);
                        let place = value.log10();
                        if place >= self.low - 1e-9 && place <= self.high + 1e-9 {
                            ticks.push((value, number(value)));
                        }
                    }
                    power += 1.0;
                }
            }
            Scale::Linear => {
                let rough = (self.high - self.low) / 8.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .map(|digit| digit * power)
                    .into_iter()
                    .find(|step| *step >= rough)
                    .unwrap_or(rough);
                let mut value = (self.low / step).ceil() * step;
                while value <= self.high {
                    ticks.push((value, number(value)));
                    value += step;
                }
            }
        }
        ticks
    }
}

/// The logarithm of the largest 1, 2 or 5 times a power of ten that is not above `value`.
fn logarithm_below(value: f64) -> f64 {
    let power = value.log10().floor();
    let share = value.log10() - power;
    let steps = [5f64.log10(), 2f64.log10()];
    power + steps.into_iter().find(|step| share >= step - 1e-9).unwrap_or(0.0)
}

/// Without digits that say nothing.
fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded.abs() >= 1e6 {
        format!("{}M", rounded / 1e6)
    } else if rounded.abs() >= 1e4 {
        format!("{}k", rounded / 1e3)
    } else {
        rounded.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { title: "a <b>", scale, ticks: Vec::new() }
    }

    /// All points lie inside the frame, whatever they are, and names can't break the XML.
    #[test]
    fn points_stay_inside_and_names_are_escaped() {
        for scale in [Scale::Linear, Scale::Log] {
            for points in [
                vec![],
                vec![(0.0, 0.0)],
                vec![(1.0, 1.0), (1.0, 1.0)],
                vec![(-1.0, 0.001), (1e9, 1e9)],
            ] {
                let curve = Curve {
                    name: "<x> & y".into(),
                    points,
                    colour: 9,
                    is_dashed: true,
                    has_marks: true,
                };
                let svg = draw("t", &axis(scale), &axis(scale), &[curve]);
                assert!(svg.contains("&lt;x&gt; &amp; y") && !svg.contains("<b>"), "{svg}");
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        let range = Range::new(&axis(Scale::Linear), [0.0, 70.0].into_iter());
        let texts: Vec<String> =
            range.ticks(&axis(Scale::Linear)).into_iter().map(|tick| tick.1).collect();
        assert_eq!(texts, ["0", "10", "20", "30", "40", "50", "60", "70"]);
        let range = Range::new(&axis(Scale::Log), [0.3, 12_000.0].into_iter());
        let texts: Vec<String> =
            range.ticks(&axis(Scale::Log)).into_iter().map(|tick| tick.1).collect();
        assert_eq!(texts[..4], ["0.2", "0.5", "1", "2"]);
        assert_eq!(texts.last().map(String::as_str), Some("20k"));
    }
}
