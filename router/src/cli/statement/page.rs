//! A statement as a page: one HTML file without scripts or anything from elsewhere, to read on a phone or to print.

use metering::{Bytes, Tokens};

use super::{Shared, cost_in_words, heading};
use crate::cli::table::{amount, short_id};
use crate::control::{Household, Unit};

/// Nothing is loaded and nothing runs, whatever a name contains.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --paper: #fff; --tint: #f3f6f4; --mark: #1f6f50 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9aa6b2; --line: #3a434d; --paper: #14181d; --tint: #1c2329; --mark: #6cc79f }
}
* { box-sizing: border-box }
body { margin: 0; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif }
main { max-width: 62rem; margin: 0 auto }
h1 { margin: 0; font-size: 1.6rem; line-height: 1.25 }
h2 { margin: 2.25rem 0 .5rem; font-size: 1.15rem }
p { margin: .5rem 0; max-width: 44rem }
.soft { color: var(--soft); overflow-wrap: anywhere }
.sum { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.25rem 0 0; padding: 0; list-style: none }
.sum li { flex: 1 1 9rem; padding: .75rem 1rem; border-radius: .5rem; background: var(--tint); border-left: .25rem solid var(--mark) }
.sum span { display: block; color: var(--soft); font-size: .85rem }
.sum b { font-size: 1.25rem; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
caption { text-align: left; color: var(--soft); padding-bottom: .5rem }
th, td { padding: .5rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
thead th { color: var(--soft); font-size: .85rem; font-weight: 600; vertical-align: bottom; white-space: normal }
th:first-child { text-align: left }
tbody th { font-weight: 600; white-space: normal; overflow-wrap: anywhere; min-width: 8rem }
tbody th small { display: block; color: var(--soft); font-weight: 400; white-space: nowrap }
tfoot th, tfoot td { border-bottom: 0; border-top: 2px solid var(--ink); font-weight: 700 }
.all { font-weight: 700 }
@media screen and (max-width: 40rem) {
  .wide { overflow: visible }
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  table, caption, tbody, tfoot, tr, th, td { display: block }
  tr { padding: .75rem 0; border-bottom: 1px solid var(--line) }
  tfoot tr { border-bottom: 0; border-top: 2px solid var(--ink) }
  th, td, tfoot th, tfoot td { border: 0; padding: .15rem 0 }
  tbody th, tfoot th { font-size: 1.05rem; text-align: left }
  td { display: flex; justify-content: space-between; gap: 1rem }
  td::before { content: attr(data-title); color: var(--soft); font-weight: 400 }
}
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --paper: #fff; --tint: #fff; --mark: #000 }
  @page { margin: 1.5cm }
  body { padding: 0; font-size: 10pt }
  thead { display: table-header-group }
  tr, .sum li { break-inside: avoid }
}
";

pub(super) fn page(shared: &Shared) -> String {
    let title = escaped(&heading(shared));
    let statement = &shared.statement;
    let sharing = || statement.households.iter().filter(|household| household.shares());
    let carried = sharing().fold(0, |sum: u64, household| sum.saturating_add(household.carried().get()));
    let mut body = format!(
        "<h1>{title}</h1>\n<p class=\"soft\">Router {}</p>\n<ul class=\"sum\">\n{}{}",
        escaped(&statement.id.to_string()),
        fact("Households", &sharing().count().to_string()),
        fact("Carried for them", &Bytes::new(carried).to_string()),
    );
    if let Some(cost) = &shared.cost {
        body.push_str(&fact("Cost of the month", &with_unit(cost.total, &cost.unit)));
    }
    body.push_str("</ul>\n");
    if statement.households.is_empty() {
        body.push_str("<p>Nothing was counted in this month.</p>\n");
    } else {
        body.push_str(&shares(shared));
        body.push_str(&counts(shared));
        body.push_str(NOTES);
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

const NOTES: &str = "<h2>How this is counted</h2>\n\
    <p>Both ends of a link count what passes, and the columns show both. Carried is what arrived from a household, and what \
    arrived at it by its own count, but at least three quarters of what was sent to it. Bytes are billed bytes, counted while \
    terms were agreed on; days are days in UTC.</p>\n";

fn fact(name: &str, value: &str) -> String {
    format!("<li><span>{}</span> <b>{}</b></li>\n", escaped(name), escaped(value))
}

fn shares(shared: &Shared) -> String {
    let Some(cost) = &shared.cost else { return String::new() };
    let titles = ["Household", "Carried", "Equally", "By bytes", &format!("Share, {}", cost.unit.symbol)];
    let rows = cost.shares.iter().map(|share| {
        let cells = [
            Bytes::new(share.carried_bytes).to_string(),
            amount(share.equal, &cost.unit),
            amount(share.by_bytes, &cost.unit),
            amount(share.in_all, &cost.unit),
        ];
        row(&titles, &format!("<th scope=\"row\">{}</th>", escaped(&share.neighbour)), &cells)
    });
    let carried = cost.shares.iter().fold(0, |sum: u64, share| sum.saturating_add(share.carried_bytes));
    let sums = [
        Bytes::new(carried).to_string(),
        amount(cost.equal_part, &cost.unit),
        amount(cost.by_bytes_part, &cost.unit),
        amount(cost.total, &cost.unit),
    ];
    let sums = row(&titles, "<th scope=\"row\">All together</th>", &sums);
    table("Who bears the cost", &cost_in_words(cost), &titles, &rows.collect::<String>(), Some(&sums))
}

fn counts(shared: &Shared) -> String {
    let unit = &shared.statement.unit;
    let mut titles = vec!["Household", "Days", "Sent to it", "It received", "It sent", "Received from it"];
    let in_words = if unit.symbol.is_empty() {
        "What both sides counted.".to_owned()
    } else {
        titles.extend(["It paid", "We paid", "Unpaid"]);
        format!("What both sides counted, and what was signed for, in {}.", unit.symbol)
    };
    let rows = shared.statement.households.iter().map(|household| {
        let Household { days, sent_bytes, reported_received_bytes, reported_sent_bytes, received_bytes, .. } =
            household;
        let mut cells = vec![days.to_string()];
        let counts = [sent_bytes, reported_received_bytes, reported_sent_bytes, received_bytes];
        cells.extend(counts.map(ToString::to_string));
        if !unit.symbol.is_empty() {
            cells.extend([household.earned, household.spent, household.written_off].map(|paid| amount(paid, unit)));
        }
        let head = format!(
            "<th scope=\"row\">{} <small>{}, {}</small></th>",
            escaped(&household.neighbour),
            escaped(&household.role),
            escaped(&short_id(household.id))
        );
        row(&titles, &head, &cells)
    });
    table("What was carried", &in_words, &titles, &rows.collect::<String>(), None)
}

fn table(heading: &str, in_words: &str, titles: &[&str], rows: &str, sums: Option<&str>) -> String {
    let titles: String = titles.iter().map(|title| format!("<th scope=\"col\">{}</th>", escaped(title))).collect();
    let sums = sums.map_or_else(String::new, |sums| format!("<tfoot>\n{sums}</tfoot>\n"));
    let (heading, in_words) = (escaped(heading), escaped(in_words));
    format!(
        "<h2>{heading}</h2>\n<div class=\"wide\" role=\"region\" aria-label=\"{heading}\" tabindex=\"0\">\n\
         <table>\n<caption>{in_words}</caption>\n<thead>\n<tr>{titles}</tr>\n</thead>\n<tbody>\n{rows}</tbody>\n{sums}\
         </table>\n</div>\n"
    )
}

fn row(titles: &[&str], head: &str, cells: &[String]) -> String {
    let cell = |(title, cell): (&&str, &String)| {
        let class = if title.starts_with("Share") { " class=\"all\"" } else { "" };
        format!("<td data-title=\"{}\"{class}>{}</td>", escaped(title), escaped(cell))
    };
    let cells: String = titles.iter().skip(1).zip(cells).map(cell).collect();
    format!("<tr>{head}{cells}</tr>\n")
}

fn with_unit(tokens: Tokens, unit: &Unit) -> String {
    format!("{} {}", amount(tokens, unit), unit.symbol)
}

/// As text in HTML, between tags or in a quoted attribute. Control characters, and those that turn the direction of
/// what follows, would show something else than what is there.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => safe.push('\u{fffd}'),
            letter if letter.is_control() => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("a & b"), "a &amp; b");
        assert_eq!(escaped("<script>alert('x')</script>"), "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;");
        assert_eq!(escaped("\" onload=\"x"), "&quot; onload=&quot;x");
        assert_eq!(escaped("a\u{202e}b\u{1b}[2J"), "a\u{fffd}b\u{fffd}[2J");
    }
}
