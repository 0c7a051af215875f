//! Parses the times and time spans that people type, and formats times for people and programs.
//! Times are nanoseconds since 1970 UTC. Text without an offset is in the local time zone. An unknown zone is an error
//! when a time is parsed, because another zone would silently move the ends of days.

use icecore::{Error, Result};

use super::exit::Failure;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

/// The time now, nanoseconds since 1970 UTC.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// The forms of a time, for messages.
const FORMS: &str = "2026-11-23T03:15:00Z, `2026-11-23 03:15` or 2026-11-23";

/// Parses RFC 3339, or a date with or without a time in the local time zone. Gives nanoseconds since 1970 UTC.
pub(crate) fn parse(text: &str) -> Result<i64> {
    exact(text, zone)?.ok_or_else(|| Error::InvalidArgument(format!("{text:?} is not a time; give {FORMS}")))
}

/// A time after `@`: as for [`parse`], or as people say it. `yesterday` and `today` are the ends of these days, so that the newest snapshot of
/// the day is found.
pub(crate) fn at(text: &str) -> Result<i64> {
    spoken(text, Day::End, Timestamp::now(), zone)
}

/// The start of a period: as for [`at`], but `yesterday` and `today` are the first moments of these days.
pub(crate) fn since(text: &str) -> Result<i64> {
    spoken(text, Day::Start, Timestamp::now(), zone)
}

/// Which moment of a day its name means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Day {
    Start,
    End,
}

/// `None` for text of another form.
fn exact(text: &str, zone: impl FnOnce() -> Result<TimeZone>) -> Result<Option<i64>> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(nanoseconds(time));
    }
    match text.parse::<DateTime>() {
        Ok(civil) => Ok(civil.to_zoned(zone()?).ok().and_then(|zoned| nanoseconds(zoned.timestamp()))),
        Err(_) => Ok(None),
    }
}

fn spoken(text: &str, day: Day, now: Timestamp, zone: impl Fn() -> Result<TimeZone>) -> Result<i64> {
    let spoken = match (exact(text, &zone)?, text.strip_prefix('-').map(seconds), text) {
        (Some(time_ns), _, _) => Some(time_ns),
        (None, Some(Ok(span_s)), _) => nanoseconds(now).map(|now_ns| now_ns.saturating_sub(span_s.saturating_mul(1_000_000_000))),
        (None, _, "today") => moment_of(now.to_zoned(zone()?).date(), day, zone()?),
        (None, _, "yesterday") => now.to_zoned(zone()?).date().yesterday().ok().and_then(|date| moment_of(date, day, zone().ok()?)),
        (None, _, _) => match text.parse::<Time>() {
            Ok(time) if text.contains(':') => last_time_of_day(time, now, zone()?),
            _ => None,
        },
    };
    spoken.ok_or_else(|| {
        Error::InvalidArgument(format!(
            "{text:?} is not a time; give {FORMS}, or 12:30 (today, or yesterday if that is still to come), today, yesterday, -90m, -3h or -2d"
        ))
    })
}

/// The first or the last moment of a day.
fn moment_of(date: Date, day: Day, zone: TimeZone) -> Option<i64> {
    let first = |date: Date| date.to_zoned(zone.clone()).ok().and_then(|zoned| nanoseconds(zoned.timestamp()));
    match day {
        Day::Start => first(date),
        Day::End => Some(first(date.tomorrow().ok()?)?.saturating_sub(1)),
    }
}

/// When a clock on the wall last showed this time.
fn last_time_of_day(time: Time, now: Timestamp, zone: TimeZone) -> Option<i64> {
    let today = now.to_zoned(zone.clone()).date();
    let on = |date: Date| Some(date.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp());
    let of_today = on(today)?;
    nanoseconds(if of_today <= now { of_today } else { on(today.yesterday().ok()?)? })
}

fn nanoseconds(time: Timestamp) -> Option<i64> {
    i64::try_from(time.as_nanosecond()).ok()
}

/// The local time zone.
///
/// # Errors
/// [`Error::InvalidArgument`] if the system names an unknown zone. Another zone, chosen silently, would move the ends of days.
pub(crate) fn zone() -> Result<TimeZone> {
    let unknown = |named: &str| {
        let detail = format!(
            "this system does not know the time zone {named} (is tzdata installed?); set TZ to one that it knows, as Europe/Berlin or UTC"
        );
        Error::InvalidArgument(detail)
    };
    match (TimeZone::try_system(), std::env::var_os("TZ").filter(|name| !name.is_empty())) {
        (Ok(zone), _) if !zone.is_unknown() => Ok(zone),
        (_, Some(name)) => Err(unknown(&format!("TZ={}", name.to_string_lossy()))),
        // No zone is set: UTC, as in other programs.
        (_, None) if std::fs::symlink_metadata("/etc/localtime").is_err() => Ok(TimeZone::UTC),
        _ => Err(unknown("/etc/localtime")),
    }
}

/// For people: local, with the offset.
pub(crate) fn local(time_ns: i64) -> String {
    // An unknown zone is shown as UTC: +00:00.
    shown(time_ns, TimeZone::system(), "%Y-%m-%d %H:%M:%S %:z")
}

/// For columns of tables on a terminal: local.
pub(crate) fn local_short(time_ns: i64) -> String {
    shown(time_ns, TimeZone::system(), "%Y-%m-%d %H:%M:%S")
}

/// How long ago it was, for people: `3 h ago`, or `in 2 d`.
pub(crate) fn ago(time_ns: i64, now_ns: i64) -> String {
    let seconds = now_ns.saturating_sub(time_ns) / 1_000_000_000;
    match seconds {
        0.. => format!("{} ago", span(seconds.unsigned_abs())),
        _ => format!("in {}", span(seconds.unsigned_abs())),
    }
}

/// A time span in its largest unit, for narrow columns: `45 s`, `3 h`, `12 d`.
pub(crate) fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let unit = UNITS.into_iter().find(|(unit, _)| seconds >= 2 * unit).unwrap_or((1, "s"));
    format!("{} {}", seconds / unit.0, unit.1)
}

pub(crate) use icecore::ops::json::utc_text as utc;

pub(crate) use icecore::ops::text::compact;

fn shown(time_ns: i64, zone: TimeZone, format: &str) -> String {
    let text = Timestamp::from_nanosecond(i128::from(time_ns)).and_then(|time| jiff::fmt::strtime::format(format, &time.to_zoned(zone)));
    text.unwrap_or_else(|_| time_ns.to_string())
}

/// A time span as `0`, `90s`, `30m`, `24h` or `7d`, in seconds.
pub(crate) fn seconds(text: &str) -> Result<i64, Failure> {
    let usage = || Failure::usage(format!("{text:?} is not a time span; give 0, or a number with s, m, h or d: 90s, 30m, 24h, 7d"));
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h', 'd']) {
        Some(number) => (number, text.chars().last()),
        None if text == "0" => ("0", None),
        None => return Err(usage()),
    };
    let factor = match unit {
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => 1,
    };
    let number: u32 = number.parse().map_err(|_| usage())?;
    Ok(i64::from(number) * factor)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_of_a_time() {
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        let parse = |text: &str| exact(text, || Ok(berlin.clone())).unwrap().map(utc);
        let is = |text: &str| parse(text).unwrap();
        assert_eq!(is("2026-11-23T03:15:00Z"), "2026-11-23T03:15:00Z");
        assert_eq!(is("2026-11-23T03:15:00.5-02:00"), "2026-11-23T05:15:00.5Z");
        assert_eq!(is("2026-11-23 03:15"), "2026-11-23T02:15:00Z");
        assert_eq!(is("2026-11-23 03:15:07"), "2026-11-23T02:15:07Z");
        assert_eq!(is("2026-11-23"), "2026-11-22T23:00:00Z");
        for wrong in ["", "yesterday", "12:30", "-3h", "2026-13-01", "9999-01-01", "2026-11-23 25:00"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_as_people_say_them() {
        // Clocks in Berlin were set back by an hour on 2026-10-25 at 03:00.
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let now: Timestamp = "2026-10-26T11:00:00Z".parse().unwrap();
        let said = |text: &str, day| {
            spoken(text, day, now, || Ok(berlin.clone())).map(|ns| ns.div_euclid(1_000_000_000)).map(|s| utc(s * 1_000_000_000))
        };
        let at = |text: &str| said(text, Day::End).unwrap();
        assert_eq!((at("yesterday"), at("today")), ("2026-10-25T22:59:59Z".to_owned(), "2026-10-26T22:59:59Z".to_owned()));
        assert_eq!(said("yesterday", Day::Start).unwrap(), "2026-10-24T22:00:00Z");
        assert_eq!(said("today", Day::Start).unwrap(), "2026-10-25T23:00:00Z");
        assert_eq!((at("12:00"), at("12:00:01")), ("2026-10-26T11:00:00Z".to_owned(), "2026-10-25T11:00:01Z".to_owned()));
        assert_eq!(
            (at("-3h"), at("-2d"), at("-90m")),
            ("2026-10-26T08:00:00Z".into(), "2026-10-24T11:00:00Z".into(), "2026-10-26T09:30:00Z".into())
        );
        assert_eq!(at("2026-10-26"), "2026-10-25T23:00:00Z");
        for wrong in ["", "noon", "3h", "-3", "-h", "--3h", "25:00", "1230", "tomorrow", "-9999999999d"] {
            let message = said(wrong, Day::End).unwrap_err().to_string();
            assert!(["not a time", "12:30", "yesterday", "-3h", "2026-11-23"].iter().all(|form| message.contains(form)), "{message}");
        }
    }

    #[test]
    fn times_that_a_record_may_hold() {
        assert_eq!(compact(0), "19700101T000000Z");
        for time_ns in [i64::MIN, -1, 0, i64::MAX] {
            assert!(utc(time_ns).ends_with('Z'));
            assert!(local(time_ns).contains(':'));
        }
    }

    #[test]
    fn how_long_ago() {
        let after = |seconds: i64| ago(0, seconds * 1_000_000_000);
        assert_eq!(
            [0, 1, 119, 120, 7199, 7200, 172_799, 172_800, 40_000_000].map(after),
            ["0 s ago", "1 s ago", "119 s ago", "2 min ago", "119 min ago", "2 h ago", "47 h ago", "2 d ago", "462 d ago"]
        );
        assert_eq!(after(-10_000), "in 2 h");
    }

    #[test]
    fn time_spans() {
        let all: Vec<i64> = ["0", "0s", "90s", "30m", "24h", "7d"].iter().map(|text| seconds(text).unwrap()).collect();
        assert_eq!(all, [0, 0, 90, 1800, 86_400, 604_800]);
        assert!(["", "5", "h", "-1h", "1.5h", "24 h", "9999999999d"].iter().all(|text| seconds(text).is_err()));
    }
}
