//! Retention as a pure function, by tables: which of these times stay, and why.

use icecore::id::{SnapshotId, SourceId};
use icecore::ops::gaps::Gaps;
use icecore::ops::retention::{Calendar, Candidate, Duration, Group, GroupBy, Keep, Period, Rules, decide};
use icecore::recorded::Flag;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// As Europe/Berlin has it since 1996; and a zone whose summer time is half an hour (Lord Howe).
const BERLIN: &str = "CET-1CEST,M3.5.0,M10.5.0/3";
const LORD_HOWE: &str = "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0";

fn ns(time: &str) -> i64 {
    let time: Timestamp = time.parse().unwrap_or_else(|e| panic!("{time}: {e}"));
    i64::try_from(time.as_nanosecond()).unwrap()
}

fn id(number: usize) -> SnapshotId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    SnapshotId(id)
}

/// Good snapshots of one source, in the order of the list.
fn good(times: &[&str]) -> Vec<Candidate> {
    let candidate = |(number, time): (usize, &&str)| Candidate {
        id: id(number),
        time_ns: ns(time),
        source: SourceId([1; 32]),
        host: "a".into(),
        tags: Vec::new(),
        gaps: Gaps::none(),
        is_protected: false,
        is_unclear: false,
        chosen: true,
    };
    times.iter().enumerate().map(candidate).collect()
}

fn count(period: Period, keep: u32) -> Rules {
    let mut rules = Rules::default();
    rules.count[Period::ALL.iter().position(|other| *other == period).unwrap()] = Keep::Newest(keep);
    rules
}

fn within(period: Period, duration: &str) -> Rules {
    let mut rules = Rules::default();
    rules.within[Period::ALL.iter().position(|other| *other == period).unwrap()] = Some(Duration::parse(duration).unwrap());
    rules
}

fn groups(candidates: &[Candidate], rules: &Rules, zone: &str) -> Vec<Group> {
    let zone = if zone == "UTC" { TimeZone::UTC } else { TimeZone::posix(zone).unwrap() };
    decide(candidates, rules, GroupBy::default(), &Calendar { now_ns: ns("2030-01-01T00:00:00Z"), zone })
}

/// The reasons of each, in the order of the list.
fn why(candidates: &[Candidate], rules: &Rules, zone: &str) -> Vec<String> {
    let groups = groups(candidates, rules, zone);
    let of = |candidate: &Candidate| groups.iter().flat_map(|group| &group.decisions).find(|decision| decision.id == candidate.id);
    let text = |candidate| {
        of(candidate).map_or("not decided".into(), |d| d.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    candidates.iter().map(text).collect()
}

/// Which of these times are kept, without that the newest is kept anyway: `+` or `-` for each.
#[track_caller]
fn kept(times: &[&str], rules: &Rules, zone: &str, expected: &str) {
    let reasons = why(&good(times), rules, zone);
    let signs: String =
        reasons.iter().map(|why| if why.replace("newest good one of its source", "").is_empty() { '-' } else { '+' }).collect();
    assert_eq!(signs, expected, "{reasons:#?}");
}

#[test]
fn counting() {
    let days = ["2026-03-01T01:00:00Z", "2026-03-01T02:00:00Z", "2026-03-02T01:00:00Z", "2026-03-03T01:00:00Z", "2026-03-03T23:00:00Z"];
    kept(&days, &count(Period::Each, 2), "UTC", "---++");
    kept(&days, &count(Period::Each, 9), "UTC", "+++++");
    kept(&days, &count(Period::Day, 2), "UTC", "--+-+");
    kept(&days, &count(Period::Day, 3), "UTC", "-++-+");
    kept(&days, &count(Period::Hour, 2), "UTC", "---++");
    kept(&days, &count(Period::Month, 1), "UTC", "----+");
    kept(&[], &count(Period::Day, 3), "UTC", "");
    let all = Rules { count: [Keep::None, Keep::None, Keep::All, Keep::None, Keep::None, Keep::None], ..Rules::default() };
    kept(&days, &all, "UTC", "+++-+");
    let reasons = why(&good(&days), &count(Period::Day, 7), "UTC");
    assert_eq!(reasons, ["oldest: fewer than 7 daily snapshots yet", "daily", "daily", "", "daily; newest good one of its source"]);
    assert!(Rules::default().is_empty() && count(Period::Day, 0).is_empty() && !count(Period::Day, 1).is_empty() && !all.is_empty());
}

/// The clocks go from 02:00 to 03:00 on 2026-03-29, and from 03:00 back to 02:00 on 2026-10-25.
#[test]
fn summer_time() {
    let spring = ["2026-03-29T00:10:00Z", "2026-03-29T00:50:00Z", "2026-03-29T01:10:00Z", "2026-03-29T21:59:00Z", "2026-03-29T22:01:00Z"];
    kept(&spring, &count(Period::Hour, 4), BERLIN, "-++++");
    kept(&spring, &count(Period::Day, 1), BERLIN, "----+");
    kept(&spring, &count(Period::Day, 2), BERLIN, "---++");
    // 02:30 is there twice, and counts as two hours; the day has 25 of them.
    let autumn = ["2026-10-24T21:59:00Z", "2026-10-24T22:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T22:59:00Z"];
    kept(&autumn, &count(Period::Hour, 3), BERLIN, "--+++");
    kept(&autumn, &count(Period::Day, 1), BERLIN, "----+");
    kept(&autumn, &count(Period::Day, 2), BERLIN, "+---+");
    let half = ["2026-04-04T14:40:00Z", "2026-04-04T15:10:00Z", "2026-04-04T15:40:00Z"]; // 01:40, 01:40 once more, 02:10
    kept(&half, &count(Period::Hour, 3), LORD_HOWE, "+++");
    kept(&half, &count(Period::Hour, 2), LORD_HOWE, "-++");
    // A day back is a day of the calendar, of 23 or 25 hours; 24 hours are 24 hours.
    kept(&["2026-03-28T10:30:00Z", "2026-03-28T11:30:00Z", "2026-03-29T10:45:00Z"], &within(Period::Each, "1d"), BERLIN, "--+");
    kept(&["2026-03-28T11:50:00Z", "2026-03-29T10:45:00Z"], &within(Period::Each, "1d"), BERLIN, "++");
    kept(&["2026-03-28T10:46:00Z", "2026-03-29T10:45:00Z"], &within(Period::Each, "24h"), BERLIN, "++");
}

#[test]
fn time_zones_decide_where_a_day_ends() {
    let times = ["2026-05-01T21:30:00Z", "2026-05-01T22:30:00Z", "2026-05-02T21:30:00Z"];
    kept(&times, &count(Period::Day, 3), "UTC", "+++"); // the first is the oldest
    kept(&times, &count(Period::Day, 2), "UTC", "-++");
    kept(&times, &count(Period::Day, 1), BERLIN, "--+");
    kept(&times, &count(Period::Day, 2), BERLIN, "+-+");
}

#[test]
fn leap_days_week_53_and_the_ends_of_years() {
    let leap = ["2024-02-28T12:00:00Z", "2024-02-29T12:00:00Z", "2024-03-01T12:00:00Z"];
    kept(&leap, &count(Period::Day, 2), "UTC", "-++");
    kept(&leap, &count(Period::Month, 2), "UTC", "-++");
    // 2020 has 53 weeks; the last ends on Sunday 2021-01-03. Monday 2024-12-30 is in week 1 of 2025.
    let weeks = ["2020-12-27T12:00:00Z", "2020-12-28T12:00:00Z", "2021-01-03T12:00:00Z", "2021-01-04T12:00:00Z"];
    kept(&weeks, &count(Period::Week, 2), "UTC", "--++");
    kept(&weeks, &count(Period::Week, 3), "UTC", "+-++");
    kept(&["2024-12-29T12:00:00Z", "2024-12-30T12:00:00Z", "2025-01-05T12:00:00Z"], &count(Period::Week, 2), "UTC", "+-+");
    // Week 1 of two years.
    kept(&["2024-01-01T12:00:00Z", "2024-12-30T12:00:00Z"], &count(Period::Week, 1), "UTC", "-+");
    kept(&["2024-01-01T12:00:00Z", "2024-12-30T12:00:00Z"], &count(Period::Week, 2), "UTC", "++");
    let ends = ["2024-12-31T23:30:00Z", "2025-01-01T00:30:00Z", "2025-12-31T22:30:00Z", "2025-12-31T23:30:00Z"];
    kept(&ends, &count(Period::Year, 1), "UTC", "---+");
    kept(&ends, &count(Period::Year, 2), "UTC", "+--+");
    kept(&ends, &count(Period::Year, 2), BERLIN, "--++");
}

#[test]
fn durations_reach_back_from_the_newest_by_the_calendar() {
    // A month before 31 March is the last of February.
    let ends = ["2023-02-28T12:00:00Z", "2023-02-28T12:00:01Z", "2023-03-31T12:00:00Z"];
    kept(&ends, &within(Period::Each, "1m"), "UTC", "-++");
    kept(&["2024-02-29T12:00:01Z", "2024-03-31T12:00:00Z"], &within(Period::Each, "1m"), "UTC", "++");
    kept(&["2023-02-28T12:00:00Z", "2023-02-28T12:00:01Z", "2024-02-29T12:00:00Z"], &within(Period::Each, "1y"), "UTC", "-++");
    kept(&["2024-10-30T10:00:00Z", "2024-10-30T10:00:01Z", "2026-03-31T12:00:00Z"], &within(Period::Each, "1y5m1d2h"), "UTC", "-++");
    let hours = ["2026-03-01T01:00:00Z", "2026-03-01T01:30:00Z", "2026-03-01T02:00:00Z", "2026-03-02T02:00:00Z"];
    kept(&hours, &within(Period::Hour, "25h"), "UTC", "-+++");
    kept(&hours, &within(Period::Day, "7d"), "UTC", "--++");
    kept(&hours, &within(Period::Each, "99999y"), "UTC", "++++");
    for wrong in ["", "1", "d", "1w", "1d2", "1d1d", "-1d", "0d", "1 d", "4294967296h", "1\u{e4}"] {
        assert!(Duration::parse(wrong).is_err(), "{wrong}");
    }
    assert_eq!(Duration::parse("2h7d5m1y").unwrap().to_string(), "1y5m7d2h");
}

#[test]
fn snapshots_ahead_of_the_clock() {
    // It is 2030: the last is to come. A time reaches back from the newest that is not; what is to come is younger than that anyway.
    let times = ["2029-12-01T00:00:00Z", "2029-12-30T00:00:00Z", "2029-12-31T12:00:00Z", "2030-06-01T00:00:00Z"];
    kept(&times, &within(Period::Each, "2d"), "UTC", "-+++");
    kept(&times[3..], &within(Period::Each, "1h"), "UTC", "+");
    kept(&times, &count(Period::Each, 1), "UTC", "---+");
}

#[test]
fn equal_times_are_decided_by_the_order_of_the_list() {
    let same = ["2026-01-01T00:00:00Z"; 3];
    kept(&same, &count(Period::Each, 1), "UTC", "--+");
    kept(&same, &count(Period::Day, 1), "UTC", "--+");
    // A parent whose clock was ahead comes first in the list; its time counts for the rules, its place for which is the newest good one.
    let reasons = why(&good(&["2026-01-02T00:00:00Z", "2026-01-01T00:00:00Z"]), &count(Period::Each, 1), "UTC");
    assert_eq!(reasons, ["last", "newest good one of its source"]);
}

const NEWEST: &str = "flagged, newest one of its source";
const REST: &str = "flagged, newest good state of the streams without a flag";

/// What stays of flagged ones is what the rules would keep were they good; of those flagged as a whole nothing that is older than a good one.
#[test]
fn flagged_ones_count_for_no_rule_and_are_bounded_by_the_same_ones() {
    let times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z", "2026-01-05T00:00:00Z"];
    let mut list = good(&times);
    list.iter_mut().for_each(|candidate| candidate.gaps = Gaps::All);
    let last_newest = format!("last; {NEWEST}");
    assert_eq!(why(&list, &count(Period::Each, 1), "UTC"), ["", "", "", "", &last_newest], "without a good one");
    assert_eq!(why(&list, &count(Period::Each, 2), "UTC"), ["", "", "", "last", &last_newest]);
    assert_eq!(why(&list, &count(Period::Month, 1), "UTC"), ["", "", "", "", &format!("monthly; {NEWEST}")]);
    list[0].gaps = Gaps::none();
    list[2].gaps = Gaps::none();
    let good_one = "last; newest good one of its source";
    assert_eq!(why(&list, &count(Period::Each, 1), "UTC"), ["", "", good_one, "", &last_newest]);
    assert_eq!(why(&list, &count(Period::Each, 2), "UTC"), ["last", "", good_one, "last", &last_newest]);
    assert_eq!(why(&list, &count(Period::Each, 5), "UTC"), ["last", "", good_one, "last", &last_newest]);
    assert_eq!(why(&list, &within(Period::Each, "9d"), "UTC")[1], "");
    list[1].is_protected = true;
    list[3].is_unclear = true;
    list[3].gaps = Gaps::none();
    let kept = why(&list, &count(Period::Each, 1), "UTC");
    assert_eq!(kept, ["", "protected", good_one, "a mark on it cannot be read", &last_newest]);
}

/// The streams of a snapshot that are flagged.
fn gaps(streams: &[&str]) -> Gaps {
    Gaps::of(&streams.iter().map(|stream| Flag::new("incomplete", "").about(stream.as_bytes())).collect::<Vec<_>>())
}

/// Snapshots of one day each with these gaps, oldest first.
fn history(of: &[Gaps]) -> Vec<Candidate> {
    let mut list = good(&vec!["2026-01-01T00:00:00Z"; of.len()]);
    for (day, (candidate, gaps)) in (0..).zip(list.iter_mut().zip(of)) {
        candidate.time_ns += day * 24 * 3600 * 1_000_000_000;
        candidate.gaps = gaps.clone();
    }
    list
}

/// Whatever the rules, the newest good state of each stream stays.
#[test]
fn the_newest_good_state_of_every_stream_stays() {
    let last = count(Period::Each, 1);
    let list = history(&[gaps(&[]), gaps(&[]), gaps(&["a", "b"]), gaps(&["a"]), gaps(&["a"]), gaps(&["a", "b", "c/d"])]);
    let expected = ["", "last; newest good one of its source", "", "", "newest good state of b, c/d", &format!("last; {REST}; {NEWEST}")];
    assert_eq!(why(&list, &last, "UTC"), expected);
    // Two streams fail in turn: neither of their newest good states is in the newest good snapshot.
    let list = history(&[gaps(&[]), gaps(&["b"]), gaps(&["a"]), gaps(&["b"])]);
    let expected = ["last; newest good one of its source", "", "newest good state of b", &format!("last; {REST}; {NEWEST}")];
    assert_eq!(why(&list, &last, "UTC"), expected);
    // What is flagged as a whole has the good state of nothing.
    let list = history(&[gaps(&[]), gaps(&["a"]), Gaps::All, Gaps::All]);
    let expected = ["last; newest good one of its source", REST, "", &format!("last; {NEWEST}")];
    assert_eq!(why(&list, &last, "UTC"), expected);
    // A directory stands for what is in it, and what is in it for a part of it.
    let list = history(&[gaps(&[]), gaps(&["d/x"]), gaps(&["d"])]);
    let expected = ["last; newest good one of its source", "newest good state of d", &format!("last; {REST}; {NEWEST}")];
    assert_eq!(why(&list, &last, "UTC"), expected);
    // A mark that cannot be read may be a flag.
    let mut list = history(&[gaps(&[]), gaps(&["a"]), gaps(&["a", "b"])]);
    list[1].is_unclear = true;
    let expected = ["last; newest good one of its source", "a mark on it cannot be read", &format!("last; {REST}; {NEWEST}")];
    assert_eq!(why(&list, &last, "UTC"), expected);
    // A good one is all that is needed.
    assert_eq!(why(&history(&[gaps(&[]), gaps(&["a"]), gaps(&[])]), &last, "UTC"), ["", "", "last; newest good one of its source"]);
}

/// A source that is flagged for ever keeps its history, within the rules; and what is flagged for one night does not take the place of a good one.
#[test]
fn flagged_streams_leave_the_history_of_the_others() {
    let for_ever = history(&vec![gaps(&["a"]); 40]);
    let kept = why(&for_ever, &count(Period::Day, 7), "UTC").iter().filter(|why| !why.is_empty()).count();
    assert_eq!(kept, 7);
    let nights = history(&[gaps(&[]), gaps(&["a"]), gaps(&[]), gaps(&["a"]), gaps(&[])]);
    let kept: Vec<bool> = why(&nights, &count(Period::Each, 3), "UTC").iter().map(|why| !why.is_empty()).collect();
    assert_eq!(kept, [true, false, true, true, true], "three good ones, and the one that is among the newest three");
}

#[test]
fn tags_and_groups() {
    let times = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00Z"];
    let mut list = good(&times);
    let tags = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    list[0].tags = tags(&["y", "x"]);
    list[1].tags = tags(&["x"]);
    list[0].gaps = Gaps::All;
    let rules = Rules { tags: vec![tags(&["x", "y"]), tags(&["z"])], ..Rules::default() };
    assert_eq!(why(&list, &rules, "UTC"), ["tag x,y", "", "", "newest good one of its source"]);
    let last = count(Period::Each, 1);
    let calendar = Calendar { now_ns: 0, zone: TimeZone::UTC };
    let sizes = |list: &[Candidate], source, host, tags| {
        let groups = decide(list, &last, GroupBy { source, host, tags }, &calendar);
        groups.iter().map(|group| group.decisions.len()).collect::<Vec<_>>()
    };
    list[2].host = "b".into();
    list[3].source = SourceId([2; 32]);
    assert_eq!(sizes(&list, true, true, false), [2, 1, 1]);
    assert_eq!(sizes(&list, true, false, false), [3, 1]);
    assert_eq!(sizes(&list, false, true, false), [3, 1]);
    assert_eq!(sizes(&list, false, false, true), [1, 1, 2]);
    assert_eq!(sizes(&list, false, false, false), [4]);
    list[1].tags = tags(&["x", "y"]);
    assert_eq!(sizes(&list, false, false, true), [2, 2], "the order of tags does not matter");
    // One group over two sources: the newest good one of each source stays all the same.
    let groups = decide(&list, &last, GroupBy { source: false, host: false, tags: false }, &calendar);
    let kept: Vec<bool> = groups[0].decisions.iter().map(|decision| !decision.reasons.is_empty()).collect();
    assert_eq!(kept, [false, false, true, true]);
    // Those that were not chosen are not decided about, but show that there is a newer good one.
    list[2].chosen = false;
    assert_eq!(why(&list, &rules, "UTC"), ["tag x,y", "tag x,y", "not decided", "newest good one of its source"]);
    list[1].tags.clear();
    assert_eq!(why(&list, &rules, "UTC")[1], "");
}
