//! Lays out tables of text for a width: which columns stay, and what is shortened. `tables.rs` has the tables of databases.
//!
//! Where nothing limits the width, a table is as wide as its content and nothing in it is shortened. On a terminal it fits the width, as
//! long as the columns that always stay do: the least important columns go, labels and paths are shortened in the middle, and long text
//! continues in further lines. Ids and numbers are never shortened.

use super::output::printable;
use super::screen::{Screen, Tone, wrapped};

/// No column is padded beyond this, so that one long value does not make every row long.
const WIDTH_MAX: usize = 200;
/// Between two columns.
const GAP: usize = 2;
/// How far text is indented that stands below its row.
const INDENT: usize = 4;
/// What stands for the middle of a shortened text.
const ELLIPSIS: &str = "...";
/// The rank of a column that stays however narrow the terminal is.
const STAYS: u8 = u8::MAX;

/// A column: its heading, and what may happen to it on a narrow terminal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    heading: &'static str,
    is_right: bool,
    rank: u8,
    fit: Fit,
}

/// How a cell gets narrower than its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It does not.
    Whole,
    /// Shortened in the middle, down to this width.
    Middle(usize),
    /// In several lines, down to this width; below that, under the row. For the last column.
    Lines(usize),
}

impl Column {
    /// A column of words. It stays in every table unless it gets a rank.
    pub(crate) fn left(heading: &'static str) -> Self {
        Column { heading, is_right: false, rank: STAYS, fit: Fit::Whole }
    }

    /// A column of numbers.
    pub(crate) fn right(heading: &'static str) -> Self {
        Column { is_right: true, ..Self::left(heading) }
    }

    /// How important it is: on a narrow terminal the columns of the lowest rank go first.
    pub(crate) fn rank(self, rank: u8) -> Self {
        Column { rank, ..self }
    }

    /// Its texts may be shortened in the middle, to no less than this.
    pub(crate) fn shortened(self, least: usize) -> Self {
        Column { fit: Fit::Middle(least), ..self }
    }

    /// Its texts go on in further lines rather than be narrower than this. For the last column.
    pub(crate) fn in_lines(self, least: usize) -> Self {
        Column { fit: Fit::Lines(least), ..self }
    }
}

#[derive(Debug, Clone)]
struct Cell {
    text: String,
    tone: Option<Tone>,
}

/// A table with a line of headings.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// How a table is laid out.
struct Layout {
    /// The width of each column; `None` for one that has gone.
    widths: Vec<Option<usize>>,
    /// Whether the last column stands below its row.
    below: bool,
}

impl Table {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Table { columns: columns.into_iter().collect(), rows: Vec::new() }
    }

    /// Adds a row. What a terminal would act on is escaped.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<Cell> = cells.into_iter().map(|cell| Cell { text: printable(&cell), tone: None }).collect();
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Gives the last row's cell below this heading a tone.
    pub(crate) fn paint(&mut self, heading: &str, tone: Option<Tone>) {
        let index = self.columns.iter().position(|column| column.heading == heading);
        if let Some(cell) = index.and_then(|index| self.rows.last_mut()?.get_mut(index)) {
            cell.tone = tone;
        }
    }

    /// The text, with a line of headings; two spaces between the columns, none at the end of a line.
    pub(crate) fn text(self, screen: &Screen) -> String {
        let layout = self.layout(screen.width);
        let headings: Vec<Cell> =
            self.columns.iter().map(|column| Cell { text: column.heading.to_uppercase(), tone: Some(Tone::Aside) }).collect();
        let mut text = String::new();
        self.line(&headings, &layout, true, screen, &mut text);
        self.rows.iter().for_each(|row| self.line(row, &layout, false, screen, &mut text));
        text
    }

    fn natural_widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|column| column.heading.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count().min(WIDTH_MAX));
            }
        }
        widths
    }

    /// Whether no row says anything in this column.
    fn is_void(&self, index: usize) -> bool {
        self.rows.iter().all(|row| row.get(index).is_none_or(|cell| matches!(cell.text.as_str(), "" | "-")))
    }

    fn layout(&self, room: Option<usize>) -> Layout {
        let natural = self.natural_widths();
        let mut layout = Layout { widths: natural.iter().copied().map(Some).collect(), below: false };
        let Some(room) = room else { return layout };
        let least = self.columns.iter().zip(&natural).map(|(column, natural)| match column.fit {
            Fit::Whole => *natural,
            Fit::Middle(least) | Fit::Lines(least) => least.max(column.heading.len()).min(*natural),
        });
        layout.widths = least.map(Some).collect();
        while layout.total() > room {
            // A column that says nothing goes before any that does.
            let goes = |(index, column): &(usize, &Column)| layout.widths.get(*index).is_some_and(Option::is_some) && column.rank < STAYS;
            let least_of_all =
                self.columns.iter().enumerate().filter(goes).min_by_key(|(index, column)| (!self.is_void(*index), column.rank));
            let Some((index, column)) = least_of_all else { break };
            layout.below |= matches!(column.fit, Fit::Lines(_));
            layout.widths.iter_mut().skip(index).take(1).for_each(|width| *width = None);
        }
        layout.share(room, &natural);
        layout
    }

    fn line(&self, cells: &[Cell], layout: &Layout, is_heading: bool, screen: &Screen, text: &mut String) {
        let mut line = String::new();
        let mut column_at = 0;
        let mut more: Vec<String> = Vec::new();
        for (index, ((cell, width), column)) in cells.iter().zip(&layout.widths).zip(&self.columns).enumerate() {
            let Some(width) = *width else { continue };
            let mut shown = cell.text.clone();
            if screen.width.is_some() && shown.chars().count() > width {
                match column.fit {
                    Fit::Middle(_) => shown = shortened(&shown, width),
                    Fit::Lines(_) => {
                        let mut parts = in_lines(&shown, width).into_iter();
                        shown = parts.next().unwrap_or_default();
                        let indent = " ".repeat(column_at);
                        more.extend(parts.map(|part| indent.clone() + &part));
                    }
                    Fit::Whole => {}
                }
            }
            let room = " ".repeat(width.saturating_sub(shown.chars().count()));
            let painted = cell.tone.map_or_else(|| shown.clone(), |tone| screen.paint(tone, &shown));
            match column.is_right {
                true => line.extend([room, painted]),
                false => line.extend([painted, room]),
            }
            if index + 1 < cells.len() {
                line.push_str(&" ".repeat(GAP));
            }
            column_at += width + GAP;
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if let (true, false, Some(width), Some(cell)) = (layout.below, is_heading, screen.width, cells.last()) {
            let parts = in_lines(&cell.text, width.saturating_sub(INDENT));
            more.extend(parts.into_iter().filter(|part| !part.is_empty()).map(|part| " ".repeat(INDENT) + &part));
        }
        more.iter().for_each(|line| text.extend([line.as_str(), "\n"]));
    }
}

impl Layout {
    fn total(&self) -> usize {
        let kept = self.widths.iter().flatten();
        kept.clone().sum::<usize>() + GAP * kept.count().saturating_sub(1)
    }

    /// Gives the room that is left to the columns that could be wider, in equal parts.
    fn share(&mut self, room: usize, natural: &[usize]) {
        let mut left = room.saturating_sub(self.total());
        while left > 0 {
            let before = left;
            for (width, natural) in self.widths.iter_mut().zip(natural) {
                if let Some(width) = width.as_mut().filter(|width| **width < *natural && left > 0) {
                    *width += 1;
                    left -= 1;
                }
            }
            if left == before {
                break;
            }
        }
    }
}

/// The text in lines of this width; a word that is longer is divided, too.
fn in_lines(text: &str, width: usize) -> Vec<String> {
    let parts = wrapped(text, width, 0).into_iter().flat_map(|part| {
        let characters: Vec<char> = part.chars().collect();
        characters.chunks(width.max(1)).map(|chunk| chunk.iter().collect::<String>()).collect::<Vec<_>>()
    });
    parts.collect()
}

/// The start and the end of a text, in this width. Of a path the end says more, so it gets the odd character.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(ELLIPSIS.len());
    let (start, end) = (kept / 2, kept - kept / 2);
    let front: String = text.chars().take(start).collect();
    let back: String = text.chars().skip(length - end).collect();
    front + ELLIPSIS + &back
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide() -> Screen {
        Screen::default()
    }

    fn narrow(width: usize) -> Screen {
        Screen { width: Some(width), ..Screen::default() }
    }

    #[test]
    fn a_long_cell_makes_no_other_row_long() {
        let mut table = Table::new([Column::left("NAME"), Column::right("X")]);
        table.row(["l".repeat(70_000), "1".into()]);
        table.row(["short".into(), "2".into()]);
        let lengths: Vec<usize> = table.text(&wide()).lines().map(str::len).collect();
        assert_eq!(lengths, [WIDTH_MAX + 3, 70_003, WIDTH_MAX + 3]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([Column::left("NAME"), Column::right("bytes"), Column::left("X")]);
        table.row(["\u{fc}".into(), "1".into(), String::new()]);
        table.row(["longer".into(), "123456".into(), "a\nb".into()]);
        assert_eq!(table.text(&wide()), "NAME     BYTES  X\n\u{fc}            1\nlonger  123456  a\\nb\n");
    }

    #[test]
    fn what_matters_least_goes_first() {
        let columns = [Column::left("ID"), Column::left("NAME").shortened(6), Column::right("NEW").rank(1), Column::right("SIZE").rank(2)];
        let mut table = Table::new(columns);
        table.row(["0123456789ab", "a/long/path/of/a/file", "12345", "67890"].map(str::to_owned));
        let text = |width| table.clone().text(&narrow(width));
        assert_eq!(text(51), "ID            NAME                     NEW   SIZE\n0123456789ab  a/long/path/of/a/file  12345  67890\n");
        assert_eq!(text(34), "ID            NAME      NEW   SIZE\n0123456789ab  a...le  12345  67890\n");
        assert_eq!(text(33), "ID            NAME           SIZE\n0123456789ab  a/lo.../file  67890\n");
        assert_eq!(text(20), "ID            NAME\n0123456789ab  a...le\n");
    }

    #[test]
    fn a_column_that_says_nothing_goes_before_all() {
        let mut table = Table::new([Column::left("ID"), Column::left("FLAGS").rank(9), Column::left("TAG").rank(1)]);
        table.row(["1".to_owned(), String::new(), "nightly".to_owned()]);
        assert_eq!(table.text(&narrow(12)), "ID  TAG\n1   nightly\n");
    }

    #[test]
    fn long_text_goes_on_in_further_lines_or_below() {
        let mut table = Table::new([Column::left("CODE"), Column::left("WHY").in_lines(10).rank(1)]);
        table.row(["pack".to_owned(), "its bytes are not what was written".to_owned()]);
        let beside = "CODE  WHY\npack  its bytes are\n      not what was\n      written\n";
        assert_eq!(table.clone().text(&narrow(20)), beside);
        assert_eq!(table.text(&narrow(15)), "CODE\npack\n    its bytes\n    are not\n    what was\n    written\n");
    }

    #[test]
    fn colours_change_no_width() {
        let mut table = Table::new([Column::left("STATUS"), Column::right("N")]);
        table.row(["ok".to_owned(), "1".to_owned()]);
        table.paint("STATUS", Some(Tone::Good));
        let text = table.text(&Screen { colors: true, ..Screen::default() });
        assert_eq!(text, "\u{1b}[2mSTATUS\u{1b}[0m  \u{1b}[2mN\u{1b}[0m\n\u{1b}[32mok\u{1b}[0m      1\n");
    }

    #[test]
    fn the_end_of_a_shortened_text_says_more() {
        assert_eq!(shortened("/var/lib/app/memory.db", 12), "/var...ry.db");
        assert_eq!(shortened("short", 12), "short");
    }
}
