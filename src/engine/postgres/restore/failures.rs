//! Reads the standard error of `pg_restore`: which entries of the dump it could not restore, and why.
//!
//! Guarantee: the failing statement is not kept. It may hold a password (of a subscription or a user mapping), and
//! messages end up in the journal. Rows' values are left out too. The memory is bounded, however much is written.
//!
//! The forms of the lines are those of `warn_or_exit_horribly` in `pg_backup_archiver.c` of PostgreSQL's sources.
//! `pg_restore` names entries only with `--verbose`; the many other lines of that option are ignored.

use std::io::{BufRead, BufReader, Read};

use crate::engine::postgres::archive::Archive;

/// Most failures that are kept one by one. Further ones are only counted.
const KEPT_MAX: usize = 1000;
/// Most bytes of a line.
const LINE_MAX: u64 = 64 << 10;
/// Most bytes of the reason of one failure.
const REASON_MAX: usize = 2000;
/// Most bytes of other messages.
const OTHER_MAX: usize = 8 << 10;
/// The start of a line that pg_restore itself writes. Other lines continue a message of the server.
const OWN: &str = "pg_restore: ";
/// The start of a line with values of a row.
const ROW: &str = "CONTEXT:  COPY ";
/// The lines of a server's message that are kept besides the error itself.
const KEPT_LINES: [&str; 3] = ["DETAIL:  ", "HINT:  ", "CONTEXT:  "];

/// An object that could not be restored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FailedObject {
    /// Its kind and name as in the dump's table of contents: `INDEX public.i`, `TABLE DATA public.t`.
    pub object: String,
    /// What the server said.
    pub reason: String,
}

/// What pg_restore has written, and the state of reading it.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The dump ids of failed entries, if they were named, and the reasons.
    failures: Vec<(Option<i64>, String)>,
    /// How many more failures there were than [`KEPT_MAX`].
    more: usize,
    /// Warnings and other messages.
    pub(super) other: String,
    /// Whether it went on to the end in spite of failures.
    pub(super) went_on: bool,
    /// The entry that was named last. Errors are about it.
    entry: Option<i64>,
    /// Whether the current line belongs to a failure.
    in_failure: bool,
    /// Whether the current line belongs to the failing statement. It is not kept.
    in_statement: bool,
}

impl Said {
    /// Reads the output to its end.
    pub(super) fn read(input: impl Read) -> Self {
        let mut said = Said::default();
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        // A longer line comes in pieces. Each further piece counts as a line that continues the message before it.
        while (&mut input).take(LINE_MAX).read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
            said.take(String::from_utf8_lossy(&line).trim_end_matches('\n'));
            line.clear();
        }
        said
    }

    /// Takes the next line.
    fn take(&mut self, line: &str) {
        let Some(own) = line.strip_prefix(OWN) else { return self.take_more(line) };
        // A line of its own ends the message before it.
        (self.in_failure, self.in_statement) = (false, false);
        if let Some(entry) = own.strip_prefix("from TOC entry ") {
            self.entry = entry.split(';').next().and_then(|number| number.parse().ok());
        } else if let Some(error) = own.strip_prefix("error: ") {
            self.in_failure = true;
            // "could not execute query: ERROR:  REASON": only the server's part says why.
            let reason = error.split_once("ERROR:  ").map_or(error, |(_, reason)| reason).to_owned();
            match self.failures.len() < KEPT_MAX {
                true => self.failures.push((self.entry, reason)),
                false => self.more += 1,
            }
        } else if own.starts_with("warning: errors ignored on restore") {
            self.went_on = true;
        } else if own.starts_with("detail: ") {
            // Newer versions write the statement after this word.
            self.in_statement = true;
        } else if own.to_ascii_lowercase().starts_with("warning: ") {
            self.add(line);
        }
    }

    /// Takes a line that continues a message.
    fn take_more(&mut self, line: &str) {
        self.in_statement |= self.in_failure && line.starts_with("Command was: ");
        let is_kept = KEPT_LINES.iter().any(|kept| line.starts_with(kept)) && !line.starts_with(ROW);
        match (self.in_failure, self.failures.last_mut()) {
            _ if self.in_statement => {}
            (true, Some((_, reason))) if is_kept && self.more == 0 && reason.len() + line.len() < REASON_MAX => {
                reason.push_str("; ");
                reason.push_str(&line.replacen(":  ", ": ", 1));
            }
            (true, _) => {}
            (false, _) => self.add(line),
        }
    }

    fn add(&mut self, line: &str) {
        if self.other.len() + line.len() < OTHER_MAX {
            self.other.push_str(line);
            self.other.push('\n');
        }
    }

    /// The failures. Their objects are named as in the dump's table of contents.
    pub(super) fn failed(&self, head: &Archive) -> Vec<FailedObject> {
        let object = |number: Option<i64>| {
            let entry = number.and_then(|number| head.entries.iter().find(|entry| entry.dump_id == number));
            entry.map_or_else(
                || "an object that pg_restore does not name".to_owned(),
                |entry| format!("{} {}", entry.kind, entry.full_name()),
            )
        };
        let mut failed: Vec<FailedObject> =
            self.failures.iter().map(|(number, reason)| FailedObject { object: object(*number), reason: reason.clone() }).collect();
        if self.more > 0 {
            failed.push(FailedObject { object: format!("{} more", self.more), reason: "not listed".to_owned() });
        }
        failed
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_from_statements_and_other_messages() {
        let text = "pg_restore: warning: old\npg_restore: creating TABLE \"public.t\"\npg_restore: while PROCESSING TOC:\npg_restore: from TOC entry 7; 1259 16395 SUBSCRIPTION s postgres\n\
                    pg_restore: error: could not execute query: ERROR:  no\nLINE 1: CREATE\nHINT:  try\nCommand was: CREATE SUBSCRIPTION s CONNECTION 'password=x\n\
                    pg_restorable secret';\n\n\npg_restore: error: COPY failed for table \"t\": ERROR:  bad\nCONTEXT:  COPY t, line 1: \"x\"\nCONTEXT:  SQL function \"f\"\n\
                    pg_restore: warning: errors ignored on restore: 2\nsomething else\n";
        let said = Said::read(text.as_bytes());
        assert_eq!(said.failures[0], (Some(7), "no; HINT: try".to_owned()));
        assert_eq!(said.failures[1], (Some(7), "bad; CONTEXT: SQL function \"f\"".to_owned()));
        assert_eq!((said.failures.len(), said.went_on), (2, true));
        assert_eq!(said.other, "pg_restore: warning: old\nsomething else\n");
    }
}
