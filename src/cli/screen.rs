//! What standard output is: how wide, with colours or without, and whether a person reads it now.
//!
//! On a terminal, text fits the terminal's width, times say how long ago they were, and colours say how bad something is. Elsewhere
//! nothing is shortened and times are absolute, so that scripts get all of it. JSON documents never pass through here.

use std::io::{IsTerminal, stderr, stdout};
use std::os::fd::AsFd;

use anstyle::{AnsiColor, Style};

use super::columns::shortened;
use super::time;

/// The width of a terminal that does not say how wide it is.
const WIDTH_DEFAULT: usize = 80;
/// A narrower terminal is treated as one of this width: nothing useful fits it.
const WIDTH_MIN: usize = 40;
/// How far the continuation of a long line is indented.
pub(crate) const HANGING: usize = 2;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, as the variables NO_COLOR, CLICOLOR and CLICOLOR_FORCE say.
    #[default]
    #[value(help = None)]
    Auto,
    /// Also in pipes and files.
    #[value(help = None)]
    Always,
    /// Not at all.
    #[value(help = None)]
    Never,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Damage, failure: red.
    Bad,
    /// Flagged, overdue, a warning: yellow.
    Doubtful,
    /// Green.
    Good,
    /// Secondary: dim.
    Aside,
}

/// Standard output, as text is made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Screen {
    /// Columns of the terminal; `None` where nothing limits the width.
    pub(crate) width: Option<usize>,
    /// Whether to use colours.
    pub(crate) colors: bool,
    /// The time from which relative times count, on a terminal.
    pub(crate) now_ns: Option<i64>,
}

impl Screen {
    /// Standard output of this process.
    pub(crate) fn of_stdout(when: ColorWhen) -> Self {
        let is_terminal = stdout().is_terminal();
        Screen {
            width: is_terminal.then(|| terminal_width(stdout())),
            colors: with_colors(when, &stdout()),
            now_ns: is_terminal.then(time::now_ns),
        }
    }

    /// The text in the colour of its tone.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.colors { painted(tone, text) } else { text.to_owned() }
    }

    /// A time for a column of a table: local, on a terminal without the offset from UTC.
    pub(crate) fn time(&self, time_ns: i64) -> String {
        if self.now_ns.is_some() { time::local_short(time_ns) } else { time::local(time_ns) }
    }

    /// A time for a line of text: local, on a terminal with how long ago it was.
    pub(crate) fn time_and_age(&self, time_ns: i64) -> String {
        match self.now_ns {
            Some(now_ns) => format!("{} ({})", time::local(time_ns), time::ago(time_ns, now_ns)),
            None => time::local(time_ns),
        }
    }

    /// A name in a line of text, shortened in the middle where a narrow terminal leaves no room for it.
    pub(crate) fn name(&self, name: &str) -> String {
        /// What stands beside it.
        const REST: usize = 20;
        self.width.map_or_else(|| name.to_owned(), |width| shortened(name, width - REST))
    }

    /// Lines `name  value`. A long value goes on below its start.
    pub(crate) fn facts(&self, name_width: usize, lines: impl IntoIterator<Item = (String, String)>) -> String {
        let room = self.width.unwrap_or(usize::MAX);
        let lines = lines.into_iter().flat_map(|(name, value)| wrapped(&format!("{name:<name_width$} {value}"), room, name_width + 1));
        lines.map(|line| line + "\n").collect()
    }

    /// The text with no line longer than the terminal is wide, as far as its words allow.
    pub(crate) fn fitted(&self, text: String) -> String {
        let Some(width) = self.width else { return text };
        if text.lines().all(|line| shown_len(line) <= width) {
            return text;
        }
        let mut fitted = String::with_capacity(text.len() + text.len() / 40);
        for line in text.lines() {
            for part in wrapped(line, width, HANGING) {
                fitted.push_str(&part);
                fitted.push('\n');
            }
        }
        fitted
    }
}

/// Whether standard error gets colours.
pub(crate) fn stderr_has_colors(when: ColorWhen) -> bool {
    with_colors(when, &stderr())
}

/// The text in the colour of its tone, whatever it is written to.
pub(crate) fn painted(tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Bad => AnsiColor::Red.on_default(),
        Tone::Doubtful => AnsiColor::Yellow.on_default(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Aside => Style::new().dimmed(),
    };
    if text.is_empty() { String::new() } else { format!("{style}{text}{style:#}") }
}

fn with_colors<S: anstream::stream::RawStream>(when: ColorWhen, stream: &S) -> bool {
    match when {
        ColorWhen::Always => true,
        ColorWhen::Never => false,
        ColorWhen::Auto => anstream::AutoStream::choice(stream) != anstream::ColorChoice::Never,
    }
}

/// The columns of the terminal that standard error is.
pub(crate) fn stderr_width() -> Option<usize> {
    stderr().is_terminal().then(|| terminal_width(stderr()))
}

/// COLUMNS comes first, as POSIX has it; then what the terminal says.
fn terminal_width(terminal: impl AsFd) -> usize {
    let set = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse::<usize>().ok());
    let asked = || rustix::termios::tcgetwinsize(terminal).ok().map(|size| usize::from(size.ws_col));
    let known = set.filter(|columns| *columns > 0).or_else(|| asked().filter(|columns| *columns > 0));
    known.unwrap_or(WIDTH_DEFAULT).max(WIDTH_MIN)
}

/// How many columns of a terminal a line takes: colours take none.
fn shown_len(line: &str) -> usize {
    let mut length = 0;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            // A colour ends with an `m`; nothing else that begins with ESC is ever written.
            '\u{1b}' => drop(characters.find(|c| *c == 'm')),
            _ => length += 1,
        }
    }
    length
}

/// The line in parts of at most `room` columns, divided at spaces. A longer word stays whole, so that it can be copied. Parts after the
/// first are indented like the line, and by `hanging` more.
pub(crate) fn wrapped(line: &str, room: usize, hanging: usize) -> Vec<String> {
    if shown_len(line) <= room {
        return vec![line.to_owned()];
    }
    let own = line.len() - line.trim_start_matches(' ').len();
    let mut parts = Vec::new();
    let mut part = String::new();
    for (index, word) in line.trim_start_matches(' ').split(' ').enumerate() {
        if index > 0 && shown_len(&part) + 1 + shown_len(word) > room {
            parts.push(std::mem::take(&mut part).trim_end().to_owned());
        } else if index > 0 {
            part.push(' ');
        }
        if part.is_empty() {
            part = " ".repeat(own + if parts.is_empty() { 0 } else { hanging });
        }
        part.push_str(word);
    }
    parts.push(part.trim_end().to_owned());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_divided_at_spaces() {
        assert_eq!(wrapped("a bc def", 80, 2), ["a bc def"]);
        assert_eq!(wrapped("aaa bbb ccc ddd", 7, 2), ["aaa bbb", "  ccc", "  ddd"]);
        assert_eq!(wrapped("  aaa bbb", 5, 2), ["  aaa", "    bbb"]);
        assert_eq!(wrapped("a /a/path/that/is/long b", 6, 0), ["a", "/a/path/that/is/long", "b"]);
    }

    #[test]
    fn colours_take_no_room() {
        let line = format!("{} and more", painted(Tone::Bad, "damage"));
        assert_eq!(shown_len(&line), "damage and more".len());
        assert_eq!(wrapped(&line, 15, 2), std::slice::from_ref(&line));
        let screen = Screen { width: Some(15), colors: true, now_ns: None };
        assert_eq!(screen.fitted(format!("{line}\n")), format!("{line}\n"));
        assert_eq!(screen.paint(Tone::Good, ""), "");
    }

    #[test]
    fn nothing_is_divided_where_nobody_limits_the_width() {
        let text = "word ".repeat(100) + "\n";
        assert_eq!(Screen::default().fitted(text.clone()), text);
        let narrow = Screen { width: Some(40), ..Screen::default() };
        assert!(narrow.fitted(text).lines().all(|line| line.len() <= 40));
    }

    #[test]
    fn a_value_goes_on_below_its_start() {
        let screen = Screen { width: Some(14), ..Screen::default() };
        let lines = [("name".to_owned(), "aaa bbb ccc".to_owned()), ("x".to_owned(), "1".to_owned())];
        assert_eq!(screen.facts(5, lines), "name  aaa bbb\n      ccc\nx     1\n");
    }
}
