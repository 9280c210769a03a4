//! Charts as inline SVG. Only shapes scale with the page: labels are HTML, so that they stay legible
//! on a phone.

use std::fmt::Write as _;

use super::call::Outcome;
use super::markup::escaped;
use super::sheet::{Cell, Sheet};
use super::text::{OTHERS, grouped, value};
use super::time::{axis_label, shown};

/// Height of a chart in its own units; a bar is ten wide.
const HEIGHT: u64 = 1_000;
const BAR_WIDTH: usize = 10;
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// Rows of a chart of names.
const TOP: usize = 6;
/// Interval from which on an axis shows days alone.
const DAY_MICROS: u64 = 86_400_000_000;

/// Returns the smallest of 1, 2 and 5 times a power of ten that is no less.
fn ceiling(number: u64) -> u64 {
    let mut power = 1_u64;
    loop {
        for factor in [1, 2, 5] {
            let candidate = power.saturating_mul(factor);
            if candidate >= number {
                return candidate;
            }
        }
        power = power.saturating_mul(10);
    }
}

fn number(cell: Option<&Cell>) -> u64 {
    match cell {
        Some(Cell::Number(number) | Cell::Time(number)) => *number,
        _ => 0,
    }
}

/// Returns a chart of calls over time with these outcomes, stacked.
pub(super) fn timeline(sheet: &Sheet, title: &str, outcomes: &[Outcome]) -> String {
    let columns: Vec<(Outcome, usize)> = outcomes
        .iter()
        .filter_map(|outcome| {
            let at = sheet.columns.iter().position(|column| column.id == outcome.name())?;
            Some((*outcome, at))
        })
        .collect();
    let sum = |row: &Vec<Cell>| columns.iter().map(|(_, at)| number(row.get(*at))).sum::<u64>();
    let top = ceiling(sheet.rows.iter().map(sum).max().unwrap_or(0));
    let total: u64 = sheet.rows.iter().map(sum).sum();
    let mut out = caption(title, &columns, sheet);
    let width = sheet.rows.len().max(1) * BAR_WIDTH;
    let half = grouped(top / 2);
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<div class=\"plot\"><div class=\"y\" aria-hidden=\"true\"><span>{}</span><span>{}</span>\
         <span>0</span></div><svg viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" \
         role=\"img\" aria-label=\"{}: {} calls. The table of calls over time in the CSV and JSON \
         forms has the figures.\">",
        grouped(top),
        if top > 1 { &half } else { "" },
        escaped(title),
        grouped(total)
    );
    for (y, class) in [(0, "grid"), (HEIGHT / 2, "grid"), (HEIGHT, "axis")] {
        let _ =
            write!(out, "<line class=\"{class}\" x1=\"0\" x2=\"{width}\" y1=\"{y}\" y2=\"{y}\"/>");
    }
    for (index, row) in sheet.rows.iter().enumerate().filter(|(_, row)| sum(row) > 0) {
        bar(&mut out, index * BAR_WIDTH, row, &columns, top);
    }
    out.push_str("</svg>");
    axis(&mut out, sheet);
    out.push_str("</div></figure>");
    out
}

fn caption(title: &str, columns: &[(Outcome, usize)], sheet: &Sheet) -> String {
    let mut out = format!("<figure><figcaption>{}", escaped(title));
    for (outcome, _) in columns.iter().filter(|_| columns.len() > 1) {
        let name = outcome.name();
        let _ = write!(out, "<span><i class=\"{name}\"></i>{name}</span>");
    }
    let _ = write!(out, "<span>{}</span></figcaption>", escaped(&sheet.note));
    out
}

/// Appends the stacked parts of one interval, with its figures for the pointer.
fn bar(out: &mut String, x: usize, row: &[Cell], columns: &[(Outcome, usize)], top: u64) {
    let begin = shown(number(row.first()));
    let _ = write!(out, "<g><title>{begin}");
    for (outcome, at) in columns {
        let _ = write!(out, "\n{} {}", grouped(number(row.get(*at))), outcome.name());
    }
    out.push_str("</title>");
    let mut y = HEIGHT;
    for (outcome, at) in columns {
        let calls = number(row.get(*at));
        if calls == 0 {
            continue;
        }
        // One call is seen, too.
        let height = scaled(calls, top).max(HEIGHT / 100).min(y);
        y -= height;
        let _ = write!(
            out,
            "<rect class=\"{}\" x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{height}\"/>",
            outcome.name(),
            x + 1,
            BAR_WIDTH - 2
        );
    }
    out.push_str("</g>");
}

fn scaled(number: u64, top: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(HEIGHT) / u128::from(top.max(1));
    u64::try_from(scaled).unwrap_or(HEIGHT)
}

/// Appends the labels of up to three intervals.
fn axis(out: &mut String, sheet: &Sheet) {
    let count = sheet.rows.len();
    let begin = |index: usize| number(sheet.rows.get(index).and_then(|row| row.first()));
    let has_hours = count < 2 || begin(1) - begin(0) < DAY_MICROS;
    let mut indices = vec![0, count / 2, count.saturating_sub(1)];
    indices.dedup();
    out.push_str("<div class=\"x\" aria-hidden=\"true\">");
    for index in indices.into_iter().filter(|index| *index < count) {
        let _ = write!(out, "<span>{}</span>", axis_label(begin(index), has_hours));
    }
    out.push_str("</div>");
}

/// Returns a chart of the hours of the week: the more calls, the darker.
pub(super) fn week(week: &[[u64; 24]; 7]) -> String {
    let top = week.iter().flatten().copied().max().unwrap_or(0);
    let mut out = String::from(
        "<figure><figcaption>Calls by hour of the week<span>UTC; the stronger the colour, the more \
         calls</span></figcaption><div class=\"plot\"><div class=\"y days\" aria-hidden=\"true\">",
    );
    for day in DAYS {
        let _ = write!(out, "<span>{day}</span>");
    }
    let _ = write!(
        out,
        "</div><svg viewBox=\"0 0 240 70\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"Calls by day of the week and hour; {} in the busiest hour\">",
        grouped(top)
    );
    for (day, (name, hours)) in DAYS.iter().zip(week).enumerate() {
        for (hour, calls) in hours.iter().enumerate() {
            let place =
                format!("x=\"{}\" y=\"{}\" width=\"9.4\" height=\"9\"", hour * 10, day * 10);
            let title = format!("<title>{name} {hour:02}:00, {} calls</title>", grouped(*calls));
            let _ = match calls {
                0 => write!(out, "<rect class=\"cell\" {place}>{title}</rect>"),
                _ => {
                    let percent = 18 + scaled(*calls, top) * 82 / HEIGHT;
                    write!(
                        out,
                        "<rect class=\"served\" fill-opacity=\"{percent}%\" {place}>{title}</rect>"
                    )
                }
            };
        }
    }
    out.push_str("</svg><div class=\"x\" aria-hidden=\"true\">");
    for hour in ["00:00", "06:00", "12:00", "18:00", "24:00"] {
        let _ = write!(out, "<span>{hour}</span>");
    }
    out.push_str("</div></div></figure>");
    out
}

/// Returns a chart of the rows with most calls, by the column with that name.
pub(super) fn top(sheet: &Sheet, title: &str, column: &str, nameless: &str) -> String {
    let place = |id: &str| sheet.columns.iter().position(|it| it.id == id);
    let (Some(name_at), Some(calls_at)) = (place(column), place("calls")) else {
        return String::new();
    };
    let mut bars: Vec<(String, u64)> = Vec::new();
    let mut rest = number(sheet.others.as_ref().and_then(|row| row.get(calls_at)));
    for (index, row) in sheet.rows.iter().enumerate() {
        let calls = number(row.get(calls_at));
        match row.get(name_at) {
            _ if index >= TOP => rest += calls,
            None | Some(Cell::None) => bars.push((nameless.to_owned(), calls)),
            Some(name) => bars.push((value(name), calls)),
        }
    }
    // The sum of many has no bar: next to it, the others would be too short to compare.
    let most = bars.iter().map(|(_, calls)| *calls).max().unwrap_or(0);
    let mut out = format!("<figure><figcaption>{}</figcaption><ul class=\"bars\">", escaped(title));
    for (name, calls) in &bars {
        let _ = write!(
            out,
            "<li><span>{}</span><b>{}</b><svg viewBox=\"0 0 {HEIGHT} 1\" \
             preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"served\" x=\"0\" \
             y=\"0\" width=\"{}\" height=\"1\"/></svg></li>",
            escaped(name),
            grouped(*calls),
            scaled(*calls, most)
        );
    }
    if rest > 0 {
        let _ = write!(out, "<li><span>{OTHERS}</span><b>{}</b></li>", grouped(rest));
    } else if bars.is_empty() {
        out.push_str("<li>None.</li>");
    }
    out.push_str("</ul></figure>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        for (number, top) in
            [(0, 1), (1, 1), (3, 5), (11, 20), (999, 1_000), (5_000_001, 10_000_000)]
        {
            assert_eq!(ceiling(number), top);
        }
        assert!(ceiling(u64::MAX) == u64::MAX);
        assert_eq!(scaled(u64::MAX, u64::MAX), HEIGHT);
    }
}
