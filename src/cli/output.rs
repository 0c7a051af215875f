//! What is printed, and where. Results go to standard output; a reader that closes the pipe early ends them quietly. Errors and
//! warnings go to standard error. With `--json` there is one document, and each error or warning is one line of JSON.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::args::Global;
use super::exit::{Exit, Failure};
use icecore::ops::secrets::hidden;
pub(crate) use icecore::ops::text::{bytes, count, duration, ms};

/// The version of all JSON documents. It grows when a field changes its meaning or goes; readers ignore fields that they do not know.
pub(crate) const SCHEMA: u32 = 1;

/// How much is said, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}

#[derive(Serialize)]
struct Document<'a, T> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Output { json: global.json, quiet: global.quiet, verbose: global.verbose }
    }

    /// What was asked for: the document with `--json`, else the text.
    pub(crate) fn result<T: Serialize>(&self, document: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        self.raw(&self.rendered(document, text)?)
    }

    /// The report of what was done: as [`Output::result`], but as text not with `-q`.
    ///
    /// Where it cannot be written, the deed is done all the same: the report goes to standard error, and the failure is [`Exit::Incomplete`].
    pub(crate) fn report<T: Serialize>(&self, document: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        self.report_as(Exit::Done, document, text).map(drop)
    }

    /// The same for what ends with this exit code, which stays if it says more than that something is incomplete.
    pub(crate) fn report_as<T: Serialize>(&self, exit: Exit, document: &T, text: impl FnOnce(&T) -> String) -> Result<Exit, Failure> {
        if self.quiet && !self.json { Ok(exit) } else { self.insist_as(exit, document, text) }
    }

    /// The same for what is said even with `-q`.
    pub(crate) fn insist_as<T: Serialize>(&self, exit: Exit, document: &T, text: impl FnOnce(&T) -> String) -> Result<Exit, Failure> {
        let bytes = self.rendered(document, text)?;
        let Err(e) = write_stdout(&bytes) else { return Ok(exit) };
        let line = match self.json {
            true => harmless_text(serde_json::to_string(&Document { schema: SCHEMA, body: document }).unwrap_or_default()),
            false => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        };
        to_stderr(&line);
        let message = format!("what was asked for is done, but its report cannot be written to standard output: {e}; it stands above");
        let mut failure = Failure { exit: Exit::Incomplete, code: "report", message };
        if exit != Exit::Done {
            failure.exit = exit;
        }
        Err(failure)
    }

    fn rendered<T: Serialize>(&self, document: &T, text: impl FnOnce(&T) -> String) -> Result<Vec<u8>, Failure> {
        if !self.json {
            return Ok(text(document).into_bytes());
        }
        let bytes = self::document(document).map_err(|e| Failure::failed(format!("the result cannot be written as JSON: {e}")))?;
        Ok(harmless(bytes))
    }

    /// The same, but with `-q` only what is not well is said, on standard error.
    pub(crate) fn report_or_warn<T: Serialize>(
        &self,
        document: &T,
        text: impl FnOnce(&T) -> String,
        problems: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<(), Failure> {
        if self.quiet && !self.json {
            problems(document).iter().for_each(|problem| self.warn(problem));
        }
        self.report(document, text)
    }

    /// Why the program ends.
    pub(crate) fn failure(&self, failure: &Failure) {
        match () {
            () if failure.message.is_empty() => {}
            () if self.json => failure_as_json(failure),
            () => to_stderr(&format!("error: {}", printable_lines(&hidden(&failure.message)))),
        }
    }

    /// Bytes that were asked for as they are, on standard output.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        write_stdout(bytes).map_err(|e| Failure::failed(format!("cannot write to standard output: {e}")))
    }

    /// Says on standard error what the user should know, where no progress is shown.
    pub(crate) fn warn(&self, message: &str) {
        to_stderr(&self.warning_line(message));
    }

    /// A line for standard error that says what the user should know.
    pub(crate) fn warning_line(&self, message: &str) -> String {
        let message = &hidden(message);
        match self.json {
            true => harmless_text(serde_json::json!({ "schema": SCHEMA, "warning": { "message": message } }).to_string()),
            false => format!("warning: {}", printable_lines(message)),
        }
    }
}

/// A report in the envelope of all documents.
pub(crate) fn document<T: Serialize>(body: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(&Document { schema: SCHEMA, body })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A reader that has gone away is no failure.
fn write_stdout(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e),
        _ => Ok(()),
    }
}

/// Names for a shell, which may have gone away.
pub(crate) fn to_stdout(text: &str) {
    let _ = write_stdout(text.as_bytes());
}

/// One line of JSON on standard error.
pub(crate) fn failure_as_json(failure: &Failure) {
    let error = serde_json::json!({ "code": failure.code, "message": hidden(&failure.message), "exit_code": failure.exit as u8 });
    to_stderr(&harmless_text(serde_json::json!({ "schema": SCHEMA, "error": error }).to_string()));
}

/// Where standard error is closed there is nobody to tell.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// A JSON document in which strings do nothing to a terminal either. Outside of strings there is nothing to escape but ends of lines, which stay.
fn harmless_text(json: String) -> String {
    if !json.contains(|c| acts(c) && c != '\n') {
        return json;
    }
    let mut units = [0; 2];
    let mut escaped = |c: char| c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
    json.chars().map(|c| if acts(c) && c != '\n' { escaped(c) } else { c.to_string() }).collect()
}

fn harmless(json: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(json) {
        Ok(text) => harmless_text(text).into_bytes(),
        Err(not_text) => not_text.into_bytes(),
    }
}

/// Text of one line that does nothing to a terminal and stands as it is written: names come from file systems and from repositories that others wrote.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(acts) {
        return text.to_owned();
    }
    text.chars().map(|c| if acts(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// The same for a message of several lines. Those after the first are indented, so that no name can begin a message of its own.
pub(crate) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n  ")
}

/// Whether a terminal would act on it, or show text in another order than it is in (<https://trojansource.codes>), or not show it at all.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// How long the key derivation took, for people; of a repository without a passphrase there is nothing to say.
pub(crate) fn key_derivation(ms: f64) -> String {
    if ms > 0.0 { format!(", key derivation {}", duration(ms)) } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}c"), "a\\u{1b}[2Jb\\r\\n\\u{9b}c");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{200b}\u{e0041}"), "a\\u{202e}b\\u{2066}c\\u{200b}\\u{e0041}");
        assert_eq!(printable_lines("it failed\nerror: all is well\r"), "it failed\n  error: all is well\\r");
        assert_eq!(harmless_text("{\n \"a\": \"\u{202e}\u{e0041}\u{9b}\"}".into()), "{\n \"a\": \"\\u202e\\udb40\\udc41\\u009b\"}");
        assert_eq!(printable("gr\u{fc}n"), "gr\u{fc}n");
    }
}
