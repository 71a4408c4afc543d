//! Reads a TOML file option by option and collects every mistake with its line and column.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use metering::SortedMap;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{OPTIONS, OptionDoc};

/// One thing wrong in a config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong there, and what is allowed.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.problem)
    }
}

/// A place in the file, as a byte range.
pub(super) type Span = Range<usize>;

/// One table of the file, emptied option by option.
pub(super) struct Table<'a> {
    /// As written in the file: `[node]` or `[[peer]]`.
    heading: &'static str,
    spans: Spans,
    entries: Vec<(Spanned<Cow<'a, str>>, Spanned<DeValue<'a>>)>,
}

/// Where the values of a table stand.
#[derive(Clone, Debug)]
pub(super) struct Spans {
    table: Span,
    values: SortedMap<&'static str, Span>,
}

impl Spans {
    /// Where the value of this key stands; for one that has its default, where the table begins.
    pub(super) fn of(&self, key: &str) -> &Span {
        self.values.get(key).unwrap_or(&self.table)
    }

    /// From where the table begins to where its last value ends.
    pub(super) fn whole(&self) -> (usize, usize) {
        let ends = self.values.values().map(|span| span.end);
        (self.table.start, ends.fold(self.table.end, usize::max))
    }
}

impl<'a> Table<'a> {
    /// A table the file does not have: all its options have their defaults.
    pub(super) fn absent(heading: &'static str) -> Self {
        Self::new(heading, 0..0, DeTable::new())
    }

    fn new(heading: &'static str, span: Span, entries: DeTable<'a>) -> Self {
        Self { heading, spans: Spans { table: span, values: SortedMap::new() }, entries: entries.into_iter().collect() }
    }

    /// Whether the file has an option here that nobody has taken yet, whatever it says.
    pub(super) fn says(&self, key: &str) -> bool {
        self.entries.iter().any(|(name, _)| name.get_ref() == key)
    }

    /// Where the table begins.
    pub(super) fn start(&self) -> Span {
        self.spans.table.clone()
    }
}

/// The file, and the mistakes found in it so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    /// Parses the text. Where it is not even TOML, what the options would be is a guess, so that is all that is said.
    pub(super) fn new(text: &'a str) -> Result<(Self, DeTable<'a>), Vec<Mistake>> {
        let mut reader = Self::resume(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let span = error.span().unwrap_or_default();
            reader.mistake(&span, format!("this is not TOML: {}", error.message().replace('\n', ", ")));
        }
        if errors.is_empty() { Ok((reader, document.into_inner())) } else { Err(reader.finish()) }
    }

    /// Goes on checking a text that was parsed before.
    pub(super) fn resume(text: &'a str) -> Self {
        Self { text, mistakes: Vec::new() }
    }

    /// Records a mistake at a place in the file.
    pub(super) fn mistake(&mut self, at: &Span, problem: impl Into<String>) {
        let before = &self.text.as_bytes()[..at.start.min(self.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        self.mistakes.push(Mistake {
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
            problem: problem.into(),
        });
    }

    /// The mistakes in the order of the file.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| (mistake.line, mistake.column));
        self.mistakes.dedup();
        self.mistakes
    }

    /// Takes the table `[name]` out of the document.
    pub(super) fn table(&mut self, document: &mut DeTable<'a>, heading: &'static str) -> Option<Table<'a>> {
        let (key, value) = document.remove_entry(bare(heading))?;
        self.as_table(heading, key.span(), value.into_inner())
    }

    /// Takes the tables `[[name]]` out of the document.
    pub(super) fn tables(&mut self, document: &mut DeTable<'a>, heading: &'static str) -> Vec<Table<'a>> {
        let Some((key, value)) = document.remove_entry(bare(heading)) else {
            return Vec::new();
        };
        let DeValue::Array(items) = value.into_inner() else {
            self.mistake(&key.span(), format!("write {heading} in double brackets, once for each {}", bare(heading)));
            return Vec::new();
        };
        let tables = items.into_iter().map(|item| self.as_table(heading, item.span(), item.into_inner()));
        tables.flatten().collect()
    }

    fn as_table(&mut self, heading: &'static str, span: Span, value: DeValue<'a>) -> Option<Table<'a>> {
        let found = kind(&value);
        if let DeValue::Table(table) = value {
            return Some(Table::new(heading, span, table));
        }
        self.mistake(&span, format!("{heading} is a table, not {found}"));
        None
    }

    /// Refuses the tables nobody took.
    pub(super) fn refuse_rest(&mut self, document: DeTable<'a>) {
        let mut known: Vec<&str> = OPTIONS.iter().map(|option| bare(option.table)).collect();
        known.dedup();
        for (key, value) in document {
            let name = key.get_ref().as_ref();
            let thing = if matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)) {
                "table"
            } else {
                "option outside of a table"
            };
            let hint = hint(name, &known).unwrap_or_else(|| format!("allowed are {}", known.join(", ")));
            self.mistake(&key.span(), format!("unknown {thing} `{}`; {hint}", shown(name)));
        }
    }

    /// Reads one option. An absent one has its default, or is `None`; so is a wrong one, which is recorded.
    pub(super) fn option<T, E: fmt::Display>(
        &mut self,
        table: &mut Table<'_>,
        key: &'static str,
        parse: impl Fn(&DeValue<'_>) -> Result<T, E>,
    ) -> Option<T> {
        let option = OptionDoc::find(table.heading, key);
        let Some(position) = table.entries.iter().position(|(name, _)| name.get_ref() == key) else {
            return self.absent(table, option, parse);
        };
        let (_, value) = table.entries.swap_remove(position);
        table.spans.values.insert(key, value.span());
        parse(value.get_ref())
            .map_err(|why| {
                let problem = format!("{} {key}: {why}; allowed is {}", table.heading, option.allowed);
                self.mistake(&value.span(), problem);
            })
            .ok()
    }

    fn absent<T, E: fmt::Display>(
        &mut self,
        table: &Table<'_>,
        option: &OptionDoc,
        parse: impl Fn(&DeValue<'_>) -> Result<T, E>,
    ) -> Option<T> {
        if option.required {
            let problem = format!("{} has no `{}`; it is {}", table.heading, option.key, option.allowed);
            self.mistake(&table.spans.table, problem);
            return None;
        }
        let default = DeValue::parse(option.default?).expect("a test parses every default");
        Some(parse(default.get_ref()).ok().expect("a test reads every default"))
    }

    /// Refuses the options nobody read.
    pub(super) fn refuse_unknown(&mut self, table: Table<'_>) -> Spans {
        let known: Vec<&str> = OptionDoc::of(table.heading).map(|option| option.key).collect();
        for (key, _) in &table.entries {
            let name = key.get_ref().as_ref();
            let elsewhere = OPTIONS.iter().find(|option| option.key == name);
            let hint = hint(name, &known)
                .or_else(|| elsewhere.map(|option| format!("it belongs in {}", option.table)))
                .unwrap_or_else(|| format!("allowed are {}", known.join(", ")));
            self.mistake(&key.span(), format!("{} has no option `{}`; {hint}", table.heading, shown(name)));
        }
        table.spans
    }
}

/// Parses a text option by `FromStr`-like rules.
pub(super) fn text<T, E: fmt::Display>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&DeValue<'_>) -> Result<T, String> {
    move |value| {
        let text = value.as_str().ok_or_else(|| format!("this is {}, not a text in quotes", kind(value)))?;
        parse(text).map_err(|error| error.to_string())
    }
}

/// Parses a whole number within bounds.
pub(super) fn integer(bounds: std::ops::RangeInclusive<u16>) -> impl Fn(&DeValue<'_>) -> Result<u16, String> {
    move |value| {
        let number = value.as_integer().ok_or_else(|| format!("this is {}, not a whole number", kind(value)))?;
        u16::from_str_radix(number.as_str(), number.radix())
            .ok()
            .filter(|number| bounds.contains(number))
            .ok_or_else(|| format!("{} is out of bounds", shown(number.as_str())))
    }
}

/// Parses `true` or `false`.
pub(super) fn truth(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("this is {}, not true or false", kind(value)))
}

/// Parses a list of texts.
pub(super) fn list<T, E: fmt::Display>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&DeValue<'_>) -> Result<Vec<T>, String> {
    let item = text(parse);
    move |value| {
        let items =
            value.as_array().ok_or_else(|| format!("this is {}, not a list in square brackets", kind(value)))?;
        let entry = |(index, value): (usize, &Spanned<DeValue<'_>>)| {
            item(value.get_ref()).map_err(|why| format!("entry {}: {why}", index + 1))
        };
        items.iter().enumerate().map(entry).collect()
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The name inside the brackets of a heading.
fn bare(heading: &str) -> &str {
    heading.trim_matches(['[', ']'])
}

/// A name from a file as it may be printed: no control characters, not endless.
fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(40).flat_map(char::escape_debug).collect();
    if name.chars().nth(40).is_some() {
        text.push('…');
    }
    text
}

fn hint(name: &str, known: &[&str]) -> Option<String> {
    let name = name.replace('-', "_").to_lowercase();
    if name.len() > 40 {
        return None;
    }
    known
        .iter()
        .map(|candidate| (distance(&name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(candidate.len() / 3))
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// How many characters to insert, delete, replace or swap with the next to get from one to the other.
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for (index, row) in rows.iter_mut().enumerate() {
        row[0] = index;
    }
    rows[0] = (0..=to.len()).collect();
    for i in 1..=from.len() {
        for j in 1..=to.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_guessed_and_far_ones_are_not() {
        let known = ["listen", "name", "key_file", "mtu"];
        assert_eq!(hint("lisen", &known).as_deref(), Some("did you mean `listen`?"));
        assert_eq!(hint("nmae", &known).as_deref(), Some("did you mean `name`?"));
        assert_eq!(hint("Key-File", &known).as_deref(), Some("did you mean `key_file`?"));
        assert_eq!(hint("password", &known), None);
        assert_eq!(hint(&"n".repeat(100_000), &known), None);
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn names_from_a_file_are_printed_harmlessly() {
        assert_eq!(shown("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
        assert_eq!(shown(&"x".repeat(50)).chars().count(), 41);
    }
}
