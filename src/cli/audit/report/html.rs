//! A report as a page that needs no script and nothing from elsewhere.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::call::Outcome;
use super::markup::escaped;
use super::sheet::{Cell, Column, Fact, Kind, Report, Sheet, Verdict};
use super::svg;
use super::text::{OTHERS, printable, value};
use super::time::shown;

const STYLE: &str = include_str!("page.css");
/// The figures at the top.
const TILES: [&str; 6] = ["calls", "served", "refused", "failed", "externalKeys", "principals"];
/// The table that is a chart.
const TIMELINE: &str = "timeline";

/// Returns the report as HTML.
pub(super) fn render(report: &Report) -> String {
    let policy = policy();
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>Audit report of xks-proxy</title>\n<link rel=\"icon\" href=\"data:,\">\n\
         <style>{STYLE}</style>\n</head>\n<body>\n"
    );
    head(&mut out, report);
    out.push_str("<main>\n");
    verdict(&mut out, report);
    contents(&mut out, report);
    tiles(&mut out, report);
    charts(&mut out, report);
    for sheet in shown_sheets(report) {
        section(&mut out, sheet);
    }
    facts(&mut out, report);
    out.push_str(
        "<footer>Times are UTC. Text is printed as in the log, with \\uXXXX for what is not ASCII. \
         Made by xks-proxy audit report.</footer>\n</main>\n</body>\n</html>\n",
    );
    out
}

/// Returns the policy by which a browser loads nothing and runs nothing, whatever gets into the page.
fn policy() -> String {
    let style = base64_simd::STANDARD.encode_to_string(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; \
         form-action 'none'"
    )
}

fn head(out: &mut String, report: &Report) {
    let moment = |id: &str, line_id: &str| match (report.fact(id), report.fact(line_id)) {
        (Some(Cell::Time(micros)), _) | (_, Some(Cell::Time(micros))) => Some(shown(*micros)),
        _ => None,
    };
    let period = match (moment("from", "firstLine"), moment("to", "lastLine")) {
        (Some(from), Some(to)) => format!("{from} to {to} UTC"),
        _ => "There is no line in this period.".to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<header><h1>Audit report of xks-proxy</h1>\n<p class=\"soft\">{}</p></header>\n",
        escaped(&period)
    );
}

fn verdict(out: &mut String, report: &Report) {
    let class = report.verdict.id();
    let mark = match report.verdict {
        Verdict::Good => "&#10003;",
        Verdict::Tampered | Verdict::Unverified => "&#9888;",
    };
    let _ = write!(
        out,
        "<section class=\"verdict {class}\" aria-labelledby=\"verdict\"><h2 id=\"verdict\">\
         <span aria-hidden=\"true\">{mark}</span> {}</h2>\n<ul>",
        escaped(report.verdict.headline())
    );
    for statement in &report.statements {
        let _ = write!(out, "<li>{}</li>", escaped(&printable(statement)));
    }
    out.push_str("</ul></section>\n");
}

/// Returns the sheets that are tables of the page.
fn shown_sheets(report: &Report) -> impl Iterator<Item = &Sheet> {
    let is_tampered = report.verdict == Verdict::Tampered;
    report
        .sheets
        .iter()
        .filter(move |sheet| sheet.id != TIMELINE && (is_tampered || sheet.id != "findings"))
}

fn contents(out: &mut String, report: &Report) {
    out.push_str("<nav aria-label=\"Contents\"><ul>");
    for sheet in shown_sheets(report) {
        let _ = write!(out, "<li><a href=\"#{}\">{}</a></li>", sheet.id, escaped(sheet.title));
    }
    out.push_str("<li><a href=\"#summary\">Summary</a></li></ul></nav>\n");
}

fn tiles(out: &mut String, report: &Report) {
    out.push_str("<dl class=\"tiles\">");
    for fact in report.facts.iter().filter(|fact| TILES.contains(&fact.id)) {
        definition(out, "<div class=\"tile\">", fact);
    }
    out.push_str("</dl>\n");
}

/// Writes a fact as an entry of a `<dl>`; `start` is the tag around it.
fn definition(out: &mut String, start: &str, fact: &Fact) {
    let (title, value) = (escaped(fact.title), escaped(&value(&fact.value)));
    let _ = write!(out, "{start}<dt>{title}</dt><dd>{value}</dd></div>");
}

fn charts(out: &mut String, report: &Report) {
    use Outcome::{Abandoned, Failed, Refused, Served};
    out.push_str("<div class=\"charts\">\n");
    if let Some(sheet) = report.sheet(TIMELINE) {
        out.push_str(&svg::timeline(sheet, "Calls served", &[Served]));
        out.push_str(&svg::timeline(sheet, "Calls not served", &[Refused, Failed, Abandoned]));
    }
    for (id, title, column, nameless) in [
        ("keys", "Calls by key", "externalKeyId", "-"),
        ("principals", "Calls by principal", "awsPrincipalArn", "no principal"),
        ("viaServices", "Calls by service", "kmsViaService", "no service"),
    ] {
        if let Some(sheet) = report.sheet(id) {
            out.push_str(&svg::top(sheet, title, column, nameless));
        }
    }
    out.push_str(&svg::week(&report.week));
    out.push_str("</div>\n");
}

fn section(out: &mut String, sheet: &Sheet) {
    let id = sheet.id;
    let _ = write!(
        out,
        "<section aria-labelledby=\"{id}\"><h2 id=\"{id}\">{}</h2>\n<p>{}</p>\n",
        escaped(sheet.title),
        escaped(&printable(&sheet.note))
    );
    if sheet.rows.is_empty() && sheet.others.is_none() {
        out.push_str("None.</section>\n");
        return;
    }
    let columns: Vec<(usize, &Column)> =
        sheet.columns.iter().enumerate().filter(|(_, column)| !column.is_minor).collect();
    let _ = write!(out, "<table aria-labelledby=\"{id}\"><thead><tr>");
    for (_, column) in &columns {
        let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(column), escaped(column.title));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &sheet.rows {
        table_row(out, &columns, row, false);
    }
    if let Some(row) = &sheet.others {
        table_row(out, &columns, row, true);
    }
    out.push_str("</tbody></table></section>\n");
}

fn table_row(out: &mut String, columns: &[(usize, &Column)], row: &[Cell], is_sum: bool) {
    out.push_str(if is_sum { "<tr class=\"others\">" } else { "<tr>" });
    for (index, (at, column)) in columns.iter().enumerate() {
        let cell = row.get(*at).unwrap_or(&Cell::None);
        let text = match cell {
            Cell::None if is_sum && index == 0 => OTHERS.to_owned(),
            Cell::None if is_sum => String::new(),
            cell => value(cell),
        };
        let (open, close) = match column.kind {
            Kind::Name if index == 0 => ("th scope=\"row\"", "th"),
            _ => ("td", "td"),
        };
        let _ = write!(
            out,
            "<{open}{} data-label=\"{}\">{}</{close}>",
            if *cell == Cell::Number(0) { " class=\"number zero\"" } else { class(column) },
            escaped(column.title),
            escaped(&text)
        );
    }
    out.push_str("</tr>\n");
}

fn class(column: &Column) -> &'static str {
    match (column.kind, column.id) {
        (Kind::Number, _) => " class=\"number\"",
        (Kind::Time, _) => " class=\"time\"",
        (_, "awsPrincipalArn" | "reason" | "detail" | "accessKeyId") => " class=\"wide\"",
        (_, "operation" | "outcome" | "kind") => " class=\"word\"",
        _ => "",
    }
}

fn facts(out: &mut String, report: &Report) {
    out.push_str(
        "<section aria-labelledby=\"summary\"><h2 id=\"summary\">Summary</h2>\n<dl class=\"facts\">",
    );
    for fact in &report.facts {
        definition(out, "<div>", fact);
    }
    out.push_str("</dl></section>\n");
}
