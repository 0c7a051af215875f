//! Settings of a session that change what is dumped, loaded or compared, or that can end the session early.
//!
//! A role, a database, a role in a database or the server's configuration can set them. Guarantee: such settings do not
//! change a dump, a restore or a comparison.
//!
//! Our own sessions set what differs as soon as they have begun. PostgreSQL's programs get it in `PGOPTIONS`. Only
//! settings that differ are given: the server's own list says which settings it knows, so no table of versions is
//! needed here, and poolers such as PgBouncer refuse settings that they do not know.
//!
//! Not in the table below:
//! - pg_dump sets itself: `extra_float_digits`, `row_security`, `synchronize_seqscans`,
//!   `restrict_nonsystem_relation_kind`.
//! - The dump sets for pg_restore: `check_function_bodies`, `xmloption`, `row_security`, and the access method and
//!   tablespace of each table.
//! - Programs have variables of their own for `TimeZone` and `client_encoding`.
//! - These change no row and no definition: `default_toast_compression`, `temp_tablespaces`, `password_encryption`,
//!   `xmlbinary`, `event_triggers`, memory and planner.
//! - These matter only to materialized views, which are filled as in a session of the database: `TimeZone`,
//!   `DateStyle`, `lc_time` and the like.
//! - `role` is the user's own choice.

pub(super) mod set_up;

/// The programs that get a setting, besides our own sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Programs {
    /// None: they set it themselves, or it does not matter to them.
    None,
    /// Programs that dump.
    Dump,
    /// Programs that load a dump.
    Load,
    /// Both.
    All,
}

/// Why a setting is in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Changes {
    /// How values or definitions are written.
    Output,
    /// How values or statements are read.
    Input,
    /// Whether rows are left out without an error.
    Rows,
    /// Whether something may be written, and where it is put.
    Place,
    /// How long something may take, or whether an error ends the session.
    Life,
    /// Only messages.
    Words,
}

struct Setting {
    name: &'static str,
    value: &'static str,
    /// Values that do as well.
    also: &'static [&'static str],
    programs: Programs,
    changes: Changes,
}

const fn setting(name: &'static str, value: &'static str, programs: Programs, changes: Changes) -> Setting {
    Setting { name, value, also: &[], programs, changes }
}

/// All settings that are pinned.
const SETTINGS: [Setting; 30] = [
    // The order of day and month does not change how ISO dates are written.
    Setting { also: &["ISO, MDY", "ISO, DMY", "ISO, YMD"], ..setting("DateStyle", "ISO", Programs::None, Changes::Output) },
    setting("IntervalStyle", "postgres", Programs::Load, Changes::Input),
    Setting { also: &["Etc/UTC"], ..setting("TimeZone", "UTC", Programs::None, Changes::Output) },
    setting("bytea_output", "hex", Programs::Dump, Changes::Output),
    // Compared by an amount that the server writes, since most locales write it alike.
    setting(MONEY, "C", Programs::All, Changes::Output),
    setting("quote_all_identifiers", "off", Programs::Dump, Changes::Output),
    setting("standard_conforming_strings", "on", Programs::All, Changes::Output),
    setting("xmloption", "content", Programs::None, Changes::Input),
    setting("array_nulls", "on", Programs::Load, Changes::Input),
    setting("transform_null_equals", "off", Programs::Load, Changes::Input),
    Setting { also: &["on"], ..setting("backslash_quote", "safe_encoding", Programs::Load, Changes::Input) },
    setting("check_function_bodies", "on", Programs::None, Changes::Input),
    setting("row_security", "on", Programs::None, Changes::Rows),
    // With `on`, rows of damaged pages would be missing without an error.
    setting("zero_damaged_pages", "off", Programs::Dump, Changes::Rows),
    setting("ignore_checksum_failure", "off", Programs::Dump, Changes::Rows),
    setting("session_replication_role", "origin", Programs::Load, Changes::Rows),
    setting("default_transaction_read_only", "off", Programs::Load, Changes::Place),
    setting("default_tablespace", "", Programs::Load, Changes::Place),
    setting("default_table_access_method", "heap", Programs::Load, Changes::Place),
    // A standby refuses serializable transactions. On a primary they may fail, and deferrable ones may wait.
    setting("default_transaction_isolation", "read committed", Programs::All, Changes::Life),
    setting("default_transaction_deferrable", "off", Programs::All, Changes::Life),
    setting("statement_timeout", "0", Programs::Load, Changes::Life),
    setting("lock_timeout", "0", Programs::Load, Changes::Life),
    setting("idle_in_transaction_session_timeout", "0", Programs::Load, Changes::Life),
    setting("transaction_timeout", "0", Programs::Load, Changes::Life),
    // The end of an idle session would release its advisory lock.
    setting("idle_session_timeout", "0", Programs::All, Changes::Life),
    setting("exit_on_error", "off", Programs::All, Changes::Life),
    // A renamed database must keep its new name after a crash.
    Setting { also: &["local", "remote_write", "remote_apply"], ..setting("synchronous_commit", "on", Programs::None, Changes::Life) },
    Setting { also: &["warning", "error"], ..setting("client_min_messages", "notice", Programs::All, Changes::Words) },
    // Advice is chosen by the words of messages, so they have to be English.
    Setting {
        also: &["", "POSIX", "C.UTF-8", "en_US.UTF-8", "en_GB.UTF-8"],
        ..setting("lc_messages", "C", Programs::None, Changes::Words)
    },
];

/// The locale of amounts.
const MONEY: &str = "lc_monetary";
/// Set by sessions that read objects of other users, as pg_dump does: so they run no code of views. Sessions that check
/// and restore do not set it, since functions of indexes may read views.
pub(super) const NO_VIEWS: &str = "SET restrict_nonsystem_relation_kind = 'view, foreign-table'";
/// Names are looked up only where no user can create objects (CVE-2018-1058). `pg_temp` is named last, since unnamed it
/// would come first. It is given when the session is opened, so no setting of the role or the database is ever in
/// force.
pub(super) const SEARCH_PATH: &str = "search_path=pg_catalog,pg_temp";
/// A setting whose value differs from the wanted one, so that programs have to be given it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) name: &'static str,
    pub(crate) value: &'static str,
    programs: Programs,
}

/// The purpose of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Dump,
    Load,
    /// Queries over `psql`, in a session like that of a dump.
    Ask,
}

/// What was found out about sessions of one role in one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pins: Vec<Pin>,
    /// The database's encoding. Programs use it too.
    pub(crate) encoding: Option<String>,
    /// Whether there is a pooler between that refuses settings when a session is opened.
    pub(super) is_pooled: bool,
}

impl Session {
    /// The settings for programs with this purpose.
    pub(crate) fn pins(&self, purpose: Purpose) -> impl Iterator<Item = &Pin> {
        let wanted = match purpose {
            Purpose::Dump | Purpose::Ask => Programs::Dump,
            Purpose::Load => Programs::Load,
        };
        self.pins.iter().filter(move |pin| pin.programs == wanted || pin.programs == Programs::All)
    }

    /// The value of `PGOPTIONS`: the user's own options come first, so that ours win.
    pub(crate) fn options(&self, given: Option<&str>, purpose: Purpose) -> Option<String> {
        // Not for pg_dump and pg_restore: they set a safe search_path before their first query. For the user's patterns
        // pg_dump goes back to the session's own, so that tables without a schema are found as in the user's sessions;
        // there it names all functions and operators with their schema.
        let path = (!self.is_pooled && purpose == Purpose::Ask).then(|| format!("-c {SEARCH_PATH}"));
        // In PGOPTIONS a space ends a value, unless a backslash precedes it.
        let pins = self.pins(purpose).map(|pin| format!("-c {}={}", pin.name, pin.value.replace(' ', "\\ ")));
        let all: Vec<String> = given.map(str::to_owned).into_iter().chain(path).chain(pins).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }

    /// From now on programs get no settings, since a pooler refuses or drops them.
    pub(crate) fn unpin(&mut self) {
        self.pins.clear();
        self.is_pooled = true;
    }
}

/// Statements that make a session read and write values as an application's session does, for the user's own queries.
/// Settings that keep the session alive stay.
pub(crate) fn as_an_application() -> String {
    let is_theirs = |setting: &&Setting| matches!(setting.changes, Changes::Output | Changes::Input);
    let names = SETTINGS.iter().filter(is_theirs).map(|setting| setting.name);
    names.chain(["search_path"]).map(|name| format!("RESET {name};")).collect()
}

impl Setting {
    fn is_fine(&self, value: &str) -> bool {
        value == self.value || self.also.contains(&value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_what_differs_after_what_the_user_has_given() {
        let pin = |name, value, programs| Pin { name, value, programs };
        let mut session = Session::default();
        let own = "-c search_path=pg_catalog,pg_temp";
        assert_eq!(session.options(None, Purpose::Ask).as_deref(), Some(own));
        assert_eq!(session.options(None, Purpose::Dump), None, "patterns look tables up by the user's own");
        assert_eq!(session.options(Some("-c geqo=off"), Purpose::Load).as_deref(), Some("-c geqo=off"));
        session.is_pooled = true;
        assert_eq!(session.options(None, Purpose::Ask), None);
        session.pins = vec![
            pin("bytea_output", "hex", Programs::Dump),
            pin("array_nulls", "on", Programs::Load),
            pin("default_transaction_isolation", "read committed", Programs::All),
            pin("TimeZone", "UTC", Programs::None),
        ];
        let dump = "-c x=y -c bytea_output=hex -c default_transaction_isolation=read\\ committed";
        assert_eq!(session.options(Some("-c x=y"), Purpose::Dump).as_deref(), Some(dump));
        let load = "-c array_nulls=on -c default_transaction_isolation=read\\ committed";
        assert_eq!(session.options(None, Purpose::Load).as_deref(), Some(load));
    }

    #[test]
    fn no_setting_is_named_twice() {
        let names: std::collections::BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
