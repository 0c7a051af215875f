//! Columns of text.

use super::output::printable;

/// How a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// The widest column for which other rows leave room: what is stored must not make every row long.
const WIDTH_MAX: usize = 200;

/// A table that is as wide as its content.
pub(crate) struct Table<const N: usize> {
    columns: [(&'static str, Align); N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [(&'static str, Align); N]) -> Self {
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row. What a terminal would act on is escaped.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }

    /// The text, with a line of headings; two spaces between the columns, none at the end of a line.
    pub(crate) fn text(self) -> String {
        let headings = self.columns.map(|(heading, _)| heading.to_uppercase());
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let mut widths = [0; N];
        for line in lines() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count().min(WIDTH_MAX));
            }
        }
        let mut text = String::new();
        for line in lines() {
            let cells = line.iter().zip(widths).zip(self.columns).map(|((cell, width), (_, align))| {
                let room = " ".repeat(width.saturating_sub(cell.chars().count()));
                match align {
                    Align::Left => format!("{cell}{room}"),
                    Align::Right => format!("{room}{cell}"),
                }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_cell_makes_no_other_row_long() {
        let mut table = Table::new([("NAME", Align::Left), ("X", Align::Right)]);
        table.row(["l".repeat(70_000), "1".into()]);
        table.row(["short".into(), "2".into()]);
        let text = table.text();
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lengths, [WIDTH_MAX + 3, 70_003, WIDTH_MAX + 3]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("NAME", Align::Left), ("bytes", Align::Right), ("X", Align::Left)]);
        table.row(["\u{fc}".into(), "1".into(), String::new()]);
        table.row(["longer".into(), "123456".into(), "a\nb".into()]);
        assert_eq!(table.text(), "NAME     BYTES  X\n\u{fc}            1\nlonger  123456  a\\nb\n");
    }
}
