//! Restores a single table of a dump beside the existing one.
//!
//! The new table gets the columns, CHECK constraints and rows of the dump, and no indexes, keys, triggers or rights: it
//! is there to be looked at and copied from. Everything is one transaction, so a failure leaves nothing. Rows are
//! compared twice with their recorded sum: when they are read from the dump, and when they are read back from the
//! table. If the table's definition can run code of an ordinary role, a temporary role creates and loads it (`logins`).

use std::io::Write;

use super::admin::Admin;
use super::dump::{At, Dump};
use super::logins::{self, Login};
use super::sql::{self, Kind};
use super::{NAME_BYTES_MAX, making, preflight, standard_strings, suffixed};
use crate::engine::postgres::archive::{self, Archive, Entry, RowSum, directory};
use crate::engine::postgres::client::Client;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::tables::Evidence;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// The settings under which pg_dump writes rows, besides those of every session of ours. With them rows are read as
/// they were meant, and read back the same.
const SETTINGS: &str = "SET extra_float_digits = 3; SET check_function_bodies = false; SET row_security = off; SET client_min_messages = warning; \
                        SELECT pg_catalog.set_config('search_path', '', false)";
/// The words of a statement that creates a table.
const CREATE: &str = "CREATE";
const TABLE: &str = "TABLE";

/// Which table is restored, and where.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// The database that gets the table. It may be another one than the dumped one.
    pub conninfo: Conninfo,
    /// `schema.name`, or `name` if only one schema has a table of this name. Each may be in double quotes as in SQL.
    pub table: String,
    /// The new table's name, in the same schema; `None`: `NAME_restored_<timestamp>`.
    pub name: Option<String>,
    /// The time, for that name.
    pub timestamp: String,
}

/// A table that was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoredTable {
    /// Schema and name of the new table.
    #[serde(rename = "table")]
    pub name: String,
    /// Server and database, as messages show them.
    #[serde(rename = "server")]
    pub label: String,
    /// Its rows.
    pub rows: u64,
    /// Bytes of the dump that were read: its table of contents and the table's data.
    pub read_bytes: u64,
}

/// Restores one table beside the existing one: columns with their types, defaults and generated columns of its
/// definition, CHECK constraints, and rows. The rows are compared with the dump by their sum. Indexes, keys, triggers,
/// rights and everything that other statements add are left out. All of it is one transaction. Only the table of
/// contents and this table's data are read from the dump.
///
/// # Errors
/// [`Error::NoSuch`] if the dump has no such table; [`Error::InvalidArgument`] if it has no rows of its own;
/// [`Error::Destination`] if the database refuses it. In each case nothing was changed.
pub fn restore_table(dump: &Dump, options: &TableOptions, monitor: &dyn Monitor) -> Result<RestoredTable> {
    let readings = readings(&options.table);
    let named = |name: &str| readings.iter().any(|(_, table)| table == name);
    let wanted =
        |kind: &str, name: &str| matches!(kind, "ENCODING" | "STDSTRINGS") || (matches!(kind, "TABLE" | "TABLE DATA") && named(name));
    let head = dump.head(&wanted)?;
    let data = find(&head, &options.table, &readings)?;
    let (definition, copy) = statements(&head, data)?;
    let table = options.name.clone().unwrap_or_else(|| suffixed(&data.name, "_restored_", &options.timestamp));
    if table.is_empty() || table.len() > NAME_BYTES_MAX {
        return Err(Error::InvalidArgument(format!(
            "{table:?} cannot be the name of a table: it is empty or longer than {NAME_BYTES_MAX} bytes"
        )));
    }
    let schema = data.schema.clone().unwrap_or_default();
    let new = format!("{}.{}", sql::quote(&schema), sql::quote(&table));
    let evidence = evidence(dump, &head, data)?;
    let mut admin = Admin::of(Connection::open(&options.conninfo)?)?;
    preflight::trust(dump, &mut admin.connection)?.iter().for_each(|warning| monitor.warn(warning));
    let label = admin.connection.conninfo.label();
    let work = Work { dump, head: &head, data, evidence, monitor, label: &label };
    let create = renamed(definition, &new).ok_or_else(|| strange(data))?;
    let columns = copy_columns(copy);
    let encoding = encoding(&head);
    let load = format!("COPY {new} {columns} FROM STDIN WITH (ENCODING {})", sql::literal(&encoding));
    let unload = format!("COPY {new} {columns} TO STDOUT WITH (ENCODING {})", sql::literal(&encoding));
    match logins::for_table(&mut admin, &head, data, monitor)? {
        None => work.run(&mut admin.connection.client, &create, &load, &unload)?,
        Some(login) => {
            let made = work.run_as(&mut admin, &login, [&create, &load, &unload]);
            finish(&mut admin, &login, &new, made)?;
        }
    }
    Ok(RestoredTable { name: format!("{schema}.{table}"), label, rows: evidence.rows, read_bytes: evidence.len + head.len })
}

/// Takes over the table that the temporary role has created, and drops that role. Everything else that it owns, created
/// by code in the table's definition, is dropped with it.
fn finish(admin: &mut Admin, login: &Login, new: &str, made: Result<()>) -> Result<()> {
    let (role, refreshed) = (login.quoted(), admin.refresh());
    let take = if made.is_ok() { format!("ALTER TABLE {new} OWNER TO CURRENT_USER; ") } else { String::new() };
    let drop = |take: &str| format!("BEGIN; {take}DROP OWNED BY {role} CASCADE; DROP ROLE {role}; COMMIT");
    let done = refreshed.and_then(|()| admin.run("", "the role that made the table cannot be dropped", &drop(&take)));
    let Err(why) = done else { return made };
    // If the table cannot be taken over, it is dropped with the role: nothing of a failed restore stays.
    let is_gone = admin.run("", "", "ROLLBACK").and_then(|()| admin.run("", "", &drop(""))).is_ok();
    let left = if is_gone { String::new() } else { format!("; drop it by hand: {}", drop("")) };
    match made {
        Ok(()) => Err(making::add(why, &left)),
        Err(error) if is_gone => Err(error),
        Err(error) => Err(making::add(error, &format!("; {why}{left}"))),
    }
}

fn strange(entry: &Entry) -> Error {
    Error::InvalidArgument(format!(
        "{} cannot be restored alone: its statements in the dump are too long, or are not those that pg_dump writes; restore the whole dump",
        entry.full_name()
    ))
}

/// A schema, if one is named, and a table.
type Reading = (Option<String>, String);

/// All meanings of a text: one or two names as in SQL, or names without quotes, in which any dot may be a part of a
/// name.
fn readings(text: &str) -> Vec<Reading> {
    let mut readings = Vec::new();
    let tokens = sql::tokens(text);
    match tokens.as_slice() {
        [table] if table.kind == Kind::Quoted => readings.extend(table.name().map(|table| (None, table))),
        [schema, dot, table] if dot.text == "." && [schema, table].iter().any(|part| part.kind == Kind::Quoted) => {
            readings.extend(table.name().map(|table| (schema.name(), table)));
        }
        _ => {}
    }
    readings.push((None, text.to_owned()));
    let dots = text.match_indices('.').filter_map(|(at, _)| Some((text.get(..at)?, text.get(at + 1..)?)));
    readings.extend(dots.map(|(schema, table)| (Some(schema.to_owned()), table.to_owned())));
    readings
}

/// The entry with the data of the table. A reading that names the schema comes before one that does not.
fn find<'h>(head: &'h Archive, table: &str, readings: &[Reading]) -> Result<&'h Entry> {
    let fits = |entry: &Entry, with_schema: bool| {
        readings
            .iter()
            .any(|(schema, name)| schema.is_some() == with_schema && *name == entry.name && (schema.is_none() || *schema == entry.schema))
    };
    let named = |kind: &str| -> Vec<&'h Entry> {
        let of_kind = || head.entries.iter().filter(|entry| entry.kind == kind);
        let exact: Vec<&Entry> = of_kind().filter(|entry| fits(entry, true)).collect();
        if exact.is_empty() { of_kind().filter(|entry| fits(entry, false)).collect() } else { exact }
    };
    match named("TABLE DATA").as_slice() {
        [one] => Ok(one),
        [] if !named("TABLE").is_empty() => {
            let text = format!(
                "{table} has no rows of its own in the dump: it is partitioned (name one of its partitions), or was dumped without data"
            );
            Err(Error::InvalidArgument(text))
        }
        [] => Err(Error::NoSuch { detail: format!("the dump has no table {table}") }),
        several => {
            let quoted =
                |entry: &&Entry| format!("{}.{}", sql::quote(entry.schema.as_deref().unwrap_or_default()), sql::quote(&entry.name));
            let names: Vec<String> = several.iter().map(quoted).collect();
            Err(Error::InvalidArgument(format!("several tables are called {table}: choose one of {}", names.join(", "))))
        }
    }
}

/// The statements that create the table and load it.
fn statements<'h>(head: &'h Archive, data: &'h Entry) -> Result<(&'h str, &'h str)> {
    let is_its = |entry: &&Entry| entry.kind == "TABLE" && entry.schema == data.schema && entry.name == data.name;
    let definition = head.entries.iter().find(is_its).and_then(|entry| entry.definition.as_deref());
    Ok((definition.ok_or_else(|| strange(data))?, data.copy_statement.as_deref().ok_or_else(|| strange(data))?))
}

/// The evidence of the table's rows.
fn evidence<'d>(dump: &'d Dump, head: &Archive, data: &Entry) -> Result<&'d Evidence> {
    let name = data.full_name();
    // Full names have no quotes, so two tables can share one: table `c` of schema `a.b`, and table `b.c` of schema `a`.
    // Evidence is in the order of the table of contents, so the number of equal names before this one tells which
    // evidence belongs to it.
    let alike = head.entries.iter().filter(|entry| entry.has_data && entry.kind == data.kind && entry.full_name() == name);
    let before = alike.take_while(|entry| entry.dump_id != data.dump_id).count();
    let found = dump.evidence.blocks.iter().filter(|block| block.kind == data.kind && block.name == name).nth(before);
    let found = found.filter(|block| data.file.is_some() || block.offset >= head.data_offset);
    found.ok_or_else(|| Error::corrupt(&dump.name, format!("the data of {name} was not found in it")))
}

/// The dump's encoding: the name in `SET client_encoding = 'UTF8';`.
fn encoding(head: &Archive) -> String {
    let text = head.entries.iter().find(|entry| entry.kind == "ENCODING").and_then(|entry| entry.definition.as_deref());
    text.and_then(|text| text.split('\'').nth(1)).unwrap_or("UTF8").to_owned()
}

/// The statement that creates a table, with another name. Statements that end its inheritance follow: else its rows
/// would show up in the parent tables. Inherited columns stay. Statements after the first in the dump's definition are
/// left out, as they name the existing table (storage of columns, FORCE ROW LEVEL SECURITY).
fn renamed(statement: &str, name: &str) -> Option<String> {
    let mut tokens = sql::tokens(statement).into_iter().take_while(|token| token.text != ";").peekable();
    if tokens.peek()?.text != CREATE {
        return None;
    }
    let mut out = String::new();
    for token in tokens.by_ref() {
        out.push_str(token.text);
        if token.kind == Kind::Word && token.text == TABLE {
            break;
        }
    }
    // The old name, `schema.name`, is skipped. The columns come after it, or `OF` and a type.
    while tokens.next_if(|token| token.kind == Kind::Space).is_some() {}
    tokens.next()?.name()?;
    if tokens.next_if(|token| token.text == ".").is_some() {
        tokens.next()?.name()?;
    }
    out.push_str(&format!(" {name}"));
    // Copies the rest and collects the parents of `INHERITS (a, b)`. The word counts only outside of parentheses: a
    // CHECK may have it too.
    let (mut depth, mut is_inheriting, mut parents) = (0_usize, false, vec![String::new()]);
    for token in tokens {
        out.push_str(token.text);
        match token.text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            "INHERITS" if depth == 0 => is_inheriting = true,
            "," if is_inheriting => parents.push(String::new()),
            text if is_inheriting => parents.last_mut()?.push_str(text),
            _ => {}
        }
        is_inheriting &= depth > 0 || token.text != ")";
    }
    for parent in parents.iter().map(|parent| parent.trim()).filter(|parent| !parent.is_empty()) {
        out.push_str(&format!("; ALTER TABLE {name} NO INHERIT {parent}"));
    }
    Some(out)
}

/// The columns in `COPY schema.name (a, b) FROM stdin;`, with their parentheses; empty for a table without columns.
fn copy_columns(statement: &str) -> String {
    let tokens = sql::tokens(statement);
    let start = tokens.iter().position(|token| token.text == "(");
    let end = tokens.iter().rposition(|token| token.text == ")");
    let list = start.zip(end).and_then(|(start, end)| tokens.get(start..=end));
    list.map(|list| list.iter().map(|token| token.text).collect()).unwrap_or_default()
}

/// The table that is restored, and where its rows are.
struct Work<'a> {
    dump: &'a Dump,
    head: &'a Archive,
    data: &'a Entry,
    evidence: &'a Evidence,
    monitor: &'a dyn Monitor,
    label: &'a str,
}

impl Work<'_> {
    /// Like `run`, as a role that has the rights of the table's owner. It also gets the right to create the table in
    /// its schema.
    fn run_as(&self, admin: &mut Admin, login: &Login, [create, load, unload]: [&str; 3]) -> Result<()> {
        // The definition may use types and functions of other schemas.
        let schemas = self
            .head
            .entries
            .iter()
            .filter(|entry| self.data.schema.is_some() && self.is_used(entry))
            .filter_map(|entry| entry.schema.as_ref());
        let schemas: std::collections::BTreeSet<&String> = schemas.chain(&self.data.schema).collect();
        let role = login.quoted();
        let mut grants: String =
            schemas.into_iter().map(|schema| format!("GRANT USAGE ON SCHEMA {} TO {role}; ", sql::quote(schema))).collect();
        grants.extend(self.data.schema.iter().map(|schema| format!("GRANT CREATE ON SCHEMA {} TO {role}; ", sql::quote(schema))));
        admin.run("", "the table cannot be made, and nothing was changed", &grants)?;
        let mut connection = Connection::open(&login.conninfo(&admin.connection.conninfo))?;
        let made = self.run(&mut connection.client, create, load, unload);
        made.map_err(|error| making::add(error, &format!("; this was tried with no more rights than those of {}", login.told())))
    }

    /// Whether the table's definition uses the entry.
    fn is_used(&self, entry: &Entry) -> bool {
        let tables = self.head.entries.iter().filter(|table| table.kind == "TABLE" && self.data.dependencies.contains(&table.dump_id));
        tables.into_iter().any(|table| table.dependencies.contains(&entry.dump_id))
    }

    /// Creates the table, loads its rows, compares them and commits.
    fn run(&self, client: &mut Client, create: &str, load: &str, unload: &str) -> Result<()> {
        let failed =
            |what: &str, e: &postgres::Error| Error::destination(self.label, format!("{what}, and nothing was changed: {}", explain(e)));
        client.batch_execute(SETTINGS).map_err(|e| failed("the session cannot be set up", &e))?;
        // After any failure the caller ends the session, and the server rolls the transaction back.
        client.batch_execute("BEGIN").map_err(|e| failed("a transaction cannot be begun", &e))?;
        let text = format!("{}; {create}", standard_strings(self.head));
        client.batch_execute(&text).map_err(|e| failed("the table cannot be created", &e))?;
        self.monitor.phase("loading", Some(self.evidence.len));
        let mut writer = client.copy_in(load).map_err(|e| failed("rows cannot be loaded into the table", &e))?;
        let mut take = |piece: &[u8]| writer.write_all(piece).map_err(|e| e.to_string());
        let read = match &self.data.file {
            Some(file) => self.dump.parse_at(At::File(file), self.monitor, |input| directory::table_rows(input, self.data, &mut take)),
            None => self.dump.parse_at(At::Offset(self.evidence.offset), self.monitor, |input| {
                archive::table_rows(input, self.head, self.data, &mut take)
            }),
        };
        let (rows, sum) = match read {
            Ok(read) => read,
            Err(error) => {
                // If the server has refused a row, reading stops too, and looks like damage. The server's reason is the
                // right one then.
                let said = writer.finish().err().map(|e| failed("the server refuses the rows", &e));
                return Err(if error.is_damage() { said.unwrap_or(error) } else { error });
            }
        };
        let loaded = writer.finish().map_err(|e| failed("the server refuses the rows", &e))?;
        self.compare("the dump", rows, sum)?;
        if loaded != rows {
            return Err(Error::destination(self.label, format!("the server loaded {loaded} of {rows} rows; nothing was changed")));
        }
        // Read back, since a trigger-like surprise on the server's side (a rule, a domain) could have changed values.
        let mut reader = client.copy_out(unload).map_err(|e| failed("the rows cannot be read back", &e))?;
        let read =
            archive::sum_rows(&mut reader).map_err(|e| Error::destination(self.label, format!("the rows cannot be read back: {e}")))?;
        drop(reader);
        self.compare("the restored table", read.0, read.1)?;
        if self.monitor.cancelled() {
            return Err(Error::Cancelled);
        }
        client.batch_execute("COMMIT").map_err(|e| failed("the transaction cannot be committed", &e))
    }

    fn compare(&self, what: &str, rows: u64, sum: RowSum) -> Result<()> {
        let is_sum = sum == self.evidence.sum || (!self.dump.sums_hold && what != "the dump");
        match rows == self.evidence.rows && is_sum {
            true => Ok(()),
            false => Err(Error::destination(
                self.label,
                format!("{what} does not have the {} rows that were recorded when it was dumped; nothing was changed", self.evidence.rows),
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_named_as_in_sql_or_as_it_is() {
        let read = |text: &str| -> Vec<String> {
            readings(text).into_iter().map(|(schema, table)| format!("{}|{table}", schema.unwrap_or_default())).collect()
        };
        assert_eq!(read("t"), ["|t"]);
        assert_eq!(read("s.t"), ["|s.t", "s|t"]);
        assert_eq!(read("a.b.c"), ["|a.b.c", "a|b.c", "a.b|c"]);
        assert_eq!(read("\"a.b\".\"c\"\"d\"")[0], "a.b|c\"d");
        assert_eq!(read("\"T\"")[0], "|T");
        assert_eq!(read("s.\"T\"")[0], "s|T");
    }

    #[test]
    fn a_table_gets_another_name_and_no_rows_for_its_parents() {
        let table = |name: &str| {
            format!("CREATE UNLOGGED TABLE {name} (\n    x text DEFAULT ')'::text,\n    CONSTRAINT \"TABLE\" CHECK ((x > 'INHERITS'))\n)\n")
        };
        let rest = "INHERITS (public.p, \"q,\")\nWITH (fillfactor='70')";
        let more = "ALTER TABLE ONLY public.\"a (b\" ALTER COLUMN x SET STORAGE EXTERNAL;\n";
        let made = renamed(&format!("{}{rest};\n{more}\n", table("public.\"a (b\"")), "\"s\".\"n\"").unwrap();
        let apart = "; ALTER TABLE \"s\".\"n\" NO INHERIT public.p; ALTER TABLE \"s\".\"n\" NO INHERIT \"q,\"";
        assert_eq!(made, format!("{}{rest}{apart}", table("\"s\".\"n\"")));
        let of = "CREATE TABLE public.t OF public.\"a type\" (\n    x WITH OPTIONS DEFAULT 1\n);\n";
        assert_eq!(renamed(of, "n").unwrap(), "CREATE TABLE n OF public.\"a type\" (\n    x WITH OPTIONS DEFAULT 1\n)");
        assert_eq!(renamed("CREATE TABLE public.t OF public.ty;\n", "n").unwrap(), "CREATE TABLE n OF public.ty");
        assert_eq!(renamed("DROP TABLE x", "y"), None);
        assert_eq!(copy_columns("COPY public.\"t(\" (a, \"b)\") FROM stdin;"), "(a, \"b)\")");
        assert_eq!(copy_columns("COPY public.t  FROM stdin;"), "");
    }
}
