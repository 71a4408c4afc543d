//! A statement for spreadsheets: RFC 4180, one line for each household.

use super::Shared;
use crate::cli::table::harmless;
use crate::control::Unit;
use metering::Tokens;

pub(super) fn csv(shared: &Shared) -> String {
    let unit = &shared.statement.unit;
    let titled = |title: &str, unit: &Unit| format!("{title} {}", unit.symbol).trim().to_owned();
    let mut titles: Vec<String> = [
        "month",
        "household",
        "account",
        "role",
        "days",
        "sent to it, bytes",
        "it received, bytes",
        "it sent, bytes",
        "received, bytes",
        "carried, bytes",
    ]
    .map(str::to_owned)
    .into();
    titles
        .extend(["it paid,", "we paid,", "unpaid,"].map(|title| titled(title, unit).trim_end_matches(',').to_owned()));
    if let Some(cost) = &shared.cost {
        titles.extend(["equal share,", "share by bytes,", "share in all,"].map(|title| titled(title, &cost.unit)));
    }
    let mut text = line(&titles);
    for household in &shared.statement.households {
        let mut cells = vec![
            shared.statement.month.clone(),
            household.neighbour.clone(),
            household.id.to_string(),
            household.role.clone(),
            household.days.to_string(),
        ];
        let counts = [
            household.sent_bytes,
            household.reported_received_bytes,
            household.reported_sent_bytes,
            household.received_bytes,
            household.carried(),
        ];
        cells.extend(counts.map(|bytes| bytes.get().to_string()));
        cells.extend([household.earned, household.spent, household.written_off].map(|paid| plain(paid, unit)));
        if let Some(cost) = &shared.cost {
            let parts =
                shared.share(household).map_or([Tokens::ZERO; 3], |share| [share.equal, share.by_bytes, share.in_all]);
            cells.extend(parts.map(|part| plain(part, &cost.unit)));
        }
        text.push_str(&line(&cells));
    }
    text
}

/// An amount without its unit; nothing where there is none.
fn plain(tokens: Tokens, unit: &Unit) -> String {
    if unit.symbol.is_empty() { String::new() } else { tokens.display(unit.decimals).to_string() }
}

fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    format!("{}\r\n", cells.join(","))
}

/// A field as RFC 4180, section 2, has it. A spreadsheet would take one that begins like a formula for a formula, and do
/// what a stranger wrote: an apostrophe before it says that it is a text.
fn quoted(text: &str) -> String {
    let text = harmless(text);
    let is_formula = text.trim_start().starts_with(['=', '+', '-', '@', '\u{fffd}', '＝', '＋', '－', '＠']);
    let text = if is_formula { format!("'{text}") } else { text };
    if text.contains(['"', ',', ';', '\'']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn fields_are_quoted_where_they_must_be_and_are_never_formulas() {
        let fields = [
            ("roof", "roof"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=1+1", "\"'=1+1\""),
            (" =1", "\"' =1\""),
            ("+cmd|' /C calc'!A0", "\"'+cmd|' /C calc'!A0\""),
            ("-2", "\"'-2\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("\t=1", "\"'\u{fffd}=1\""),
            ("＝1", "\"'＝1\""),
            ("a\r\nb", "a\u{fffd}\u{fffd}b"),
            ("1.50", "1.50"),
            ("", ""),
        ];
        for (text, field) in fields {
            assert_eq!(quoted(text), field);
        }
    }
}
