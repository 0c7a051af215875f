//! Formats values for people, in the journal and in the texts of commands.
//!
//! Guarantee: times are in UTC and do not depend on the machine's locale. A time that cannot be formatted is shown as
//! a plain number. The form of `compact` is part of the names of kept files, so it must stay the same.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Bytes for people: `0 B`, `1023 B`, `1.0 KiB`, `12.3 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Rounded to one decimal below, so what an f64 loses of large counts does not show.
    let mut value = count as f64 / 1024.0;
    let mut unit = "KiB";
    // From 1023.95 on one decimal would show 1024.0.
    for larger in UNITS.iter().skip(1) {
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// Microseconds as milliseconds.
pub fn ms(us: u64) -> f64 {
    // Exact up to 2^53 microseconds, 285 years.
    us as f64 / 1000.0
}

/// A time span for people.
pub fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1000.0),
        ms => {
            // Whole seconds; `as` saturates.
            let seconds = (ms / 1000.0) as u64;
            match seconds / 3600 {
                0 => format!("{} min {:02} s", seconds / 60, seconds % 60),
                hours => format!("{hours} h {:02} min", seconds / 60 % 60),
            }
        }
    }
}

/// `1 stream`, `2 streams`.
pub fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A time, nanoseconds since 1970 UTC, in messages: `2026-11-23T03:15:00Z`.
pub fn moment(time_ns: i64) -> String {
    written(time_ns, "%Y-%m-%dT%H:%M:%SZ")
}

/// A time, nanoseconds since 1970 UTC, as part of the names of kept files: `20261123T031500Z`.
pub fn compact(time_ns: i64) -> String {
    written(time_ns, "%Y%m%dT%H%M%SZ")
}

fn written(time_ns: i64, format: &str) -> String {
    let time = Timestamp::from_nanosecond(i128::from(time_ns)).map(|time| time.to_zoned(TimeZone::UTC));
    let text = time.and_then(|time| jiff::fmt::strtime::format(format, &time));
    text.unwrap_or_else(|_| time_ns.to_string())
}

/// The path from the root, for the journal: a relative one means nothing to those who read it elsewhere.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// A word that a shell takes as it is. Text that a shell would change is put in quotation marks.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        let shown = [0, 1023, 1024, 1536, (1 << 20) - 1, 1 << 20, 10 << 30, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 MiB", "10.0 GiB", "16.0 EiB"]);
    }

    #[test]
    fn words_for_a_shell() {
        let shown = ["a.db", "/srv/x:5432", "a b", "it's", "", "$x"].map(shell_word);
        assert_eq!(shown, ["a.db", "/srv/x:5432", "'a b'", "'it'\\''s'", "''", "'$x'"]);
    }

    #[test]
    fn durations_for_people() {
        let shown = [0.4, 999.0, 1000.0, 61_000.0, 3_660_000.0].map(duration);
        assert_eq!(shown, ["0 ms", "999 ms", "1.0 s", "1 min 01 s", "1 h 01 min"]);
    }
}
