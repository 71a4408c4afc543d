//! Tables and words for people.

use std::time::Duration;

use metering::{NodeId, Tokens};

use crate::control::Unit;

/// On which side the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with a heading line. Columns are as wide as their widest cell and two spaces apart.
pub(super) struct Table {
    columns: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(columns: &[(&str, Side)]) -> Self {
        Self { columns: columns.iter().map(|(title, side)| ((*title).to_owned(), *side)).collect(), rows: Vec::new() }
    }

    /// Adds a line; its cells are in the order of the columns.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len());
        self.rows.push(cells.into_iter().map(|cell| harmless(&cell)).collect());
    }

    pub(super) fn render(&self) -> String {
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| title.clone()).collect();
        let widths: Vec<usize> = (0..titles.len())
            .map(|column| self.rows.iter().chain([&titles]).map(|row| width(&row[column])).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        for row in [&titles].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, side)), width_max) in row.iter().zip(&self.columns).zip(&widths) {
                let padding = " ".repeat(width_max - width(cell));
                match side {
                    Side::Left => line.extend([cell, padding.as_str(), "  "]),
                    Side::Right => line.extend([padding.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

/// A list of names and values, the values below each other.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let width_max = facts.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
    facts.iter().map(|(name, value)| format!("{name:width_max$}  {}\n", harmless(value))).collect()
}

/// The text without control characters: what a terminal shows is what it says.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// An id short enough for a table: `0x5290…9EE7`.
pub(super) fn short_id(id: NodeId) -> String {
    let text = id.to_string();
    format!("{}…{}", &text[..6], &text[text.len() - 4..])
}

/// An amount in whole tokens: "1.250000"; without a ledger there is nothing to count, "-".
pub(super) fn amount(tokens: Tokens, unit: &Unit) -> String {
    if unit.symbol.is_empty() { "-".to_owned() } else { tokens.display(unit.decimals).to_string() }
}

/// An amount with its symbol: "1.250000 WAY".
pub(super) fn money(tokens: Tokens, unit: &Unit) -> String {
    if unit.symbol.is_empty() { "-".to_owned() } else { format!("{} {}", amount(tokens, unit), unit.symbol) }
}

/// A time span in its two largest units: "3 d 4 h", "12 s".
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        (_, _, _) => format!("{days} d {hours} h"),
    }
}

/// A round-trip time: "0.4 ms", "35.2 ms".
pub(super) fn round_trip(microseconds: u64) -> String {
    format!("{}.{} ms", microseconds / 1_000, microseconds / 100 % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new(&[("NAME", Side::Left), ("COST", Side::Right), ("LINK", Side::Left)]);
        table.row(["attic".to_owned(), "96".to_owned(), "quic".to_owned()]);
        table.row(["zürich-7".to_owned(), "65534".to_owned(), "wireguard".to_owned()]);
        assert_eq!(
            table.render(),
            "NAME       COST  LINK\n\
             attic        96  quic\n\
             zürich-7  65534  wireguard\n"
        );
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let mut table = Table::new(&[("NAME", Side::Left)]);
        table.row(["\u{1b}[2Jx\n\r".to_owned()]);
        assert_eq!(table.render(), "NAME\n\u{fffd}[2Jx\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn times_are_said_in_two_units() {
        let said = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(said(0), "0 s");
        assert_eq!(said(59), "59 s");
        assert_eq!(said(61), "1 min 1 s");
        assert_eq!(said(7_260), "2 h 1 min");
        assert_eq!(said(100_000), "1 d 3 h");
        assert_eq!(round_trip(430), "0.4 ms");
        assert_eq!(round_trip(35_250), "35.2 ms");
    }

    #[test]
    fn amounts_are_whole_tokens_and_absent_without_a_ledger() {
        let way = Unit { symbol: "WAY".to_owned(), decimals: 6 };
        let free = Unit { symbol: String::new(), decimals: 0 };
        let tokens = Tokens::new(1_250_000).unwrap();
        assert_eq!(money(tokens, &way), "1.250000 WAY");
        assert_eq!(amount(tokens, &way), "1.250000");
        assert_eq!(money(Tokens::ZERO, &free), "-");
    }
}
