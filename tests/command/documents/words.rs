//! The words of documents and comments: the glossary's, in sentences that are read once.

use std::path::Path;

use crate::page::{Part, pages};

/// Constructions that have to be read twice. Each can be said directly.
const READ_TWICE: [&str; 18] = [
    "of which",
    "of whom",
    "whoever",
    "whomever",
    "what is to be",
    "that are to be",
    "no matter",
    "be it",
    "is told by",
    "which is told",
    "that is told",
    "is said so",
    "and said so",
    "has it that",
    "the same of",
    "as is told",
    "so it is with",
    "what it has of",
];

/// Words that the glossary has another word for.
const SYNONYMS: [(&str, &str); 9] = [
    ("blob", "chunk"),
    ("blobs", "chunks"),
    ("restore point", "snapshot"),
    ("recovery point", "snapshot"),
    ("backup set", "snapshot"),
    ("datastore", "repository"),
    ("repo", "repository"),
    ("dedupe", "deduplicate"),
    ("healthcheck", "check"),
];

const LINE_MAX: usize = 100;
const README_LINES_MAX: usize = 150;

/// Where these words stand in a text, as whole words, in any case.
fn has_words(text: &str, words: &str) -> bool {
    let text = text.to_lowercase();
    let apart = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '-' && c != '_');
    text.match_indices(words).any(|(at, _)| apart(text[..at].chars().next_back()) && apart(text[at + words.len()..].chars().next()))
}

/// A line without what is in backquotes.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("` `")
}

#[test]
fn documents_use_plain_words() {
    let mut wrong = Vec::new();
    for page in pages() {
        let lines = page.lines();
        let prose = lines.iter().filter(|(_, part, _)| *part == Part::Prose);
        for (number, _, line) in prose {
            let line = without_code(line);
            let twice = READ_TWICE.iter().filter(|words| has_words(&line, words)).map(|words| format!("{words:?} has to be read twice"));
            let synonyms = SYNONYMS.iter().filter(|(word, _)| has_words(&line, word)).map(|(word, use_)| format!("{word:?}: say {use_:?}"));
            wrong.extend(twice.chain(synonyms).map(|what| format!("{}:{number}: {what}", page.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The words of a comment, or of a paragraph, may stand on two lines: each line is looked at with the end of the one before it.
fn with_the_end_of(previous: &str, line: &str) -> String {
    let end: Vec<&str> = previous.split_whitespace().rev().take(4).collect();
    let words = end.into_iter().rev().chain(line.split_whitespace().filter(|word| !word.starts_with("//")));
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn comments_use_plain_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    let directories =
        ["src", "tests", "benches", "examples", "fuzz/src", "fuzz/fuzz_targets"].map(|name| walkdir::WalkDir::new(root.join(name)));
    for file in directories.into_iter().flatten().map(|entry| entry.unwrap().into_path()) {
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let mut previous = String::new();
        for (index, line) in text.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                previous.clear();
                continue;
            }
            seen += 1;
            let line = without_code(line);
            let joined = with_the_end_of(&previous, &line);
            let found = READ_TWICE.iter().filter(|words| has_words(&joined, words) && !has_words(&previous, words));
            wrong.extend(found.map(|words| format!("{}:{}: {words:?}", file.strip_prefix(root).unwrap().display(), index + 1)));
            previous = line;
        }
    }
    assert!(seen > 5000, "the test has lost sight of the comments: {seen}");
    assert!(wrong.is_empty(), "these have to be read twice:\n{}", wrong.join("\n"));
}

#[test]
fn words_on_two_lines_are_noticed() {
    assert!(has_words(&with_the_end_of("/// A list of snapshots, of", "/// which the first counts."), "of which"));
    assert!(!has_words("proof which", "of which") && has_words("Of which?", "of which"));
}

/// Tables, links and blocks may be longer, but not in README.
#[test]
fn lines_fit_a_terminal() {
    let mut wrong = Vec::new();
    for page in pages() {
        let is_readme = page.name == "README.md";
        if is_readme {
            let lines = page.text.lines().count();
            assert!(lines <= README_LINES_MAX, "README.md has {lines} lines");
        }
        for (number, part, line) in page.lines() {
            let may_be_long =
                !is_readme && (part != Part::Prose || line.starts_with('|') || line.contains("](") || line.starts_with("<!--"));
            let length = line.chars().count();
            if length > LINE_MAX && !may_be_long {
                wrong.push(format!("{}:{number}: {length} characters", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
