//! The structure of the sources, as a test: layers point down, unsafe code stays in its places, files and functions stay small, every
//! test file is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers of src/lib.rs, bottom first; a module may use those of its own layer and below.
const LAYERS: &[&[&str]] = &[
    &["beneath", "dirlock", "error", "id", "progress"],
    &["format"],
    &["crypto", "chunker", "codec"],
    &["backend"],
    &["repo"],
    &["source"],
    &["ops"],
    &["cli", "main"],
];
/// Uses that the layers allow but the design does not: a source never sees a repository, and a backend not what is in objects.
const APART: &[(&str, &str)] =
    &[("source", "repo"), ("source", "backend"), ("source", "crypto"), ("backend", "format"), ("backend", "crypto")];
/// Files with unsafe code, each small and explained.
const UNSAFE: &[&str] = &[
    "src/codec/context.rs",
    "src/crypto/locked.rs",
    "src/ops/place/check.rs",
    "src/source/sqlite/cut.rs",
    "src/source/sqlite/engine.rs",
    "src/source/sqlite/held.rs",
];
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

fn files_below(dir: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(dir)).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_path_buf();
        if path.is_dir() {
            files_below(relative.to_str().unwrap(), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(relative);
        }
    }
}

fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    files_below(dir, &mut found);
    found.sort();
    let read = |path: &PathBuf| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    found.iter().map(|path| (path.to_str().unwrap().to_string(), read(path))).collect()
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The modules that a line names: `crate::repo::x` and `crate::{repo::x, id}`.
fn modules_named(line: &str) -> Vec<String> {
    let word = |text: &str| text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    line.match_indices("crate::")
        .flat_map(|(at, found)| {
            let rest = &line[at + found.len()..];
            match rest.strip_prefix('{') {
                Some(group) => group.split(',').map(word).collect(),
                None => vec![word(rest)],
            }
        })
        .collect()
}

#[test]
fn layers_point_down() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources("src") {
        let module = path.trim_start_matches("src/").split(['/', '.']).next().unwrap().to_string();
        let Some(layer) = layer_of(&module) else {
            assert_eq!(module, "lib", "{path} is in no layer");
            continue;
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for named in modules_named(line) {
                let Some(other) = layer_of(&named) else { continue };
                seen += 1;
                if other > layer || APART.contains(&(module.as_str(), named.as_str())) {
                    wrong.push(format!("{path}:{}: {module} uses {named}", number + 1));
                }
            }
        }
    }
    assert!(seen > 100, "the test has lost sight of the `use` lines: {seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_its_places() {
    let mut used = Vec::new();
    for (path, text) in sources("src") {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        if lines.clone().any(|line| line.contains("unsafe ") || line.contains("unsafe{")) {
            used.push(path);
        }
    }
    assert_eq!(used, UNSAFE);
}

#[test]
fn files_and_functions_stay_small() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests")).chain(sources("benches")) {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            wrong.push(format!("{path} has {} lines", lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let is_function =
                ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "unsafe extern \"C\" fn "].iter().any(|s| code.starts_with(s));
            if !is_function || !path.starts_with("src") {
                continue;
            }
            let closing = format!("{}}}", " ".repeat(indent));
            let end = lines[start..].iter().position(|line| *line == closing).unwrap_or(0);
            if end > FUNCTION_LINES_MAX {
                wrong.push(format!("{path}:{}: a function of {end} lines", start + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_test_file_belongs_to_a_test() {
    let mut wrong = Vec::new();
    let all = sources("tests");
    for (path, _) in &all {
        let parts: Vec<&str> = path.split('/').collect();
        let [_, folder, file] = parts.as_slice() else { continue };
        let stem = file.trim_end_matches(".rs");
        let named = |text: &str| text.contains(&format!("mod {stem};")) || text.contains(&format!("{folder}/{file}"));
        let is_root = stem == "main";
        if !is_root && !all.iter().any(|(other, text)| other != path && named(text)) {
            wrong.push(format!("{path} is part of no test"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_is_asserted_that_cannot_fail() {
    let mut wrong = Vec::new();
    for (path, text) in sources("tests").into_iter().chain(sources("src")) {
        let before = std::iter::once("").chain(text.lines());
        for (number, (before, line)) in before.zip(text.lines()).enumerate() {
            let is_statement = [";", "{", "}"].iter().any(|end| before.trim_end().ends_with(end));
            if is_statement && line.trim_start().starts_with("matches!(") && line.trim_end().ends_with(");") {
                wrong.push(format!("{path}:{}: a bare matches!", number + 1));
            }
            if !line.is_ascii() {
                wrong.push(format!("{path}:{}: not ASCII", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
