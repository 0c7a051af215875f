//! Setting up a session of our own.

use super::{Changes, Pin, Programs, SETTINGS, Session};
use crate::engine::postgres::client::Client;

/// How the wanted locale of amounts writes one.
const AMOUNT: &str = "-$1,234.56";
/// Whether a query may read views and foreign tables. Servers know it that have the mending of CVE-2024-7348.
const VIEWS: &str = "restrict_nonsystem_relation_kind";
/// What has to hold before anything is asked: the same once more, as poolers may not pass it on, an error ends nothing, a standby takes queries.
const FIRST: &str = "SET search_path = pg_catalog, pg_temp; SET exit_on_error = off; SET default_transaction_isolation = 'read committed'; \
                     SET default_transaction_deferrable = off; SET statement_timeout = 0";
/// What a session of this role in this database begins with.
const LOOK: &str = "SELECT name, reset_val, CASE name WHEN 'lc_monetary' THEN (-1234.56)::numeric::money::text END \
                    FROM pg_settings WHERE name = ANY ($1::text[])";

/// What was found when a session was set up.
pub(crate) struct Found {
    pub(crate) session: Session,
    /// Whether its transactions would have been read-only.
    pub(crate) is_read_only: bool,
    /// Settings by which rows may be missing, with their values, that this role may not change.
    pub(crate) kept: Vec<String>,
    /// Whether the server can be told not to read views.
    pub(crate) knows_views: bool,
}

/// Sets up a new session of our own.
pub(crate) fn set_up(client: &mut Client) -> Result<Found, postgres::Error> {
    client.batch_execute(FIRST)?;
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).chain([VIEWS]).collect();
    let mut found = Found { session: Session::default(), is_read_only: false, kept: Vec::new(), knows_views: false };
    for row in client.query(LOOK, &[&names])? {
        let (name, value): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        let (value, amount): (String, Option<String>) = (value.unwrap_or_default(), row.try_get(2)?);
        found.knows_views |= name == VIEWS;
        let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else { continue };
        found.is_read_only |= name == "default_transaction_read_only" && value == "on";
        let is_fine = amount.map_or_else(|| setting.is_fine(&value), |amount| amount == AMOUNT);
        if is_fine {
            continue;
        }
        match client.execute("SELECT set_config($1, $2, false)", &[&setting.name, &setting.value]) {
            Ok(_) => found.session.pins.push(Pin { name: setting.name, value: setting.value, programs: setting.programs }),
            Err(error) if client.is_closed() => return Err(error),
            Err(_) if setting.changes == Changes::Rows && setting.programs == Programs::Dump => found.kept.push(format!("{name}={value}")),
            // Only a superuser may set the language of messages.
            Err(_) => {}
        }
    }
    let encoding = client.query_one("SELECT current_setting('server_encoding')", &[])?;
    found.session.encoding = Some(encoding.try_get(0)?);
    Ok(found)
}
