//! What commands print: aligned tables for people, JSON for scripts.
//!
//! Results go to standard output, everything else to standard error. Colours only where a person looks at them: on a
//! terminal, unless `NO_COLOR` is set.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table};
use loci_client::{Record, Value};

use super::failure::Failure;

/// Columns of a table where the terminal does not tell its width.
const WIDTH_DEFAULT: u16 = 100;

/// A table with these columns; those that begin with `>` are aligned to the right.
pub struct Rows {
    table: Table,
}

impl Rows {
    pub fn new(columns: &[&str]) -> Rows {
        Rows::with_style(columns, io::stdout().is_terminal())
    }

    fn with_style(columns: &[&str], on_terminal: bool) -> Rows {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Dynamic);
        if !on_terminal {
            table.force_no_tty();
        }
        if table.width().is_none() || !on_terminal {
            table.set_width(WIDTH_DEFAULT);
        }
        // Without names there is no header, and no empty line in its place.
        if columns.iter().any(|column| !column.is_empty()) {
            table.set_header(columns.iter().map(|column| {
                let cell = Cell::new(column.trim_start_matches('>'));
                if on_terminal && colours() { cell.add_attribute(Attribute::Bold) } else { cell }
            }));
        }
        for (index, column) in columns.iter().enumerate() {
            if let (true, Some(column)) = (column.starts_with('>'), table.column_mut(index)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Rows { table }
    }

    pub fn push<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.table.add_row(cells.into_iter().map(|cell| Cell::new(printable(&cell.into()))));
    }

    pub fn text(&self) -> String {
        let lines: Vec<String> = self.table.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.join("\n")
    }
}

/// Whether standard output is a terminal that wants colours.
pub fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text that cannot move a terminal's cursor.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints lines of results. A reader that has gone away, as `head` does, ends the program quietly.
pub fn print(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match writeln!(output, "{}", text.as_ref()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::refused(format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// One line of JSON.
pub fn print_json(json: &serde_json::Value) -> Result<(), Failure> {
    print(json.to_string())
}

/// Bytes as text if they are text, else how many there are.
pub fn bytes_shown(bytes: &[u8], characters_max: usize) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => shortened(text, characters_max),
        Err(_) => format!("({} bytes)", bytes.len()),
    }
}

/// At most so many characters of a text.
pub fn shortened(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(characters_max.saturating_sub(3)).chain("...".chars()).collect(),
    }
}

/// Attributes on one line.
pub fn attributes_shown(record: &Record) -> String {
    let shown: Vec<String> =
        record.attributes.iter().map(|(name, value)| format!("{name}={}", value_shown(value))).collect();
    shown.join(" ")
}

pub fn value_shown(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Timestamp(micros) => super::time::format(*micros),
        Value::List(values) => {
            format!("[{}]", values.iter().map(value_shown).collect::<Vec<_>>().join(","))
        }
        Value::Map(values) => {
            let inside: Vec<_> = values.iter().map(|(name, value)| format!("{name}={}", value_shown(value))).collect();
            format!("{{{}}}", inside.join(","))
        }
    }
}

/// `1,234,567`
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 MiB`
pub fn bytes_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// `87 us`, `1.23 ms`, `4.5 s`
pub fn time_shown(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        micros if micros < 1000.0 => format!("{micros:.0} us"),
        micros if micros < 1e6 => format!("{:.2} ms", micros / 1e3),
        micros if micros < 120e6 => format!("{:.1} s", micros / 1e6),
        micros => format!("{:.0} min", micros / 60e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_colours_off_a_terminal() {
        let mut rows = Rows::with_style(&["name", ">records"], false);
        rows.push(["notes", "7"]);
        rows.push(["a\u{1b}[31m", "1,000"]);
        let text = rows.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, [" name    records", " notes         7", " a [31m    1,000"]);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(bytes_size(1023), "1023 B");
        assert_eq!(bytes_size(1536), "1.5 KiB");
        assert_eq!(time_shown(Duration::from_micros(87)), "87 us");
        assert_eq!(time_shown(Duration::from_micros(1234)), "1.23 ms");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", 4), "\u{e9}...");
        assert_eq!(shortened("abcd", 4), "abcd");
        assert_eq!(bytes_shown(&[0xff], 10), "(1 bytes)");
    }
}
