//! Temporary roles that load rows in place of a superuser.
//!
//! Code of ordinary roles, in CHECK constraints, domains and the like, runs with the rights of the role that loads the
//! rows. `SET ROLE` and `SET SESSION AUTHORIZATION` do not protect a superuser's session, since that code can reset
//! them. So a role is made for each owner. It logs in by itself, with a random password. Its only right is to act as
//! the owner, and its sessions do so from the start. One more role, which may act as nobody, loads those tables of
//! superusers that use others' code.
//!
//! Guarantee: the roles are dropped at the end, also after a failure, or a warning says how to drop them. It relies on
//! the server letting roles with passwords log in; if it does not, the superuser loads everything, after a warning.

use super::admin::{Admin, new_role};
use super::passes::{Needs, Pass, Plan, Roles, Who, plan};
use super::preflight::{code_text, some};
use super::{AtStake, Dump, ServerOptions, passes, preflight, sql};
use crate::engine::postgres::archive::{Archive, Entry};
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};
use crate::progress::Monitor;

/// A role that exists until [`Login::drop_role`].
pub(super) struct Login {
    who: Who,
    /// Whether its sessions act as the owner (`SET ROLE`). Else they only inherit the owner's rights, and objects that
    /// they create belong to this role.
    acts: bool,
    name: String,
    password: String,
    /// Whether it logs in over TCP although the settings name a socket.
    is_over_tcp: bool,
}

impl Login {
    /// Creates the role and tries to log in. It `acts` as `who`, or only has its rights.
    ///
    /// # Errors
    /// [`Error::Destination`] or [`Error::Source`] if it cannot be created or the server does not let it log in. Then
    /// it has been dropped.
    fn make(admin: &mut Admin, who: Who, acts: bool) -> Result<Self> {
        let (name, password) = new_role("loads")?;
        let mut login = Login { who, acts, name, password, is_over_tcp: false };
        let role = login.quoted();
        let member = match &login.who {
            Who::Owner(owner) => format!("; GRANT {} TO {role}", sql::quote(owner)),
            Who::Superuser | Who::Nobody => String::new(),
        };
        // With NOINHERIT the role has no rights of its own, so code that resets `SET ROLE` gains nothing.
        let inherits = if acts { "NOINHERIT" } else { "INHERIT" };
        let text = format!("CREATE ROLE {role} LOGIN {inherits} PASSWORD {}{member}", sql::literal(&login.password));
        admin.run("", "the role that loads rows cannot be created", &text)?;
        match login.log_in(admin) {
            Ok(()) => Ok(login),
            Err(error) => login.drop_role(admin).and(Err(error)),
        }
    }

    /// Logs in, over the socket if the settings name one, else or then over TCP. Sockets often let in only the role
    /// with the name of the system user (`peer`), while TCP to the same machine takes a password. TCP is tried only if
    /// the server itself says that it listens on this machine's address.
    fn log_in(&mut self, admin: &mut Admin) -> Result<()> {
        const LISTENS: &str = "string_to_array(replace(current_setting('listen_addresses'), ' ', ''), ',') && ARRAY['*', '0.0.0.0', '127.0.0.1', 'localhost']";
        let Err(error) = self.try_out(admin) else { return Ok(()) };
        let is_socket = admin.connection.conninfo.targets.first().is_some_and(|target| target.is_socket());
        if matches!(error, Error::Cancelled) || !is_socket || !admin.is(LISTENS, &[])? {
            return Err(error);
        }
        self.is_over_tcp = true;
        match self.try_out(admin) {
            Err(Error::Cancelled) => Err(Error::Cancelled),
            // The first failure is about the way in that the user chose.
            tried => tried.map_err(|_| error),
        }
    }

    /// Its name, in quotes.
    pub(super) fn quoted(&self) -> String {
        sql::quote(&self.name)
    }

    /// The same server and database, for sessions that log in as this role.
    pub(super) fn conninfo(&self, conninfo: &Conninfo) -> Conninfo {
        let own = conninfo.with_role(&self.name, &self.password).without_options();
        let own = if self.is_over_tcp { own.over_tcp() } else { own };
        match &self.who {
            Who::Owner(owner) if self.acts => own.acting_as(owner),
            _ => own,
        }
    }

    /// Makes sure that its sessions are of this role, act as the owner, and are on this server. Another server could
    /// listen on the TCP port.
    fn try_out(&self, admin: &mut Admin) -> Result<()> {
        const SAME: &str = "EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1::text::int4 AND usename = $2::text)";
        let mut connection = Connection::open(&self.conninfo(&admin.connection.conninfo))?;
        let failed = |e: postgres::Error| Error::source(connection.conninfo.label(), explain(&e));
        let row =
            connection.client.query_one("SELECT session_user::text, current_user::text, pg_backend_pid()::text", &[]).map_err(failed)?;
        let column = |index: usize| row.try_get::<_, String>(index).map_err(failed);
        let (logged_in, acting, pid) = (column(0)?, column(1)?, column(2)?);
        match logged_in == self.name && acting == self.acting() && admin.is(SAME, &[&pid, &self.name])? {
            true => Ok(()),
            false => Err(Error::source(
                connection.conninfo.label(),
                format!("a session of the new role {} turned out to be one of role {logged_in} that acts as {acting}", self.name),
            )),
        }
    }

    /// The role whose rights its sessions have.
    pub(super) fn acting(&self) -> &str {
        match &self.who {
            Who::Owner(owner) if self.acts => owner,
            _ => &self.name,
        }
    }

    /// That role, as messages name it.
    pub(super) fn told(&self) -> String {
        match &self.who {
            Who::Owner(owner) => format!("role {owner}, the owner"),
            Who::Superuser | Who::Nobody => "a temporary role".to_owned(),
        }
    }

    /// Drops the role. This works once it owns nothing and has no rights in any database.
    pub(super) fn drop_role(&self, admin: &mut Admin) -> Result<()> {
        let dropped = admin.run("", "the role that loaded rows cannot be dropped", &format!("DROP ROLE {}", self.quoted()));
        dropped.map_err(|error| super::making::add(error, &format!("; drop it by hand: DROP OWNED BY {0}; DROP ROLE {0}", self.quoted())))
    }
}

/// The passes of a restore and the roles for them.
#[derive(Default)]
pub(super) struct Logins {
    /// Empty: the role that connects restores everything in one run.
    pub(super) passes: Vec<Pass>,
    logins: Vec<Login>,
}

impl Logins {
    /// Plans the passes, creates the roles for them and tries to log in as each. Warns of code of ordinary roles that
    /// will run as a superuser anyway.
    ///
    /// # Errors
    /// [`Error::Source`] if the server does not say who is a superuser; else as reading the dump.
    pub(super) fn prepare(
        admin: &mut Admin,
        (dump, head): (&Dump, &Archive),
        options: &ServerOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let owners = preflight::owners(head);
        // A role that is not a superuser has nothing to lose by code of others, and cannot create roles.
        let Some((role, roles)) = roles(admin)? else { return Ok(Logins::default()) };
        let ordinary: Vec<String> = owners.into_iter().filter(|owner| !roles.superusers.contains(owner)).collect();
        if ordinary.is_empty() {
            return Ok(Logins::default());
        }
        let tell = |text: &dyn Fn(&str) -> String| match &options.at_stake {
            AtStake::Role => monitor.warn(&text(&format!("role {role}, a superuser"))),
            AtStake::ServerUser(who) => monitor.warn(&text(who)),
            AtStake::Nothing => {}
        };
        // Everything is to belong to the role that connects, so that role has to restore it.
        if options.no_owner {
            tell(&|whose| code_text(&ordinary, whose));
            return Ok(Logins::default());
        }
        let Plan { passes, left } = plan(&dump.head(&passes::is_wanted)?, &roles);
        if !left.is_empty() {
            tell(&|whose| left_text(&left, whose));
        }
        match Self::of(admin, passes) {
            Ok(logins) => Ok(logins),
            Err(Error::Cancelled) => Err(Error::Cancelled),
            Err(error) => {
                tell(&|whose| fallback_text(&ordinary, whose, &error));
                Ok(Logins::default())
            }
        }
    }

    fn of(admin: &mut Admin, passes: Vec<Pass>) -> Result<Self> {
        let mut logins = Logins { passes, logins: Vec::new() };
        let who: std::collections::BTreeSet<Who> =
            logins.passes.iter().map(|pass| pass.who.clone()).filter(|who| *who != Who::Superuser).collect();
        match who.into_iter().try_for_each(|who| Login::make(admin, who, true).map(|login| logins.logins.push(login))) {
            // The superuser restores everything, so one run without a list does it.
            Ok(()) if logins.logins.is_empty() => Ok(Logins::default()),
            Ok(()) => Ok(logins),
            Err(error) => {
                // Collected, so that all of them are tried even if one cannot be dropped.
                let left: Vec<Error> = logins.logins.iter().filter_map(|login| login.drop_role(admin).err()).collect();
                Err(left.into_iter().next().unwrap_or(error))
            }
        }
    }

    /// The role that restores a pass; `None` for the superuser.
    pub(super) fn of_pass(&self, pass: &Pass) -> Option<&Login> {
        self.logins.iter().find(|login| login.who == pass.who)
    }

    /// Drops what the roles own in the database and revokes their rights. Code in the dump may have created objects as
    /// them; a role that owns something cannot be dropped.
    pub(super) fn let_go(&self, conninfo: &Conninfo) -> Result<()> {
        if self.logins.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.logins.iter().map(Login::quoted).collect();
        let mut connection = Connection::open(conninfo)?;
        // As a replica, so that event triggers that the dump brought along do not fire in this superuser's session.
        let text = format!("SET session_replication_role = replica; DROP OWNED BY {} CASCADE", names.join(", "));
        let done = connection.client.batch_execute(&text);
        done.map_err(|e| {
            Error::destination(conninfo.label(), format!("objects of the roles that loaded rows cannot be dropped: {}", explain(&e)))
        })
    }

    /// Drops the roles. A warning names each that cannot be dropped.
    pub(super) fn remove(self, admin: &mut Admin, monitor: &dyn Monitor) {
        if self.logins.is_empty() {
            return;
        }
        let refreshed = admin.refresh();
        for login in &self.logins {
            let dropped = if refreshed.is_ok() {
                login.drop_role(admin)
            } else {
                Err(Error::destination(
                    admin.label(""),
                    format!("the connection was lost, so role {0} is left; drop it by hand: DROP ROLE {1}", login.name, login.quoted()),
                ))
            };
            dropped.err().iter().for_each(|error| monitor.warn(&error.to_string()));
        }
    }
}

/// A role that creates and loads a single table in place of a superuser, if that is needed. It has the owner's rights
/// but does not act as the owner, so the table belongs to it, until the caller takes the table over.
pub(super) fn for_table(admin: &mut Admin, head: &Archive, data: &Entry, monitor: &dyn Monitor) -> Result<Option<Login>> {
    let Some((role, roles)) = roles(admin)? else { return Ok(None) };
    let who = passes::who_loads(head, data, &roles);
    if who == Who::Superuser {
        return Ok(None);
    }
    match Login::make(admin, who, false) {
        Ok(login) => Ok(Some(login)),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => {
            let ordinary: Vec<String> = preflight::owners(head).into_iter().filter(|owner| !roles.superusers.contains(owner)).collect();
            monitor.warn(&fallback_text(&ordinary, &format!("role {role}, a superuser"), &error));
            Ok(None)
        }
    }
}

fn fallback_text(ordinary: &[String], whose: &str, error: &Error) -> String {
    format!("{}; a temporary role without rights should have loaded the rows, but: {error}", code_text(ordinary, whose))
}

/// The role of this session and all roles of the server; `None` if the session's role is not a superuser.
fn roles(admin: &mut Admin) -> Result<Option<(String, Roles)>> {
    let own = admin.list("SELECT rolname::text FROM pg_roles WHERE rolname = current_user AND rolsuper", &[])?;
    let Some(role) = own.into_iter().next() else { return Ok(None) };
    let mut named = |which: &str| -> Result<_> {
        Ok(admin.list(&format!("SELECT rolname::text FROM pg_roles WHERE {which}"), &[])?.into_iter().collect())
    };
    Ok(Some((role, Roles { superusers: named("rolsuper")?, ordinary: named("NOT rolsuper")? })))
}

fn left_text(left: &[String], whose: &str) -> String {
    format!(
        "these entries of the dump use code of ordinary roles, but only a superuser can restore them, so that code runs with the rights of {whose}: {}",
        some(left)
    )
}

/// Grants the rights that a pass needs and the role does not have. Returns the statements that revoke them.
pub(super) fn lend(connection: &mut Connection, login: &Login, needs: &Needs) -> Result<String> {
    const SCHEMA: &str = "to_regnamespace";
    const TABLE: &str = "to_regclass";
    let lists = [
        (&needs.schemas, "has_schema_privilege", SCHEMA, "USAGE", "ON SCHEMA"),
        (&needs.makes_in, "has_schema_privilege", SCHEMA, "CREATE", "ON SCHEMA"),
        (&needs.inserts, "has_table_privilege", TABLE, "INSERT", "ON TABLE"),
        (&needs.references, "has_table_privilege", TABLE, "REFERENCES", "ON TABLE"),
    ];
    let failed = |conninfo: &Conninfo, e: postgres::Error| {
        Error::destination(conninfo.label(), format!("role {} cannot be given the rights to load rows: {}", login.acting(), explain(&e)))
    };
    let (mut grants, mut revokes) = (String::new(), String::new());
    let role = sql::quote(login.acting());
    for (names, has, of, right, on) in lists {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        // With `keep_going` an object may be missing. The function gives null for it, so it is not in the result.
        let query = format!("SELECT name FROM unnest($1::text[]) name WHERE NOT {has}($2::name, {of}(name)::oid, $3)");
        let rows = connection.client.query(&query, &[&names, &login.acting(), &right]).map_err(|e| failed(&connection.conninfo, e))?;
        for row in rows {
            let name: String = row.try_get(0).map_err(|e| failed(&connection.conninfo, e))?;
            grants.push_str(&format!("GRANT {right} {on} {name} TO {role}; "));
            revokes.push_str(&format!("REVOKE {right} {on} {name} FROM {role}; "));
        }
    }
    connection.client.batch_execute(&grants).map_err(|e| failed(&connection.conninfo, e))?;
    Ok(revokes)
}
