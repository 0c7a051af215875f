//! The numbers of rows of a snapshot's tables, as `show` and `ls` print them.

use icecore::ops::list::ListedStream;

use super::columns::{Column, Table};
use super::screen::Screen;

/// Tables that are shown unless all are wanted.
const SHOWN_MAX: usize = 20;

/// The largest tables, or all; nothing if no tables were recorded. Each begins with an empty line.
pub(crate) fn text(streams: &[ListedStream], all: bool, screen: &Screen) -> String {
    let with_tables = streams.iter().filter(|stream| !stream.tables.is_empty()).count();
    let all_rows = streams.iter().flat_map(|stream| stream.tables.iter().map(move |table| (stream, table.name.name.as_str(), table.rows)));
    // SQLite keeps names with this prefix for itself: `sqlite_schema`, `sqlite_sequence`.
    let is_own = |stream: &ListedStream, name: &str| stream.sqlite.is_some() && name.starts_with("sqlite_");
    let mut rows: Vec<(&ListedStream, &str, u64)> = all_rows.filter(|(stream, name, _)| !is_own(stream, name)).collect();
    if rows.is_empty() {
        return String::new();
    }
    // The largest first; tables of the same size stay in the order of the listing.
    rows.sort_by_key(|(_, _, number)| std::cmp::Reverse(*number));
    let shown = if all { rows.len() } else { rows.len().min(SHOWN_MAX) };
    let stream_column = (with_tables > 1).then(|| Column::left("STREAM").shortened(16));
    let mut table = Table::new([Column::left("TABLE").shortened(20), Column::right("ROWS")].into_iter().chain(stream_column));
    for (stream, name, number) in rows.iter().take(shown) {
        let of = stream_column.map(|_| String::from_utf8_lossy(&stream.name).into_owned());
        table.row([(*name).to_owned(), number.to_string()].into_iter().chain(of));
    }
    let more = match rows.len() - shown {
        0 => String::new(),
        more => format!("and {more} more: --all\n"),
    };
    format!("\n{}{more}", table.text(screen))
}
