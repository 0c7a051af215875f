//! Links and blocks: every link within the project leads to a page and a heading, every block says what it holds.

use std::path::Path;

use crate::page::{Page, Part, pages};

/// The anchor that a heading gets: small letters, `-` for blanks, nothing but letters, digits, `-` and `_`.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter_map(|c| if c == ' ' { Some('-') } else { (c.is_alphanumeric() || c == '-' || c == '_').then_some(c) }).collect()
}

/// Targets of `[text](target)` in a line, outside code.
fn targets(line: &str) -> Vec<&str> {
    let code = |at: usize| line[..at].matches('`').count() % 2 == 1;
    let begins = line.match_indices("](").filter(|(at, _)| !code(*at)).map(|(at, _)| at + 2);
    begins.filter_map(|at| line[at..].split_once(')')).map(|(target, _)| target).collect()
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for page in pages() {
        for (number, part, line) in page.lines() {
            for target in targets(line).into_iter().filter(|_| part == Part::Prose) {
                if target.starts_with("https://") || target.starts_with("mailto:") {
                    continue;
                }
                seen += 1;
                let (path, heading) = target.split_once('#').map_or((target, None), |(path, heading)| (path, Some(heading)));
                let file = match path {
                    "" => root.join(&page.name),
                    path => root.join(&page.name).parent().unwrap().join(path),
                };
                let is_there = file.exists()
                    && heading.is_none_or(|heading| {
                        let there = Page { name: String::new(), text: std::fs::read_to_string(&file).unwrap() };
                        there.lines().iter().any(|(_, part, line)| *part == Part::Prose && line.starts_with('#') && anchor(line) == heading)
                    });
                if !is_there {
                    wrong.push(format!("{}:{number}: {target}", page.name));
                }
            }
        }
    }
    assert!(seen > 40, "the test has lost sight of the links: {seen}");
    assert!(wrong.is_empty(), "these links lead nowhere:\n{}", wrong.join("\n"));
}

/// A reader who has an index finds every page from it.
#[test]
fn the_index_has_every_page() {
    let index = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/README.md")).unwrap();
    for page in pages() {
        if let Some(name) = page.name.strip_prefix("docs/").filter(|name| *name != "README.md") {
            assert!(index.contains(&format!("]({name})")), "docs/README.md does not name {name}");
        }
    }
}

/// A block without a language is neither run nor known not to be a command.
#[test]
fn blocks_say_what_they_hold() {
    let mut wrong = Vec::new();
    for page in pages() {
        let mut inside = false;
        for (number, part, line) in page.lines() {
            if part == Part::Fence {
                inside = !inside;
                let language = line.trim().trim_start_matches('`');
                if inside && !["sh", "text", "ini", "json", "toml", "sql", "python", "rust", "yaml"].contains(&language) {
                    wrong.push(format!("{}:{number}: a block of {language:?}", page.name));
                }
            } else if part == Part::Block("text") && (line.starts_with("icecore ") || line.starts_with("$ ")) {
                wrong.push(format!("{}:{number}: a command in a block that is not run", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
