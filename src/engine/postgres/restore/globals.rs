//! Creates the roles of the dumped cluster on a throw-away server, from the output of `pg_dumpall --globals-only`.
//!
//! The text is not given to psql: it could contain psql commands that run programs. Only statements about roles are
//! run, one by one. Tablespaces are left out: they are directories of the machine that was dumped.

use super::sql::{self, Kind};
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};

/// The superuser of most clusters.
const USUAL_SUPERUSER: &str = "postgres";
/// A name that no cluster uses, for a cluster in which the usual superuser is an ordinary role.
const OTHER_SUPERUSER: &str = "icecore_drill";
/// Words of a statement that are shown in messages. A password comes later in it.
const TOLD_WORDS: usize = 4;

/// Statements about roles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Globals {
    statements: Vec<String>,
    superuser: String,
}

/// The outcome of creating them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct MadeRoles {
    /// Number of roles created. The superuser is not counted.
    pub(crate) made: u64,
    /// Roles that could not be created, and why.
    pub(crate) missing: Vec<String>,
    /// Other statements that failed, and why.
    pub(crate) refused: Vec<String>,
}

/// What a statement is about.
enum About {
    /// It creates this role.
    Making(String),
    /// It changes this role.
    Changing(String),
    /// Memberships, comments, rights, and how strings are read.
    Else,
}

impl Globals {
    /// Selects the statements about roles.
    pub(crate) fn of(text: &str) -> Self {
        let all = sql::statements(text).into_iter().map(|statement| without_commands(&statement).to_owned());
        let statements: Vec<String> = all.filter(|statement| about(statement).is_some()).collect();
        let superuser = superuser(&statements);
        Globals { statements, superuser }
    }

    /// The name for the server's first superuser: the name that it has in the dumped cluster. Memberships are granted
    /// in its name (`GRANTED BY`), which works for no other role.
    pub(crate) fn superuser(&self) -> &str {
        match self.superuser.as_str() {
            "" => USUAL_SUPERUSER,
            name => name,
        }
    }

    /// Creates the roles. The superuser exists already and is not changed.
    ///
    /// # Errors
    /// [`Error::Source`] if the connection fails.
    pub(crate) fn make(&self, conninfo: &Conninfo) -> Result<MadeRoles> {
        let mut connection = Connection::open(conninfo)?;
        let mut roles = MadeRoles::default();
        for statement in &self.statements {
            let Some(what) = about(statement) else { continue };
            if matches!(&what, About::Making(name) | About::Changing(name) if name == self.superuser()) {
                continue;
            }
            let done = connection.client.batch_execute(statement);
            match (done, what) {
                (Ok(()), About::Making(_)) => roles.made += 1,
                (Ok(()), _) => {}
                (Err(error), _) if connection.client.is_closed() => return Err(Error::source(conninfo.label(), explain(&error))),
                (Err(error), About::Making(name)) => roles.missing.push(format!("{name}: {}", explain(&error))),
                (Err(error), _) => roles.refused.push(format!("{}: {}", start(statement), explain(&error))),
            }
        }
        Ok(roles)
    }
}

/// A statement without the psql commands before it (`\restrict`). Each of them takes one line.
fn without_commands(statement: &str) -> &str {
    let mut rest = statement.trim_start();
    while rest.starts_with('\\') {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest.trim_start());
    }
    rest
}

/// What a statement is about; `None` if it is not run here.
fn about(statement: &str) -> Option<About> {
    if ["TABLESPACE", "DATABASE"].iter().any(|word| sql::has_word(statement, word)) {
        return None;
    }
    let words = sql::words(statement);
    let word = |at: usize| words.get(at).filter(|token| token.kind == Kind::Word).map(|token| token.text).unwrap_or_default();
    let name = || words.get(2).and_then(sql::Token::name);
    match (word(0), word(1)) {
        ("CREATE", "ROLE") => name().map(About::Making),
        ("ALTER", "ROLE") => name().map(About::Changing),
        ("COMMENT", "ON") if word(2) == "ROLE" => Some(About::Else),
        ("GRANT", _) | ("SET", "standard_conforming_strings") => Some(About::Else),
        _ => None,
    }
}

/// The name of the cluster's first superuser: the superuser that grants memberships, else `postgres` if it is one, else
/// the first superuser in the text.
fn superuser(statements: &[String]) -> String {
    let changed = |statement: &String| match about(statement) {
        Some(About::Changing(name)) if sql::has_word(statement, "SUPERUSER") => Some(name),
        _ => None,
    };
    // Names that begin like this belong to the server.
    let superusers: Vec<String> = statements.iter().filter_map(changed).filter(|name| !name.starts_with("pg_")).collect();
    let grantors = statements.iter().flat_map(|statement| sql::names_after(statement, &[&["GRANTED", "BY"]]));
    let first = grantors.chain([USUAL_SUPERUSER.to_owned()]).find(|name| superusers.contains(name));
    let is_made = |name: &str| statements.iter().any(|statement| matches!(about(statement), Some(About::Making(made)) if made == name));
    let other = || if is_made(USUAL_SUPERUSER) { OTHER_SUPERUSER } else { USUAL_SUPERUSER };
    first.or_else(|| superusers.first().cloned()).unwrap_or_else(|| other().to_owned())
}

/// The first words of a statement.
fn start(statement: &str) -> String {
    sql::words(statement).iter().take(TOLD_WORDS).map(|token| token.text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_statements_about_roles_are_taken() {
        let text = "--\n-- it's; a dump\n--\n\\restrict abc\n\nSET default_transaction_read_only = off;\nSET standard_conforming_strings = on;\n\
                    CREATE ROLE \"a;b\";\nALTER ROLE \"a;b\" WITH NOSUPERUSER PASSWORD 'x;y';\nCREATE ROLE admin;\nALTER ROLE admin WITH SUPERUSER;\n\
                    GRANT admin TO \"a;b\" GRANTED BY admin;\nCREATE TABLESPACE t LOCATION '/srv';\nGRANT ALL ON TABLESPACE t TO admin;\n\
                    COMMENT ON ROLE admin IS 'DATABASE';\nCOPY x TO PROGRAM 'rm';\n\\unrestrict abc\n\n";
        let globals = Globals::of(text);
        let expected = [
            "SET standard_conforming_strings = on",
            "CREATE ROLE \"a;b\"",
            "ALTER ROLE \"a;b\" WITH NOSUPERUSER PASSWORD 'x;y'",
            "CREATE ROLE admin",
            "ALTER ROLE admin WITH SUPERUSER",
            "GRANT admin TO \"a;b\" GRANTED BY admin",
            "COMMENT ON ROLE admin IS 'DATABASE'",
        ];
        assert_eq!(globals.statements, expected);
        assert_eq!(globals.superuser(), "admin");
        assert_eq!(start(expected[2]), "ALTER ROLE \"a;b\" WITH");
    }

    #[test]
    fn the_superuser_has_a_name_that_no_other_role_has() {
        let of = |text: &str| Globals::of(text).superuser().to_owned();
        assert_eq!(of(""), "postgres");
        assert_eq!(of("CREATE ROLE app; ALTER ROLE app WITH NOSUPERUSER"), "postgres");
        assert_eq!(of("CREATE ROLE postgres; ALTER ROLE postgres WITH NOSUPERUSER"), "icecore_drill");
        assert_eq!(of("ALTER ROLE a WITH SUPERUSER; ALTER ROLE postgres WITH SUPERUSER"), "postgres");
        assert_eq!(of("ALTER ROLE a WITH SUPERUSER; ALTER ROLE b WITH SUPERUSER; GRANT c TO d WITH ADMIN OPTION GRANTED BY b"), "b");
        assert_eq!(Globals::default().superuser(), "postgres");
    }
}
