//! The table: every figure of every contender, medians and ratios to the first contender.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Figures in the order in which they were first taken.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

struct Row {
    measurement: &'static str,
    figure: String,
    /// One value a round, by the contender's place.
    samples: BTreeMap<usize, Vec<f64>>,
}

/// What one round of one measurement found of one contender.
#[derive(Default)]
pub(crate) struct Figures(Vec<(String, f64)>);

impl Figures {
    /// A figure, with its unit in its name.
    pub(crate) fn add(&mut self, figure: impl Into<String>, value: f64) {
        self.0.push((figure.into(), value));
    }

    pub(crate) fn text(&self) -> String {
        let figures: Vec<String> = self.0.iter().map(|(figure, value)| format!("{figure} {}", short(*value))).collect();
        figures.join("; ")
    }
}

impl Report {
    pub(crate) fn add(&mut self, measurement: &'static str, contender: usize, figures: Figures) {
        for (figure, value) in figures.0 {
            let is_row = |row: &Row| row.measurement == measurement && row.figure == figure;
            let at = self.rows.iter().position(is_row).unwrap_or_else(|| {
                // Behind the measurement's other rows, for a figure an earlier contender did not have.
                let at = self.rows.iter().rposition(|row| row.measurement == measurement);
                let at = at.map_or(self.rows.len(), |last| last + 1);
                self.rows.insert(at, Row { measurement, figure, samples: BTreeMap::new() });
                at
            });
            self.rows[at].samples.entry(contender).or_default().push(value);
        }
    }

    /// The rows of a Markdown table with a column for each contender.
    pub(crate) fn table(&self, contenders: &[&str]) -> String {
        let mut table = format!("| | | {} |\n|{}\n", contenders.join(" | "), "---|".repeat(contenders.len() + 2));
        for row in &self.rows {
            let cells: Vec<String> = (0..contenders.len()).map(|contender| row.cell(contender)).collect();
            table += &format!("| {} | {} | {} |\n", row.measurement, row.figure, cells.join(" | "));
        }
        table
    }

    /// The same for programs, with every sample.
    pub(crate) fn json(&self, contenders: &[&str]) -> Value {
        let of = |row: &Row, contender: usize| {
            let samples = row.samples.get(&contender)?;
            Some(json!({ "median": median(samples), "ratio": row.ratio(contender), "samples": samples }))
        };
        let line = |row: &Row| {
            let cells = contenders.iter().enumerate().map(|(at, name)| ((*name).to_owned(), of(row, at)));
            let cells: BTreeMap<String, Option<Value>> = cells.collect();
            json!({ "measurement": row.measurement, "figure": row.figure, "contenders": cells })
        };
        self.rows.iter().map(line).collect()
    }
}

impl Row {
    fn cell(&self, contender: usize) -> String {
        let Some(samples) = self.samples.get(&contender) else { return "-".to_owned() };
        let ratio = self.ratio(contender).filter(|_| contender > 0);
        let ratio = ratio.map_or_else(String::new, |ratio| format!(" (x{ratio:.2})"));
        short(median(samples)) + &ratio
    }

    /// How many times the first contender's figure this one's is.
    fn ratio(&self, contender: usize) -> Option<f64> {
        let ratio = median(self.samples.get(&contender)?) / median(self.samples.get(&0)?);
        ratio.is_finite().then_some(ratio)
    }
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

/// Three digits that mean something.
fn short(value: f64) -> String {
    match value {
        _ if value.is_infinite() => "lost".to_owned(),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ if value >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
