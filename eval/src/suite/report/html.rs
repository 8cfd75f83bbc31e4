//! Elements, tables and numbers.

use flytrap_bench::spread::Spread;
use serde_json::Value;

/// A page as it grows. What is told is text, unless it is `raw`.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    pub(super) fn raw(&mut self, html: &str) {
        self.0 += html;
    }

    pub(super) fn element(&mut self, name: &str, text: &str) {
        self.0 += &format!("<{name}>{}</{name}>\n", escaped(text));
    }

    pub(super) fn marked(&mut self, class: &str, text: &str) {
        self.0 += &format!("<p class=\"{class}\">{}</p>\n", escaped(text));
    }

    pub(super) fn table(&mut self, cells: &Cells) {
        self.0 += "<table>\n";
        for (number, row) in cells.0.iter().enumerate() {
            let name = if number == 0 { "th" } else { "td" };
            self.0 += "<tr>";
            for cell in row {
                self.0 += &format!("<{name}>{}</{name}>", escaped(cell));
            }
            self.0 += "</tr>\n";
        }
        self.0 += "</table>\n";
    }

    pub(super) fn done(self) -> String {
        self.0
    }
}

/// Rows of text, the first of them the head.
#[derive(Debug)]
pub(super) struct Cells(Vec<Vec<String>>);

impl Cells {
    pub(super) fn new(head: &[&str]) -> Self {
        let mut cells = Self(Vec::new());
        cells.row(head);
        cells
    }

    pub(super) fn row(&mut self, row: &[impl AsRef<str>]) {
        self.0.push(row.iter().map(|cell| cell.as_ref().to_owned()).collect());
    }
}

/// A row of each object, a column of each key of the first.
pub(super) fn of_objects(rows: &[Value]) -> Cells {
    let keys: Vec<&str> = rows
        .first()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    let mut cells = Cells::new(&keys);
    for row in rows {
        let cell = |key: &&str| match &row[*key] {
            Value::String(text) => text.clone(),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
            Value::Number(value) => value.as_f64().map_or_else(|| value.to_string(), number),
            Value::Null => "—".to_owned(),
            more => more.to_string(),
        };
        cells.row(&keys.iter().map(cell).collect::<Vec<_>>());
    }
    cells
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `0.97 (0.91 to 1.04)`.
pub(super) fn spread(of: &Spread) -> String {
    format!("{} ({} to {})", number(of.median), number(of.least), number(of.most))
}

/// Three digits that say something, and commas in what is large.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "—".to_owned();
    }
    if size < 1_000.0 {
        let places = if size >= 100.0 || size == 0.0 {
            0
        } else if size >= 10.0 {
            1
        } else if size >= 0.01 {
            2
        } else {
            4
        };
        let text = format!("{value:.places$}");
        return match text.split_once('.') {
            Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            None => text,
        };
    }
    let digits = format!("{size:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_mean() {
        for (value, text) in [
            (0.0, "0"),
            (0.974, "0.97"),
            (1.0, "1"),
            (2.5, "2.5"),
            (12.34, "12.3"),
            (123.4, "123"),
            (999.6, "1000"),
            (1_234.4, "1,234"),
            (3_300_000.0, "3,300,000"),
            (-1_500.0, "-1,500"),
            (0.0004, "0.0004"),
            (f64::NAN, "—"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
