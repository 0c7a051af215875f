//! Sets up a session of ours: pins the settings of `SETTINGS`, and remembers those that programs must be given.
//!
//! Guarantee: a setting has a fine value, or is pinned, or could not be set. If one that could not be set can make a
//! dump lack rows, it is in `kept`, so that the caller can warn.
//! Relies on `pg_settings`: it lists only settings that the server knows.

use super::{Changes, Pin, Programs, SETTINGS, Session};
use crate::engine::postgres::client::Client;

/// The amount -1234.56 as the locale `C` writes it.
const AMOUNT: &str = "-$1,234.56";
/// The setting that forbids queries to read views and foreign tables. Servers with the fix of CVE-2024-7348 have it.
const VIEWS: &str = "restrict_nonsystem_relation_kind";
/// Set before the first query: the search_path once more, as a pooler may not have passed it on; no error ends the
/// session; a standby accepts queries.
const FIRST: &str = "SET search_path = pg_catalog, pg_temp; SET exit_on_error = off; SET default_transaction_isolation = 'read committed'; \
                     SET default_transaction_deferrable = off; SET statement_timeout = 0";
/// The values with which a session of this role in this database begins.
const LOOK: &str = "SELECT name, reset_val, CASE name WHEN 'lc_monetary' THEN (-1234.56)::numeric::money::text END \
                    FROM pg_settings WHERE name = ANY ($1::text[])";

/// What was found when a session was set up.
pub(crate) struct Found {
    pub(crate) session: Session,
    /// Whether transactions of this role are read-only by default.
    pub(crate) is_read_only: bool,
    /// Settings (`name=value`) that can make a dump lack rows and that this role may not change.
    pub(crate) kept: Vec<String>,
    /// Whether the server has the setting [`VIEWS`].
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
