//! The structure of the sources, as a test: layers point down, unsafe code stays in its places, files and functions stay small, every
//! test file is part of a test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, missing_docs)]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers of src/lib.rs, bottom first; a module may use those of its own layer and below. What is in `store` is named by its own modules.
const LAYERS: &[&[&str]] = &[
    &["error", "fs", "id", "progress"],
    &["recorded"],
    &["store::format"],
    &["store::crypto", "store::chunker", "store::codec"],
    &["store::backend"],
    &["store::repo"],
    &["engine"],
    &["ops"],
    &["api"],
    &["cli", "main"],
];
/// Uses that the layers allow but the design does not: an engine never sees the store, and a backend not what is in objects.
const APART: &[(&str, &str)] = &[("engine", "store::"), ("store::backend", "store::format"), ("store::backend", "store::crypto")];
/// Files with unsafe code, each small and explained.
const UNSAFE: &[&str] = &[
    "src/cli/signals.rs",
    "src/engine/sqlite/check/mod.rs",
    "src/engine/sqlite/cut.rs",
    "src/engine/sqlite/engine.rs",
    "src/engine/sqlite/held.rs",
    "src/store/codec/zstd_contexts.rs",
    "src/store/crypto/locked.rs",
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

/// The layer module of a file below src: its folder, in `store` that and the next one.
fn module_of(path: &str) -> String {
    let mut parts = path.trim_start_matches("src/").split(['/', '.']);
    match (parts.next().unwrap(), parts.next()) {
        ("store", Some(part)) if part != "mod" => format!("store::{part}"),
        (module, _) => module.to_string(),
    }
}

/// The modules that a line names: `crate::ops::x`, `crate::store::repo::x` and `crate::{ops::x, id}`.
fn modules_named(line: &str) -> Vec<String> {
    let word = |text: &str| {
        let text = text.trim();
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let first: String = text.chars().take_while(|c| is_part(*c)).collect();
        match text.strip_prefix("store::") {
            Some(rest) => format!("store::{}", rest.chars().take_while(|c| is_part(*c)).collect::<String>()),
            None => first,
        }
    };
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
        let module = module_of(&path);
        let Some(layer) = layer_of(&module) else {
            assert!(["lib", "store"].contains(&module.as_str()), "{path} is in no layer");
            continue;
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for named in modules_named(line) {
                let Some(other) = layer_of(&named) else {
                    // A whole layer under another name would be lost to sight.
                    assert!(!named.starts_with("store"), "{path}:{}: {named} is in no layer", number + 1);
                    continue;
                };
                seen += 1;
                if other > layer || APART.iter().any(|(one, apart)| module == *one && named.starts_with(apart)) {
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
        let [.., folder, file] = parts.as_slice() else { continue };
        // The file of a folder's module is named in the folder above, by the folder's name.
        let (folder, stem) = match *file {
            "mod.rs" => (parts[parts.len() - 3], *folder),
            _ => (*folder, file.trim_end_matches(".rs")),
        };
        let is_beside = |other: &str| other.rsplit('/').nth(1) == Some(folder);
        let is_named = |(other, text): &(String, String)| {
            is_beside(other) && text.contains(&format!("mod {stem};")) || text.contains(&format!("{folder}/{file}"))
        };
        let is_root = stem == "main" || parts.len() == 2;
        if !is_root && !all.iter().any(|named| named.0 != *path && is_named(named)) {
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

#[test]
fn a_module_with_others_below_it_is_a_mod_file() {
    let both: Vec<String> =
        sources("src").into_iter().map(|(path, _)| path).filter(|path| Path::new(path).with_extension("").is_dir()).collect();
    assert!(both.is_empty(), "{both:?}");
}

/// What is in backquotes in a document and looks like a path of this project is there.
#[test]
fn documents_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = docs.chain(["README.md", "store-format.md", "benches/RESULTS.md"].map(|name| root.join(name)));
    let (mut missing, mut seen) = (Vec::new(), 0);
    for document in documents.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&document).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            let is_path =
                ["src/", "tests/", "scripts/", "docs/", "benches/", "contrib/", "examples/"].iter().any(|dir| word.starts_with(dir));
            if is_path && !word.contains([' ', '*', '{', '<']) {
                seen += 1;
                if !root.join(word).exists() {
                    missing.push(format!("{}: {word}", document.display()));
                }
            }
        }
    }
    assert!(seen > 50, "the test has lost sight of the paths: {seen}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// A file that a comment names by a part of its path is there: `store/repo/reader.rs`.
#[test]
fn comments_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let of = |dir: &str| walkdir::WalkDir::new(root.join(dir)).into_iter().map(|entry| entry.unwrap().into_path()).collect::<Vec<_>>();
    let files: Vec<_> = ["src", "tests", "benches", "examples"]
        .iter()
        .flat_map(|dir| of(dir))
        .filter(|path| path.extension().is_some_and(|e| e == "rs"))
        .collect();
    let (mut missing, mut seen) = (Vec::new(), 0);
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for line in text.lines().filter(|line| line.trim_start().starts_with("//")) {
            let words = line
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|word| word.ends_with(".rs") && word.contains('/') && !word.contains([' ', '{', '*']));
            for word in words {
                seen += 1;
                if !files.iter().any(|other| other.ends_with(word)) {
                    missing.push(format!("{}: {word}", file.display()));
                }
            }
        }
    }
    assert!(seen > 20, "the test has lost sight of the paths: {seen}");
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
