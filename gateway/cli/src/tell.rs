//! How results and the tour look: plain lines, colour only on a terminal.

use std::io::{IsTerminal, Write};
use std::sync::LazyLock;

use flytrap_record::text;

static COLOUR: LazyLock<bool> =
    LazyLock::new(|| std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());

fn painted(code: &str, text: &str) -> String {
    if *COLOUR { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Something that stands out.
pub(crate) fn strong(text: &str) -> String {
    painted("1", text)
}

/// Something of less weight.
pub(crate) fn faint(text: &str) -> String {
    painted("2", text)
}

/// Something as it should be.
pub(crate) fn good(text: &str) -> String {
    painted("32", text)
}

/// Something as it should not be.
pub(crate) fn bad(text: &str) -> String {
    painted("31", text)
}

/// Prints a line. A reader who has gone away is no reason to fail.
pub(crate) fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", text.as_ref());
    let _ = out.flush();
}

/// Prints a line for people beside the result: on a terminal both are seen, in a pipe only the result goes on.
pub(crate) fn aside(text: &str) {
    eprintln!("{text}");
}

/// Text from the chain or a client, made safe for a terminal: control characters are shown, not obeyed.
pub(crate) fn safe(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if text::acts(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON with records or events in it, made safe for a terminal: the same value, since outside of strings there is no such character.
pub(crate) fn json(value: &serde_json::Value) -> String {
    let mut out = String::new();
    for c in value.to_string().chars() {
        if text::acts(c) {
            let mut units = [0; 2];
            out.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// Rows of a table, columns as wide as their widest cell.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_from_the_chain_are_shown_and_not_obeyed() {
        assert_eq!(safe("a\x1b[31mb\n\u{202e}c"), "a\\u{1b}[31mb\\u{a}\\u{202e}c");
        assert_eq!(safe("Grüße, 温室"), "Grüße, 温室");
        let value = serde_json::json!(["\x1b[31m", "\u{9b}31m\u{202e}c", "温室"]);
        let told = json(&value);
        assert_eq!(told, r#"["\u001b[31m","\u009b31m\u202ec","温室"]"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&told).unwrap(), value);
    }
}
