//! One table out of a dump, beside the one that is there.

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

/// Settings under which pg_dump writes rows, besides those that every session has, so that they are read as they were meant, and read back the same.
const SETTINGS: &str = "SET extra_float_digits = 3; SET check_function_bodies = false; SET row_security = off; SET client_min_messages = warning; \
                        SELECT pg_catalog.set_config('search_path', '', false)";
/// The words of a statement that makes a table.
const CREATE: &str = "CREATE";
const TABLE: &str = "TABLE";

/// Which table, and where it goes.
#[derive(Debug, Clone)]
pub struct TableOptions {
    /// The database that it goes into, which need not be the dumped one.
    pub conninfo: Conninfo,
    /// `schema.name`, or `name` for one that is in no other schema: as they are, or each in double quotes as in SQL.
    pub table: String,
    /// The new table's name, in the same schema; `None`: `NAME_restored_<timestamp>`.
    pub name: Option<String>,
    /// A word for that name: the time.
    pub timestamp: String,
}

/// A table that was restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RestoredTable {
    /// Schema and name of the new table.
    #[serde(rename = "table")]
    pub name: String,
    /// The database, for people.
    #[serde(rename = "server")]
    pub label: String,
    /// Its rows.
    pub rows: u64,
    /// Bytes of the dump that were read for it, with its table of contents.
    pub read_bytes: u64,
}

/// Restores one table beside what is there: its columns with their types, defaults that stand in its definition, generated columns, its checks, and its rows, which are
/// compared with the dump by their sum. Indexes, keys, triggers, rights, and what other statements add, stay out: the table is to
/// be looked at and copied from. All of it is one transaction. Of the dump the table of contents and this table's data are read.
///
/// # Errors
/// [`Error::NotFound`] if the dump has no such table; [`Error::InvalidArgument`] if it has no rows of its own; [`Error::Destination`] if the database does not take it;
/// in each case nothing was changed.
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
        return Err(Error::InvalidArgument(format!("{table:?} is no name that a table can have")));
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

/// Takes over the table that a role has made, and drops that role with whatever code has made in its name.
fn finish(admin: &mut Admin, login: &Login, new: &str, made: Result<()>) -> Result<()> {
    let (role, refreshed) = (login.quoted(), admin.refresh());
    let take = if made.is_ok() { format!("ALTER TABLE {new} OWNER TO CURRENT_USER; ") } else { String::new() };
    let drop = |take: &str| format!("BEGIN; {take}DROP OWNED BY {role} CASCADE; DROP ROLE {role}; COMMIT");
    let done = refreshed.and_then(|()| admin.run("", "the role that made the table cannot be dropped", &drop(&take)));
    let Err(why) = done else { return made };
    // Of what cannot be taken over nothing is to be left either.
    let is_gone = admin.run("", "", "ROLLBACK").and_then(|()| admin.run("", "", &drop(""))).is_ok();
    let left = if is_gone { String::new() } else { format!("; it has to be dropped by hand: {}", drop("")) };
    match made {
        Ok(()) => Err(making::add(why, &left)),
        Err(error) if is_gone => Err(error),
        Err(error) => Err(making::add(error, &format!("; {why}{left}"))),
    }
}

fn strange(entry: &Entry) -> Error {
    Error::InvalidArgument(format!("the statements of {} in the dump are not those of pg_dump, or too long", entry.full_name()))
}

/// A schema, if one is named, and a table.
type Reading = (Option<String>, String);

/// What a text may mean: one or two names as in SQL; or names as they are, in which a dot may be a part of either.
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
            let text = format!("{table} has no rows of its own: it is partitioned, or was dumped without data; name one of its partitions");
            Err(Error::InvalidArgument(text))
        }
        [] => Err(Error::NoSuch { detail: format!("the dump has no table {table}") }),
        several => {
            let quoted =
                |entry: &&Entry| format!("{}.{}", sql::quote(entry.schema.as_deref().unwrap_or_default()), sql::quote(&entry.name));
            let names: Vec<String> = several.iter().map(quoted).collect();
            Err(Error::InvalidArgument(format!("{table} is not the only one of this name: say which of {}", names.join(", "))))
        }
    }
}

/// What makes the table, and what loads it.
fn statements<'h>(head: &'h Archive, data: &'h Entry) -> Result<(&'h str, &'h str)> {
    let is_its = |entry: &&Entry| entry.kind == "TABLE" && entry.schema == data.schema && entry.name == data.name;
    let definition = head.entries.iter().find(is_its).and_then(|entry| entry.definition.as_deref());
    Ok((definition.ok_or_else(|| strange(data))?, data.copy_statement.as_deref().ok_or_else(|| strange(data))?))
}

/// Two tables may have the same name for people (`a.b` in `c`, `b.c` in `a`); evidence is in the order of the table of contents.
fn evidence<'d>(dump: &'d Dump, head: &Archive, data: &Entry) -> Result<&'d Evidence> {
    let name = data.full_name();
    let alike = head.entries.iter().filter(|entry| entry.has_data && entry.kind == data.kind && entry.full_name() == name);
    let before = alike.take_while(|entry| entry.dump_id != data.dump_id).count();
    let found = dump.evidence.blocks.iter().filter(|block| block.kind == data.kind && block.name == name).nth(before);
    let found = found.filter(|block| data.file.is_some() || block.offset >= head.data_offset);
    found.ok_or_else(|| Error::corrupt(&dump.name, format!("it is not known where the data of {name} is")))
}

/// The name in `SET client_encoding = 'UTF8';`.
fn encoding(head: &Archive) -> String {
    let text = head.entries.iter().find(|entry| entry.kind == "ENCODING").and_then(|entry| entry.definition.as_deref());
    text.and_then(|text| text.split('\'').nth(1)).unwrap_or("UTF8").to_owned()
}

/// A statement that makes a table, for another name; and those that end what it inherits, as its rows would show up in its parents. Columns that it
/// has from them stay. What follows it in the dump is left out: it names the table that is there (storage of columns, FORCE ROW LEVEL SECURITY).
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
    // `schema.name`; after it come the columns, or `OF` and a type.
    while tokens.next_if(|token| token.kind == Kind::Space).is_some() {}
    tokens.next()?.name()?;
    if tokens.next_if(|token| token.text == ".").is_some() {
        tokens.next()?.name()?;
    }
    out.push_str(&format!(" {name}"));
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

/// The columns in `COPY schema.name (a, b) FROM stdin;`, with their parentheses; nothing for a table that has none.
fn copy_columns(statement: &str) -> String {
    let tokens = sql::tokens(statement);
    let start = tokens.iter().position(|token| token.text == "(");
    let end = tokens.iter().rposition(|token| token.text == ")");
    let list = start.zip(end).and_then(|(start, end)| tokens.get(start..=end));
    list.map(|list| list.iter().map(|token| token.text).collect()).unwrap_or_default()
}

struct Work<'a> {
    dump: &'a Dump,
    head: &'a Archive,
    data: &'a Entry,
    evidence: &'a Evidence,
    monitor: &'a dyn Monitor,
    label: &'a str,
}

impl Work<'_> {
    /// The same as a role that has the rights of the table's owner, and may make it in its schema.
    fn run_as(&self, admin: &mut Admin, login: &Login, [create, load, unload]: [&str; 3]) -> Result<()> {
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
        made.map_err(|error| making::add(error, &format!("; it had no more rights than those of {}", login.told())))
    }

    /// Whether the table's definition names it.
    fn is_used(&self, entry: &Entry) -> bool {
        let tables = self.head.entries.iter().filter(|table| table.kind == "TABLE" && self.data.dependencies.contains(&table.dump_id));
        tables.into_iter().any(|table| table.dependencies.contains(&entry.dump_id))
    }

    fn run(&self, client: &mut Client, create: &str, load: &str, unload: &str) -> Result<()> {
        let failed =
            |what: &str, e: &postgres::Error| Error::destination(self.label, format!("{what}, and nothing was changed: {}", explain(e)));
        client.batch_execute(SETTINGS).map_err(|e| failed("the session cannot be set up", &e))?;
        // Whatever fails ends the session, and the transaction with it.
        client.batch_execute("BEGIN").map_err(|e| failed("no transaction can be begun", &e))?;
        let text = format!("{}; {create}", standard_strings(self.head));
        client.batch_execute(&text).map_err(|e| failed("the table cannot be made", &e))?;
        self.monitor.phase("loading", Some(self.evidence.len));
        let mut writer = client.copy_in(load).map_err(|e| failed("the table takes no rows", &e))?;
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
                // What the server has to say about rows that it does not take is worth more.
                let said = writer.finish().err().map(|e| failed("the table does not take its rows", &e));
                return Err(if error.is_damage() { said.unwrap_or(error) } else { error });
            }
        };
        let loaded = writer.finish().map_err(|e| failed("the table does not take its rows", &e))?;
        self.compare("the dump", rows, sum)?;
        if loaded != rows {
            return Err(Error::destination(self.label, format!("{loaded} rows were taken of {rows}; nothing was changed")));
        }
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
            false => Err(Error::destination(self.label, format!("{what} does not have the rows that were recorded; nothing was changed"))),
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
