//! Checks before a restore: everything that would make it fail later is found before anything is created.
//!
//! All problems are reported in one message, each with its remedy. What stops nothing becomes a warning; with
//! `keep_going`, missing roles, extensions and tablespaces are warnings too. Guarantee: nothing on the server is
//! changed. What others change between the checks and the restore is found by the restore itself.

use std::collections::BTreeSet;

use super::admin::Admin;
use super::dump::Dump;
use super::{Names, ServerOptions, sql};
use crate::engine::postgres::archive::{Archive, Entry};
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, EXCLUDE_TABLE_DATA_FACT, EXCLUDE_TABLE_FACT, Tools, lacking};
use crate::error::{Error, Result};

/// Kinds of entries whose statements name roles.
const NAMING_ROLES: [&str; 6] = ["ACL", "DEFAULT ACL", "POLICY", "USER MAPPING", "DATABASE PROPERTIES", "DATABASE"];
/// Keywords that stand in the place of a role's name.
const NO_ROLES: [&str; 4] = ["PUBLIC", "CURRENT_USER", "SESSION_USER", "CURRENT_ROLE"];
/// Most sessions or names in one message.
const TOLD_MAX: usize = 10;

/// Whether the statements of an entry are needed to restore its database.
pub(super) fn is_wanted(kind: &str, name: &str) -> bool {
    NAMING_ROLES.contains(&kind) || matches!(kind, "ENCODING" | "STDSTRINGS") || is_of_database(kind, name)
}

/// Whether an entry is about the database itself. pg_restore leaves these out unless it creates the database.
pub(super) fn is_of_database(kind: &str, name: &str) -> bool {
    matches!(kind, "DATABASE" | "DATABASE PROPERTIES")
        || (matches!(kind, "ACL" | "COMMENT" | "SECURITY LABEL") && name.starts_with("DATABASE "))
}

/// The first major version of PostgreSQL that reads this archive's format: 16 brought 1.15, and 17 brought 1.16.
pub(super) fn reader_major(head: &Archive) -> u32 {
    match head.minor_version {
        ..=14 => 13,
        15 => 16,
        _ => 17,
    }
}

/// The major version of the server that was dumped; 0 if the dump does not say.
pub(super) fn dumped_major(head: &Archive) -> u32 {
    head.server_version.split(|c: char| !c.is_ascii_digit()).next().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Programs that are new enough to read this archive and to dump this server, as the comparison does.
pub(super) fn tools(options: &ServerOptions, head: &Archive, server_version: u32) -> Result<Tools> {
    let tools = Tools::find(options.bin.as_deref(), &options.environment, server_version.max(reader_major(head) * 10_000))?;
    match tools.bin.join("pg_restore").exists() {
        true => Ok(tools),
        false => Err(Error::source(
            "pg_restore",
            format!("it is not in {}, where pg_dump is; name another directory with --pg-bin", tools.bin.display()),
        )),
    }
}

/// The checks, and what they have found.
pub(super) struct Preflight<'a> {
    pub(super) admin: &'a mut Admin,
    pub(super) options: &'a ServerOptions,
    pub(super) dump: &'a Dump,
    pub(super) head: &'a Archive,
    pub(super) names: &'a Names,
    problems: Vec<String>,
    looked: Looked,
}

/// Findings that do not stop the restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) warnings: Vec<String>,
    /// Logical replication slots of the old database.
    pub(super) slots: Vec<String>,
}

impl<'a> Preflight<'a> {
    pub(super) fn new(admin: &'a mut Admin, options: &'a ServerOptions, dump: &'a Dump, head: &'a Archive, names: &'a Names) -> Self {
        Preflight { admin, options, dump, head, names, problems: Vec::new(), looked: Looked::default() }
    }

    /// Runs all checks and returns what does not stop the restore.
    ///
    /// # Errors
    /// [`Error::Destination`] with everything that stands in the way; [`Error::Busy`] if the only problem is that the
    /// database is in use.
    pub(super) fn check(mut self) -> Result<Looked> {
        self.server()?;
        self.roles()?;
        self.extensions()?;
        self.tablespaces()?;
        self.names()?;
        self.space()?;
        self.left_out();
        let trust = trust(self.dump, &mut self.admin.connection)?;
        self.looked.warnings.extend(trust);
        let label = self.admin.label(&self.names.target);
        if !self.problems.is_empty() {
            // Sessions are in the list too, so that the user does not meet them only after all else is solved.
            let busy = self.connections()?;
            self.problems.extend(busy);
            let detail = format!("the restore cannot begin, and nothing was changed:\n  - {}", self.problems.join("\n  - "));
            return Err(Error::destination(label, detail));
        }
        match self.connections()? {
            Some(busy) => Err(Error::Busy { path: label.into(), detail: format!("nothing was changed: {busy}") }),
            None => Ok(self.looked),
        }
    }

    fn server(&mut self) -> Result<()> {
        let major = self.admin.connection.version / 10_000;
        let dumped = dumped_major(self.head);
        if dumped > major {
            self.problems.push(format!(
                "the dump is of PostgreSQL {dumped} and this server is version {major}: restore into version {dumped} or later"
            ));
        }
        if self.admin.is("pg_is_in_recovery()", &[])? {
            self.problems.push("this server is a standby, which cannot be written to: name its primary in --dsn".into());
        }
        if !self.admin.is("SELECT rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user", &[])? {
            let user = sql::quote(&self.options.conninfo.user);
            self.problems.push(format!("this role may not create databases: ALTER ROLE {user} CREATEDB, or connect as another"));
        }
        let leftovers = self.admin.list(
            "SELECT datname::text FROM pg_database WHERE starts_with(datname::text, $1::text) ORDER BY 1",
            &[&self.names.temporary_start()],
        )?;
        for left in leftovers {
            let drop = format!("DROP DATABASE {} WITH (FORCE)", sql::quote(&left));
            self.looked.warnings.push(format!(
                "database {left} belongs to a restore or drill that is still running or was killed; if it was killed, drop it: {drop}"
            ));
        }
        Ok(())
    }

    /// Records something that the server lacks: a problem, or with `keep_going` a warning.
    fn lacks(&mut self, what: String) {
        let list = if self.options.keep_going { &mut self.looked.warnings } else { &mut self.problems };
        list.push(what);
    }

    fn roles(&mut self) -> Result<()> {
        let wanted = roles(self.head, self.options);
        let missing = self.missing(&wanted, "SELECT rolname::text FROM pg_roles")?;
        if !missing.is_empty() {
            self.lacks(format!(
                "roles that the dump names are missing: {}: create them with {}, or leave owners and \
                 rights out with --no-owner --no-privileges",
                some(&missing),
                self.dump.globals()
            ));
        }
        Ok(())
    }

    fn extensions(&mut self) -> Result<()> {
        let wanted: BTreeSet<String> =
            self.head.entries.iter().filter(|entry| entry.kind == "EXTENSION").map(|entry| entry.name.clone()).collect();
        for name in self.missing(&wanted, "SELECT name::text FROM pg_available_extensions")? {
            self.lacks(format!("extension {name} is not installed on the server's machine: install its package"));
        }
        // Another version is only a warning: CREATE EXTENSION in a dump names no version, and usually the newer one
        // works.
        let recorded: Vec<(String, String)> =
            self.dump.fact("extensions").unwrap_or_default().split(", ").filter_map(split_version).collect();
        for (name, version) in recorded.into_iter().filter(|(name, _)| wanted.contains(name)) {
            let found = self.admin.list("SELECT default_version FROM pg_available_extensions WHERE name = $1::text", &[&name])?;
            if let Some(other) = found.into_iter().next().filter(|found| *found != version) {
                self.looked.warnings.push(format!(
                    "extension {name} had version {version} in the dumped database and will have version {other} in the new one"
                ));
            }
        }
        Ok(())
    }

    fn tablespaces(&mut self) -> Result<()> {
        if self.options.no_tablespaces {
            return Ok(());
        }
        let mut wanted: BTreeSet<String> = self.head.entries.iter().filter_map(|entry| entry.tablespace.clone()).collect();
        let database = self.head.entries.iter().find(|entry| entry.kind == "DATABASE").and_then(|entry| entry.definition.as_deref());
        wanted.extend(database.map(|text| sql::names_after(text, &[&["TABLESPACE", "="]])).unwrap_or_default());
        let missing = self.missing(&wanted, "SELECT spcname::text FROM pg_tablespace")?;
        if !missing.is_empty() {
            self.lacks(format!("tablespaces are missing: {}: create them, or use --no-tablespaces", some(&missing)));
        }
        Ok(())
    }

    fn names(&mut self) -> Result<()> {
        let Names { target, kept, .. } = self.names;
        if !self.admin.exists(target)? {
            return Ok(());
        }
        if !self.names.may_replace {
            self.problems.push(format!(
                "a database {target} exists already: drop or rename it, choose another name, or name it in --dsn too to replace it"
            ));
        }
        if self.admin.exists(kept)? {
            self.problems.push(format!("the name {kept} for the old database is taken: try again in a second"));
        }
        let owned = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = $1::text";
        if !self.admin.is(owned, &[target])? {
            self.problems.push(format!("this role may not rename the old database {target}: connect as its owner or a superuser"));
        }
        // The server refuses to rename a database with prepared transactions, even when all its sessions are gone.
        let prepared = self.admin.list("SELECT gid FROM pg_prepared_xacts WHERE database = $1::text", &[target])?;
        if !prepared.is_empty() {
            self.problems.push(format!(
                "{target} cannot be renamed while it has prepared transactions: COMMIT PREPARED or ROLLBACK PREPARED each: {}",
                some(&prepared)
            ));
        }
        self.replication()
    }

    /// Replication slots and subscriptions stay with the old database when it is renamed, and go on there.
    fn replication(&mut self) -> Result<()> {
        let target = self.names.target.as_str();
        let slots = "SELECT slot_name::text FROM pg_replication_slots WHERE database = $1::text ORDER BY 1";
        self.looked.slots = self.admin.list(slots, &[target])?;
        if !self.looked.slots.is_empty() {
            self.looked.warnings.push(slots_text(target, &self.looked.slots));
        }
        let subscriptions =
            "SELECT subname::text FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = $1::text)";
        let subscriptions = self.admin.list(subscriptions, &[target])?;
        if !subscriptions.is_empty() {
            self.looked.warnings.push(format!(
                "subscriptions of {target} stay with the old database and go on there; those in the dump are restored disabled: {}",
                some(&subscriptions)
            ));
        }
        Ok(())
    }

    /// Free space: in `--tmp` for a private copy of the dump, and on the server's disk. The latter is known only if the
    /// server runs on this machine and this role may ask where its data is.
    fn space(&mut self) -> Result<()> {
        let free = |path: &std::path::Path| rustix::fs::statvfs(path).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
        if self.dump.needs_room(self.options.jobs) && free(&self.options.spool_dir).is_some_and(|free| free < self.dump.len) {
            let dir = self.options.spool_dir.display();
            self.problems.push(format!("{dir} has no room for the dump of {} bytes: choose another directory with --tmp", self.dump.len));
        }
        let is_local = self.admin.connection.conninfo.targets.first().is_some_and(|target| target.is_socket());
        // Most roles may not read this setting, so a failure means only that it is not known.
        let data = if is_local { self.admin.list("SELECT current_setting('data_directory')", &[]).unwrap_or_default() } else { Vec::new() };
        let needed: u64 = self.dump.fact("database_bytes").and_then(|text| text.parse().ok()).unwrap_or(self.dump.len);
        if let Some(free) = data.first().and_then(|dir| free(std::path::Path::new(dir))).filter(|free| *free < needed) {
            self.problems.push(format!("the server's disk has {free} bytes left and the database needs about {needed}: free some space"));
        }
        Ok(())
    }

    /// Warns of what the restored database will lack because the backup was told to leave it out, or could not read it.
    fn left_out(&mut self) {
        for (fact, what) in [(EXCLUDE_TABLE_FACT, "tables"), (EXCLUDE_TABLE_DATA_FACT, "the rows of tables")] {
            let patterns = self.dump.fact(fact).map(|patterns| format!("the backup left out {what} with these patterns: {patterns}"));
            self.looked.warnings.extend(patterns);
        }
        self.looked.warnings.extend(self.dump.facts().filter_map(|(name, value)| lacking::told(name, value)));
        let is_subscribed = self.head.entries.iter().any(|entry| entry.kind == "SUBSCRIPTION");
        if is_subscribed {
            self.looked.warnings.push("subscriptions are restored disabled: enable them with ALTER SUBSCRIPTION ... ENABLE".to_owned());
        }
    }

    /// The problem that sessions are connected to the old database, if they are and must not be ended.
    fn connections(&mut self) -> Result<Option<String>> {
        if self.options.disconnect {
            return Ok(None);
        }
        let sessions: Vec<String> = self.admin.sessions(&self.names.target)?.into_iter().map(|session| session.text).collect();
        let busy = || {
            format!("sessions are connected to {}: {}: end them, or have that done with --disconnect", self.names.target, some(&sessions))
        };
        Ok((!sessions.is_empty()).then(busy))
    }

    /// The wanted names that the query does not give.
    fn missing(&mut self, wanted: &BTreeSet<String>, query: &str) -> Result<Vec<String>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let there: BTreeSet<String> = self.admin.list(query, &[])?.into_iter().collect();
        Ok(wanted.difference(&there).cloned().collect())
    }
}

/// The warning about a dump that nothing proves to be the one that was backed up: its statements run as this role.
pub(super) fn trust(dump: &Dump, connection: &mut Connection) -> Result<Option<String>> {
    let Some(why) = dump.unproven else { return Ok(None) };
    let query = "SELECT current_user::text, rolsuper OR pg_has_role('pg_execute_server_program', 'MEMBER') FROM pg_roles WHERE rolname = current_user";
    let failed = |e: postgres::Error| Error::source(connection.conninfo.label(), explain(&e));
    let row = connection.client.query_one(query, &[]);
    let (role, may_run): (String, bool) = row.and_then(|row| Ok((row.try_get(0)?, row.try_get(1)?))).map_err(failed)?;
    let programs = if may_run { " and can run programs on the server's machine" } else { "" };
    Ok(Some(format!(
        "{why}, so anyone who could write to it may have changed what is restored; its statements run with the rights of role {role}{programs}"
    )))
}

/// The owners of entries that can run code while they are restored.
pub(super) fn owners(head: &Archive) -> BTreeSet<String> {
    const KINDS: [&str; 8] = ["TABLE", "DOMAIN", "TYPE", "FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR", "MATERIALIZED VIEW"];
    let entries = head.entries.iter().filter(|entry| KINDS.contains(&entry.kind.as_str()) && !entry.owner.is_empty());
    entries.map(|entry| entry.owner.clone()).collect()
}

/// The warning that code of these roles can run with the rights of `whose`.
pub(super) fn code_text(roles: &[String], whose: &str) -> String {
    format!(
        "CHECK constraints, domains, defaults and generated columns can run code of their owners while rows are loaded, with the rights of {whose}; \
         go on only if you trust these roles, or restore as a role that is not a superuser: {}",
        some(roles)
    )
}

/// The text about slots, before a restore and after it.
pub fn slots_text(database: &str, slots: &[String]) -> String {
    format!(
        "logical replication slots of {database} stay with the old database and keep the server's log (WAL) until they are dropped; \
         their readers have to start again: {}",
        some(slots)
    )
}

/// Warns if the new database's locale has another version than the dumped one's. Indexes are built anew, so they are
/// right. But order decides more than indexes: a text may belong into another partition, or fail a CHECK that compares
/// texts.
pub(super) fn collation(admin: &mut Admin, dump: &Dump, names: &Names) -> Result<Option<String>> {
    /// The first version of the server that records it.
    const WITH_VERSION: u32 = 15_00_00;
    let Some(before) = dump.fact("collation_version").filter(|_| admin.connection.version >= WITH_VERSION) else { return Ok(None) };
    let found = admin.list("SELECT datcollversion FROM pg_database WHERE datname = $1::text", &[&names.temporary])?;
    let after = found.into_iter().next().filter(|after| after != before);
    Ok(after.map(|after| {
        format!("the new database's locale has version {after} and the dumped database's had version {before}: texts may sort differently")
    }))
}

/// The first items of a list, and how many more there are.
pub(super) fn some(items: &[String]) -> String {
    let told = items.iter().take(TOLD_MAX).cloned().collect::<Vec<_>>().join("; ");
    match items.len().saturating_sub(TOLD_MAX) {
        0 => told,
        more => format!("{told}; and {more} more"),
    }
}

fn split_version(text: &str) -> Option<(String, String)> {
    let (name, version) = text.rsplit_once(' ')?;
    Some((name.to_owned(), version.to_owned()))
}

/// The roles that a restore needs: owners, and roles in the statements of policies and rights. A statement that is too
/// long was not kept, so a role that only it names is found when pg_restore stops.
fn roles(head: &Archive, options: &ServerOptions) -> BTreeSet<String> {
    let mut roles = BTreeSet::new();
    for entry in &head.entries {
        if !options.no_owner {
            roles.insert(entry.owner.clone());
        }
        let is_left_out = options.no_privileges && matches!(entry.kind.as_str(), "ACL" | "DEFAULT ACL");
        if NAMING_ROLES.contains(&entry.kind.as_str()) && !is_left_out {
            roles.extend(named(entry));
        }
    }
    roles.retain(|role| !role.is_empty() && !NO_ROLES.iter().any(|none| role.eq_ignore_ascii_case(none)));
    roles
}

/// The roles that an entry's statements name.
fn named(entry: &Entry) -> Vec<String> {
    let Some(text) = &entry.definition else { return Vec::new() };
    match entry.kind.as_str() {
        "POLICY" => policy_roles(text),
        "USER MAPPING" => sql::names_after(text, &[&["MAPPING", "FOR"]]),
        "DATABASE PROPERTIES" => sql::names_after(text, &[&["ALTER", "ROLE"]]),
        "DATABASE" => Vec::new(),
        _ => sql::names_after(text, &[&["TO"], &["FROM"], &["AUTHORIZATION"], &["FOR", "ROLE"]]),
    }
}

/// The roles of `CREATE POLICY name ON table [AS ..] [FOR ..] [TO role, ..] [USING ..]`. The expressions after them may
/// have a `TO` of their own.
fn policy_roles(text: &str) -> Vec<String> {
    let end = text.find(" USING (").unwrap_or(text.len()).min(text.find(" WITH CHECK (").unwrap_or(text.len()));
    sql::names_after(text.get(..end).unwrap_or_default(), &[&["TO"]])
}
