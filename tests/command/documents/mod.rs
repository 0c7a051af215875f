//! The documents: what they say is so. Their commands run, their links lead somewhere, commands, options and figures that they name are there,
//! and their words are those of the glossary.

mod figures;
mod links;
mod names;
mod recording;
mod words;

use crate::page::{Page, pages};

/// Every command of every page, as a reader would type it. Pages that need a server are run by the tests that have one.
#[test]
fn every_command_runs() {
    let pages = pages();
    let here: Vec<&Page> = pages.iter().filter(|page| !page.needs_postgres()).collect();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let run = |page: &Page| {
            let directory = tempfile::tempdir().unwrap();
            page.run(directory.path(), |_| (), |script| script).err().map(|said| format!("{}:\n{said}", page.name))
        };
        let running: Vec<_> = here.iter().map(|page| scope.spawn(move || run(page))).collect();
        running.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

/// The test would notice a command that fails, and one that ends with another code than the page says.
#[test]
fn a_page_that_is_wrong_is_noticed() {
    let run = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        Page { name: "docs/none.md".to_owned(), text: text.to_owned() }.run(directory.path(), |_| (), |script| script)
    };
    assert_eq!(run("# A page\n\n```sh\ntrue\nicecore snapshots   # exit code 10\n```\n"), Ok(()));
    let said = run("# A page\n\n```sh\ntrue\nicecore snapshots\n```\n").unwrap_err();
    assert!(said.contains("docs/none.md:5: exit code 10: icecore snapshots"), "{said}");
    run("# A page\n\n```sh\nicecore --version   # exit code 3\n```\n").unwrap_err();
    run("# A page\n\n```sh\nicecore nosuch | cat\n```\n").unwrap_err();
    run("# A page\n\n<!-- run: false -->\n").unwrap_err();
}
