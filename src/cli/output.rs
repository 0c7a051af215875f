//! Where output goes and in which form.
//!
//! Results go to standard output. If the reader closes the pipe early, that is not an error. Errors and warnings go to standard error.
//! With `--json` a result is one document, and each error or warning is one line of JSON. Names from files and repositories are escaped, so
//! that a terminal does not act on them.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::args::Global;
use super::exit::{Exit, Failure};
use super::screen::{HANGING, Screen, Tone, painted, stderr_has_colors, stderr_width, wrapped};
use icecore::ops::secrets::hidden;
pub(crate) use icecore::ops::text::{bytes, count, duration, ms};

/// The version of all JSON documents. It grows when a field goes or changes its meaning. Readers ignore unknown fields.
pub(crate) const SCHEMA: u32 = 1;

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
    /// What standard output is.
    pub(crate) screen: Screen,
    /// Whether `error:` and `warning:` are coloured.
    pub(crate) stderr_colors: bool,
    /// The columns of the terminal that standard error is.
    pub(crate) stderr_width: Option<usize>,
}

#[derive(Serialize)]
struct Document<'a, T> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

impl Output {
    pub(crate) fn new(global: &Global) -> Self {
        Output {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            screen: Screen::of_stdout(global.color),
            stderr_colors: stderr_has_colors(global.color),
            stderr_width: stderr_width(),
        }
    }

    /// Prints a result: the document with `--json`, else the text.
    pub(crate) fn result<T: Serialize>(&self, document: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        self.raw(&self.rendered(document, text)?)
    }

    /// Prints the report of an operation, as [`Output::result`] does, but no text with `-q`.
    ///
    /// If the report cannot be written, the operation is still done. Then the report goes to standard error, and the failure is
    /// [`Exit::Incomplete`].
    pub(crate) fn report<T: Serialize>(&self, document: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        self.report_as(Exit::Done, document, text).map(drop)
    }

    /// As [`Output::report`], for an operation with this exit code. An exit code other than [`Exit::Done`] stays if the report cannot be written.
    pub(crate) fn report_as<T: Serialize>(&self, exit: Exit, document: &T, text: impl FnOnce(&T) -> String) -> Result<Exit, Failure> {
        if self.quiet && !self.json { Ok(exit) } else { self.insist_as(exit, document, text) }
    }

    /// As [`Output::report_as`], even with `-q`.
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
            return Ok(self.screen.fitted(text(document)).into_bytes());
        }
        let bytes = self::document(document).map_err(|e| Failure::failed(format!("the result cannot be written as JSON: {e}")))?;
        Ok(harmless(bytes))
    }

    /// As [`Output::report`]. With `-q` only the problems are printed, on standard error.
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

    /// Prints why the program ends.
    pub(crate) fn failure(&self, failure: &Failure) {
        match () {
            () if failure.message.is_empty() => {}
            () if self.json => failure_as_json(failure),
            () => to_stderr(&self.fitted(format!("{} {}", self.word(Tone::Bad, "error:"), printable_lines(&hidden(&failure.message))))),
        }
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        write_stdout(bytes).map_err(|e| Failure::failed(format!("cannot write to standard output: {e}")))
    }

    /// Prints a warning while no progress is shown.
    pub(crate) fn warn(&self, message: &str) {
        to_stderr(&self.warning_line(message));
    }

    /// A warning as a line for standard error.
    pub(crate) fn warning_line(&self, message: &str) -> String {
        let message = &hidden(message);
        match self.json {
            true => harmless_text(serde_json::json!({ "schema": SCHEMA, "warning": { "message": message } }).to_string()),
            false => self.fitted(format!("{} {}", self.word(Tone::Doubtful, "warning:"), printable_lines(message))),
        }
    }

    /// With lines that fit the terminal that standard error is.
    fn fitted(&self, text: String) -> String {
        match self.stderr_width {
            Some(width) => text.lines().flat_map(|line| wrapped(line, width, HANGING)).collect::<Vec<_>>().join("\n"),
            None => text,
        }
    }

    /// A word for standard error.
    fn word(&self, tone: Tone, word: &str) -> String {
        if self.stderr_colors { painted(tone, word) } else { word.to_owned() }
    }
}

/// A report in the envelope of all documents.
pub(crate) fn document<T: Serialize>(body: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(&Document { schema: SCHEMA, body })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A closed pipe is not a failure.
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

/// Writes a line to standard error. If standard error is closed, the line is lost.
pub(crate) fn to_stderr(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Escapes in a JSON document what a terminal would act on. Such characters stand only in strings; line ends between values stay.
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

/// One line of text with everything escaped that a terminal would act on. Names come from file systems and from repositories of others.
pub(crate) fn printable(text: &str) -> String {
    if !text.contains(acts) {
        return text.to_owned();
    }
    text.chars().map(|c| if acts(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// As [`printable`], for several lines. Lines after the first are indented, so that a name cannot look like a message of its own.
pub(crate) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n  ")
}

/// Whether a terminal acts on the character, hides it, or shows text in another order because of it (<https://trojansource.codes>).
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// The whole time, with its parts in brackets. The key derivation happens before the work is measured, so it is added to the whole.
pub(crate) fn took(work_us: u64, key_derivation_us: u64, parts: &[(&str, u64)]) -> String {
    let derivation = Some(("key derivation", key_derivation_us)).filter(|_| key_derivation_us > 0);
    let parts: Vec<String> = derivation.iter().chain(parts).map(|(name, part_us)| format!("{name} {}", duration(ms(*part_us)))).collect();
    let whole = duration(ms(work_us.saturating_add(key_derivation_us)));
    if parts.is_empty() { whole } else { format!("{whole} ({})", parts.join(", ")) }
}

/// Joins the lines of a text into one.
pub(crate) fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    printable(&lines.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_exceed_the_whole() {
        assert_eq!(took(34_000, 173_000, &[("reading", 22_000)]), "207 ms (key derivation 173 ms, reading 22 ms)");
        assert_eq!(took(34_000, 0, &[]), "34 ms");
    }

    #[test]
    fn several_lines_in_one() {
        assert_eq!(in_one_line("it failed:\n\n  no such role\r\n"), "it failed:; no such role");
    }

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(printable("a\u{1b}[2Jb\r\n\u{9b}c"), "a\\u{1b}[2Jb\\r\\n\\u{9b}c");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{200b}\u{e0041}"), "a\\u{202e}b\\u{2066}c\\u{200b}\\u{e0041}");
        assert_eq!(printable_lines("it failed\nerror: all is well\r"), "it failed\n  error: all is well\\r");
        assert_eq!(harmless_text("{\n \"a\": \"\u{202e}\u{e0041}\u{9b}\"}".into()), "{\n \"a\": \"\\u202e\\udb40\\udc41\\u009b\"}");
        assert_eq!(printable("gr\u{fc}n"), "gr\u{fc}n");
    }
}
