//! Figures in documents: limits are those of the code, measurements are those that were recorded.

use std::collections::BTreeSet;
use std::path::Path;

use crate::page::{Part, pages};

/// The value of `const NAME: TYPE = EXPRESSION;` where the expression is a product of whole numbers, shifts and other such constants.
fn constant(sources: &str, name: &str) -> Option<u64> {
    let at = sources.find(&format!("const {name}: "))?;
    let (_, rest) = sources[at..].split_once(" = ")?;
    let (expression, _) = rest.split_once(';')?;
    let expression = expression.replace("Duration::from_secs(", "").replace(['(', ')'], "");
    let number = |text: &str| -> Option<u64> {
        let digits = text.trim().replace('_', "");
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        match digits[..end].parse() {
            Ok(value) => Some(value),
            Err(_) => constant(sources, digits_name(text)),
        }
    };
    expression.split('*').try_fold(1, |product: u64, factor| {
        let value = match factor.split_once("<<") {
            Some((value, shift)) => number(value)? << number(shift)?,
            None => number(factor)?,
        };
        Some(product * value)
    })
}

fn digits_name(text: &str) -> &str {
    text.trim().rsplit("::").next().unwrap_or_default()
}

/// How documents may write a value.
fn spellings(value: u64) -> Vec<String> {
    let units =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("minutes", 60), ("minute", 60), ("hours", 3600), ("days", 86400), ("s", 1)];
    let in_units = units
        .iter()
        .filter(|(_, unit)| value.is_multiple_of(*unit) && value >= *unit)
        .map(|(name, unit)| format!("{} {name}", value / unit));
    let words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    let word = usize::try_from(value).ok().and_then(|value| words.get(value)).map(|word| (*word).to_owned());
    in_units.chain(word).chain([value.to_string(), grouped(value)]).collect()
}

/// With a comma between groups of three digits.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let groups = digits.bytes().rev().enumerate().flat_map(|(at, digit)| {
        let comma = (at > 0 && at % 3 == 0).then_some(',');
        comma.into_iter().chain([char::from(digit)])
    });
    groups.collect::<Vec<_>>().into_iter().rev().collect()
}

/// A line that ends with `<!-- NAME -->` names the value of that constant.
#[test]
fn limits_are_those_of_the_code() {
    let sources = walkdir::WalkDir::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).sort_by_file_name().into_iter();
    let texts =
        sources.map(|entry| entry.unwrap().into_path()).filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    let sources: String = texts.collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        for (number, _, line) in page.lines() {
            for part in line.split("<!-- ").skip(1) {
                let Some(name) = part.split(" -->").next().filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')) else {
                    continue;
                };
                seen += 1;
                match constant(&sources, name) {
                    None => wrong.push(format!("{}:{number}: there is no constant {name}", page.name)),
                    Some(value) if !spellings(value).iter().any(|spelling| line.contains(spelling.as_str())) => {
                        wrong.push(format!("{}:{number}: {name} is {value}", page.name));
                    }
                    Some(_) => (),
                }
            }
        }
    }
    assert!(seen >= 10, "the test has lost sight of the limits: {seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Numbers of a text: `1,635`, `56.8`, `0.13`. A trailing point or comma is the sentence's.
fn numbers(text: &str) -> Vec<&str> {
    let pieces = text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ','));
    pieces.map(|piece| piece.trim_matches(['.', ','])).filter(|piece| !piece.is_empty()).collect()
}

/// A measured figure has a decimal point, groups of digits, or a unit behind it.
fn measured(line: &str) -> Vec<String> {
    let units = ["MB", "kB", "GB", "KiB", "MiB", "GiB", "ms", "s", "%", "times"];
    let words: Vec<&str> = line.split([' ', '|', '(', ')', '*', ';', '/']).filter(|word| !word.is_empty()).collect();
    let mut found = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let only = word.trim_matches(['.', ',', ':']);
        if only.is_empty() || !only.chars().all(|c| c.is_ascii_digit() || c == '.' || c == ',') {
            continue;
        }
        let unit = words.get(index + 1).is_some_and(|next| units.contains(&next.trim_matches(['.', ',', ':'])));
        if unit || only.contains(['.', ',']) {
            found.push(only.to_owned());
        }
    }
    found
}

/// Figures in README's tables and all of docs/performance.md are in benches/RESULTS.md, with their command, date and machine.
#[test]
fn measurements_are_recorded() {
    let results = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md")).unwrap();
    let recorded: BTreeSet<&str> = numbers(&results).into_iter().collect();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        for (number, part, line) in page.lines() {
            let counts = match page.name.as_str() {
                "README.md" => part == Part::Prose && line.starts_with('|'),
                "docs/performance.md" => part == Part::Prose && !line.ends_with("-->"),
                _ => false,
            };
            // Versions of programs, sizes of corpora in a command and what is in code are no measurements.
            let code_free = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
            for figure in measured(&code_free).into_iter().filter(|_| counts) {
                seen += 1;
                if !recorded.contains(figure.as_str()) {
                    wrong.push(format!("{}:{number}: {figure}", page.name));
                }
            }
        }
    }
    assert!(seen > 60, "the test has lost sight of the figures: {seen}");
    assert!(wrong.is_empty(), "these figures are not in benches/RESULTS.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_wrong_figure_is_noticed() {
    assert_eq!(constant("const A_MAX: u64 = 64 << 10;\npub const B: usize = 3 * format::A_MAX;", "B"), Some(3 * 65536));
    assert_eq!(constant("const A: Duration = Duration::from_secs(2);", "A"), Some(2));
    assert!(spellings(65536).contains(&"64 KiB".to_owned()) && spellings(50_000).contains(&"50,000".to_owned()));
    assert_eq!(measured("| icecore | 50.7 / **56.8 MB** | 99 kB | 372 |"), ["50.7", "56.8", "99"]);
}
