//! Who asks a scratch database what the user wants to know.
//!
//! A view or a function that the user's queries name may be anybody's, and what it does has the rights of who asks. A superuser could have programs run, and `SET ROLE` takes
//! nothing away from one, as the function can take it back. So a superuser has a role made that logs in by itself, with a password that nobody knows. It may read all of this
//! one database, and nothing else.

use super::admin::{Admin, new_role};
use super::sql;
use crate::engine::postgres::messages::explain;
use crate::engine::postgres::{Connection, Conninfo};
use crate::error::{Error, Result};

/// A role that is there until [`Asker::remove`].
pub(super) struct Asker {
    name: String,
    password: String,
}

impl Asker {
    /// Makes one and has it log in. `None` if the role of `admin` is no superuser: then it may as well ask by itself.
    ///
    /// # Errors
    /// [`Error::Destination`] if it cannot be made, or the server does not let it in.
    pub(super) fn make(admin: &mut Admin) -> Result<Option<Self>> {
        if !admin.is("SELECT rolsuper FROM pg_roles WHERE rolname = current_user", &[])? {
            return Ok(None);
        }
        let (name, password) = new_role("asks")?;
        let asker = Asker { name, password };
        // Large objects have rights of their own, which nobody can be given on all of them.
        let role = sql::quote(&asker.name);
        let text = format!(
            "CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD {}; ALTER ROLE {role} SET lo_compat_privileges = on",
            sql::literal(&asker.password)
        );
        admin.run("", "no role can be made that asks what --check-sql says", &text)?;
        match Connection::open(&asker.conninfo(&admin.connection.conninfo)) {
            Ok(_) => Ok(Some(asker)),
            Err(error) => {
                asker.remove(admin)?;
                let advice = "name a role that is no superuser in --dsn, or drill on a server of its own";
                let text =
                    format!("--check-sql is asked by a role without rights that is made for it, which cannot log in: {error}; {advice}");
                Err(Error::destination(admin.label(""), text))
            }
        }
    }

    /// The same place for this role.
    pub(super) fn conninfo(&self, conninfo: &Conninfo) -> Conninfo {
        conninfo.with_role(&self.name, &self.password)
    }

    /// Lets it read the tables, views and sequences of a database.
    pub(super) fn let_read(&self, conninfo: &Conninfo) -> Result<()> {
        let failed = |e: postgres::Error| Error::destination(conninfo.label(), format!("the role that asks may not read: {}", explain(&e)));
        let mut connection = Connection::open(conninfo)?;
        let client = &mut connection.client;
        // Event triggers of the database do not fire in this role.
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

    /// Drops it, once what it may read is gone.
    pub(super) fn remove(self, admin: &mut Admin) -> Result<()> {
        admin.run("", "the role that asked cannot be dropped", &format!("DROP ROLE {}", sql::quote(&self.name)))
    }
}
