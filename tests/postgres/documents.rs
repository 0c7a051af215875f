//! The pages of the documents whose commands need a server: each command runs, as a reader would type it.

use std::process::Command;

use crate::page::pages;
use crate::server::Server;

/// With the address of the test's server in place of `db.example.org`, and its superuser in place of the role that the page names.
fn addressed(script: &str, server: &Server) -> String {
    let mut result = String::new();
    let mut rest = script;
    while let Some(at) = rest.find("postgresql://") {
        let address = &rest[at..];
        let end = address.find(|c: char| c.is_whitespace() || "\"'`|)".contains(c)).unwrap_or(address.len());
        let database = address[..end].rsplit('/').next().unwrap();
        result += &rest[..at];
        result += &server.dsn(if address[..end].matches('/').count() > 2 { database } else { "postgres" });
        rest = &address[end..];
    }
    result + rest
}

#[test]
fn every_command_runs() {
    // A server of its own: pages name databases and roles as they like, and one after the other they may use the same names.
    let pages = pages();
    let mut count = 0;
    for page in pages.iter().filter(|page| page.needs_postgres()) {
        let server = Server::start(15);
        let directory = tempfile::tempdir().unwrap();
        let prepare = |bash: &mut Command| {
            let programs = std::env::split_paths(bash.get_envs().find(|(name, _)| *name == "PATH").unwrap().1.unwrap()).collect::<Vec<_>>();
            let path = programs[..1].iter().chain([&server.bin]).chain(&programs[1..]);
            bash.env("PATH", std::env::join_paths(path).unwrap());
            bash.env("PGHOST", &server.dir).env("PGPORT", server.port.to_string()).env("PGUSER", "postgres");
        };
        let run = page.run(directory.path(), prepare, |script| addressed(&script, &server));
        server.control("immediate");
        assert_eq!(run, Ok(()), "{}", page.name);
        count += 1;
    }
    assert!(count > 0, "no page needs a server");
}
