//! Settings of a session that change what is dumped, loaded or compared, or that end it in the middle. They may come from the role, the database, a role
//! in a database, or the server's configuration, and must not matter.
//!
//! Our own sessions set what differs right after they have begun. PostgreSQL's programs get it by `PGOPTIONS`, and only what differs: which settings a
//! server knows, its own list says (so there is no table of versions here), and poolers such as PgBouncer refuse what they do not know.
//!
//! Not here, since pg_dump sets it itself: `extra_float_digits`, `row_security`, `synchronize_seqscans`, `restrict_nonsystem_relation_kind`. The dump itself
//! sets for pg_restore: `check_function_bodies`, `xmloption`, `row_security`, and the access method and tablespace of each table. `TimeZone` and
//! `client_encoding` of programs have variables of their own. Left as they are, since they change no row and no definition:
//! `default_toast_compression`, `temp_tablespaces`, `password_encryption`, `xmlbinary`, `event_triggers`, memory and planner; and what only matters to
//! materialized views, which are filled as in a session of the database: `TimeZone`, `DateStyle`, `lc_time` and the like. `role` is the user's own choice.

pub(super) mod set_up;

/// Who gets a setting besides our own sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Programs {
    /// No program: it sets that itself, or does not care.
    None,
    /// What dumps.
    Dump,
    /// What loads a dump.
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
    /// Values that are as good.
    also: &'static [&'static str],
    programs: Programs,
    changes: Changes,
}

const fn setting(name: &'static str, value: &'static str, programs: Programs, changes: Changes) -> Setting {
    Setting { name, value, also: &[], programs, changes }
}

/// All settings that are pinned.
const SETTINGS: [Setting; 30] = [
    // `ISO, DMY` too: what is written is the same.
    Setting { also: &["ISO, MDY", "ISO, DMY", "ISO, YMD"], ..setting("DateStyle", "ISO", Programs::None, Changes::Output) },
    setting("IntervalStyle", "postgres", Programs::Load, Changes::Input),
    Setting { also: &["Etc/UTC"], ..setting("TimeZone", "UTC", Programs::None, Changes::Output) },
    setting("bytea_output", "hex", Programs::Dump, Changes::Output),
    // Asked of the server by an amount, as most locales write it alike.
    setting(MONEY, "C", Programs::All, Changes::Output),
    setting("quote_all_identifiers", "off", Programs::Dump, Changes::Output),
    setting("standard_conforming_strings", "on", Programs::All, Changes::Output),
    setting("xmloption", "content", Programs::None, Changes::Input),
    setting("array_nulls", "on", Programs::Load, Changes::Input),
    setting("transform_null_equals", "off", Programs::Load, Changes::Input),
    Setting { also: &["on"], ..setting("backslash_quote", "safe_encoding", Programs::Load, Changes::Input) },
    setting("check_function_bodies", "on", Programs::None, Changes::Input),
    setting("row_security", "on", Programs::None, Changes::Rows),
    // Damaged pages are an error, and not no rows.
    setting("zero_damaged_pages", "off", Programs::Dump, Changes::Rows),
    setting("ignore_checksum_failure", "off", Programs::Dump, Changes::Rows),
    setting("session_replication_role", "origin", Programs::Load, Changes::Rows),
    setting("default_transaction_read_only", "off", Programs::Load, Changes::Place),
    setting("default_tablespace", "", Programs::Load, Changes::Place),
    setting("default_table_access_method", "heap", Programs::Load, Changes::Place),
    // A standby takes no statement of a serializable transaction, and elsewhere it may fail, or wait if it is deferrable.
    setting("default_transaction_isolation", "read committed", Programs::All, Changes::Life),
    setting("default_transaction_deferrable", "off", Programs::All, Changes::Life),
    setting("statement_timeout", "0", Programs::Load, Changes::Life),
    setting("lock_timeout", "0", Programs::Load, Changes::Life),
    setting("idle_in_transaction_session_timeout", "0", Programs::Load, Changes::Life),
    setting("transaction_timeout", "0", Programs::Load, Changes::Life),
    // An advisory lock goes with its session.
    setting("idle_session_timeout", "0", Programs::All, Changes::Life),
    setting("exit_on_error", "off", Programs::All, Changes::Life),
    // A name that was changed has to be that after a crash too.
    Setting { also: &["local", "remote_write", "remote_apply"], ..setting("synchronous_commit", "on", Programs::None, Changes::Life) },
    Setting { also: &["warning", "error"], ..setting("client_min_messages", "notice", Programs::All, Changes::Words) },
    // Advice is found by what messages say.
    Setting {
        also: &["", "POSIX", "C.UTF-8", "en_US.UTF-8", "en_GB.UTF-8"],
        ..setting("lc_messages", "C", Programs::None, Changes::Words)
    },
];

/// The locale of amounts.
const MONEY: &str = "lc_monetary";
/// What a session sets, as pg_dump does, that reads what others have made. Not those that check and restore: functions for indexes may read views.
pub(super) const NO_VIEWS: &str = "SET restrict_nonsystem_relation_kind = 'view, foreign-table'";
/// Names are looked up where no user can make any. Without its last part temporary tables would come first. It is given when a session is asked for, where nothing that
/// is set for a role or a database can be before it (CVE-2018-1058).
pub(super) const SEARCH_PATH: &str = "search_path=pg_catalog,pg_temp";
/// A setting that differs from what is wanted, and is to be given to programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) name: &'static str,
    pub(crate) value: &'static str,
    programs: Programs,
}

/// What a program is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Dump,
    Load,
    /// What is asked over `psql`, in a session like that of a dump.
    Ask,
}

/// What is known of sessions of one role in one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Session {
    pins: Vec<Pin>,
    /// The database's encoding, which programs are to use.
    pub(crate) encoding: Option<String>,
    /// Whether a pooler is on the way that lets nobody ask for settings.
    pub(super) is_pooled: bool,
}

impl Session {
    /// What programs for this purpose are given.
    pub(crate) fn pins(&self, purpose: Purpose) -> impl Iterator<Item = &Pin> {
        let wanted = match purpose {
            Purpose::Dump | Purpose::Ask => Programs::Dump,
            Purpose::Load => Programs::Load,
        };
        self.pins.iter().filter(move |pin| pin.programs == wanted || pin.programs == Programs::All)
    }

    /// The value of `PGOPTIONS`: the user's own options come first, so that ours win.
    pub(crate) fn options(&self, given: Option<&str>, purpose: Purpose) -> Option<String> {
        // What dumps and loads asks nothing before it has set this by itself. pg_dump goes back to what the session began with for the patterns that users give,
        // where it names all functions and operators with their schema: tables without one are to be found as in a session of the user's own.
        let path = (!self.is_pooled && purpose == Purpose::Ask).then(|| format!("-c {SEARCH_PATH}"));
        // A space ends a value, unless a backslash is before it.
        let pins = self.pins(purpose).map(|pin| format!("-c {}={}", pin.name, pin.value.replace(' ', "\\ ")));
        let all: Vec<String> = given.map(str::to_owned).into_iter().chain(path).chain(pins).collect();
        (!all.is_empty()).then(|| all.join(" "))
    }

    /// The same session, for programs that cannot be given settings.
    pub(crate) fn unpin(&mut self) {
        self.pins.clear();
        self.is_pooled = true;
    }
}

/// What makes a session read and write as an application's does, for the user's own queries. That nothing ends it stays.
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
