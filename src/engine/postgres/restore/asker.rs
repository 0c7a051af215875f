//! The role that asks the user's questions (`--check-sql`) in a scratch database.
//!
//! The user's queries may call functions and views of other roles, and these run with the rights of the role that asks.
//! As a superuser they could run programs, and `SET ROLE` does not prevent that, since a function can reset it. So a
//! superuser's drill creates a role that logs in by itself, with a random password. It may read everything in this one
//! database and nothing else.

use super::admin::{Admin, new_role};
use super::sql;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};

/// A role that exists until [`Asker::remove`].
pub(super) struct Asker {
    name: String,
    password: String,
}

impl Asker {
    /// Creates the role and tries to log in. `None` if the role of `admin` is not a superuser: then that role asks
    /// itself.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be created, or the server does not let it log in.
    pub(super) fn make(admin: &mut Admin) -> Result<Option<Self>> {
        if !admin.is("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[])? {
            return Ok(None);
        }
        let (name, password) = new_role("asks")?;
        let asker = Asker { name, password };
        // BYPASSRLS: the questions are about all rows. lo_compat_privileges: each large object has rights of its own,
        // and there is no grant for all of them.
        let role = sql::quote(&asker.name);
        let text = format!(
            "CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD {}; ALTER ROLE {role} SET lo_compat_privileges = on",
            sql::literal(&asker.password)
        );
        admin.run("", "the role that runs --check-sql cannot be created", &text)?;
        match Connection::open(&asker.conninfo(&admin.connection.conninfo)) {
            Ok(_) => Ok(Some(asker)),
            Err(error) => {
                asker.remove(admin)?;
                let advice = "name a role in --dsn that is not a superuser, or drill without --dsn, on a server of its own";
                let text = format!("--check-sql runs as a temporary role without rights, which cannot log in: {error}; {advice}");
                Err(Error::destination(admin.label(""), text))
            }
        }
    }

    /// The same server and database, for this role.
    pub(super) fn conninfo(&self, conninfo: &Conninfo) -> Conninfo {
        conninfo.with_role(&self.name, &self.password)
    }

    /// Lets it read the tables, views and sequences of a database.
    pub(super) fn let_read(&self, conninfo: &Conninfo) -> Result<()> {
        let failed = |e: postgres::Error| {
            Error::destination(conninfo.label(), format!("the role that runs --check-sql cannot be let read: {}", explain(&e)))
        };
        let mut connection = Connection::open(conninfo)?;
        let client = &mut connection.client;
        // As a replica, so that event triggers that the dump brought along do not fire in this superuser's session.
        client.batch_execute("SET session_replication_role = replica").map_err(failed)?;
        let list = "SELECT nspname::text FROM pg_namespace WHERE NOT starts_with(nspname::text, 'pg_') AND nspname <> 'information_schema'";
        let role = sql::quote(&self.name);
        for row in client.query(list, &[]).map_err(failed)? {
            let schema: String = row.try_get(0).map_err(failed)?;
            let schema = sql::quote(&schema);
            let text = ["TABLES", "SEQUENCES"].map(|kind| format!("GRANT SELECT ON ALL {kind} IN SCHEMA {schema} TO {role};")).concat();
            client.batch_execute(&format!("GRANT USAGE ON SCHEMA {schema} TO {role}; {text}")).map_err(failed)?;
        }
        Ok(())
    }

    /// Drops the role. The scratch database must be gone, as the role has rights in it.
    pub(super) fn remove(self, admin: &mut Admin) -> Result<()> {
        admin.run("", "the role that ran --check-sql cannot be dropped", &format!("DROP ROLE {}", sql::quote(&self.name)))
    }
}
