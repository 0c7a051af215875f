//! Sorts the lines of `PRAGMA integrity_check` into classes (sqlite3.c, `PragTyp_INTEGRITY_CHECK` and
//! `checkAppendMsg`).
//!
//! The texts are those of the SQLite that is built in. A line that is not known here counts as damage, so a new text of
//! a later version can make a check too strict, never too lenient.

/// The most texts that are reported of one class. More would say nothing new.
const TEXTS_MAX: usize = 10;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class<'l> {
    /// Nothing is wrong.
    Fine,
    /// Damage, and every line that is not known.
    Damage,
    /// A page that nothing refers to.
    UnusedPage,
    /// A row that breaks NOT NULL, a type or CHECK. Has `table.column` or `table`.
    Row(&'l str),
    /// The number of entries of this index is wrong.
    IndexCount(&'l str),
    /// A row and its entry in this index differ.
    Index(&'l str),
    /// Two rows have the same key in this UNIQUE index.
    Unique(&'l str),
    /// This table without rowids is not in the order of its key.
    KeyOrder(&'l str),
    /// SQLite could not check it.
    NotJudged,
}

/// The class of one line.
pub(super) fn classify<'l>(line: &'l str) -> Class<'l> {
    type Make<'l> = fn(&'l str) -> Class<'l>;
    let prefixes: [(&str, Make<'l>); 7] = [
        ("NULL value in ", Class::Row),
        ("NUMERIC value in ", Class::Row),
        ("TEXT value in ", Class::Row),
        ("CHECK constraint failed in ", Class::Row),
        ("wrong # of entries in index ", Class::IndexCount),
        ("non-unique entry in index ", Class::Unique),
        ("row not in PRIMARY KEY order for ", Class::KeyOrder),
    ];
    if let Some((rest, class)) = prefixes.iter().find_map(|(prefix, class)| Some((line.strip_prefix(prefix)?, class))) {
        return class(rest);
    }
    if line == "ok" {
        return Class::Fine;
    }
    if line.starts_with("unable to validate the inverted index for ") {
        return Class::NotJudged;
    }
    if line.strip_prefix("Page ").and_then(|rest| rest.strip_suffix(": never used")).is_some_and(is_number)
        || line.starts_with("max rootpage (")
    {
        return Class::UnusedPage;
    }
    // From a STRICT table: "non-INTEGER value in t.c".
    if let Some((kind, rest)) = line.strip_prefix("non-").and_then(|rest| rest.split_once(" value in "))
        && kind.bytes().all(|byte| byte.is_ascii_uppercase())
    {
        return Class::Row(rest);
    }
    of_index(line).map_or(Class::Damage, Class::Index)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The index I in one of these lines:
/// - row N missing from index I
/// - row N values differ from index I
/// - rowid not at end-of-record for row N of index I
/// - index I stores an imprecise floating-point value for row N
fn of_index(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix("index ") {
        // From the right, since the name of an index may contain anything.
        let (name, row) = rest.rsplit_once(" stores an imprecise floating-point value for row ")?;
        return is_number(row).then_some(name);
    }
    let rest = line.strip_prefix("row ").or_else(|| line.strip_prefix("rowid not at end-of-record for row "))?;
    let (row, rest) = rest.split_once(' ')?;
    let name = ["missing from index ", "values differ from index ", "of index "].iter().find_map(|between| rest.strip_prefix(between))?;
    is_number(row).then_some(name)
}

/// Texts, each once with its count. At most [`TEXTS_MAX`] different ones.
pub(super) struct Lines {
    texts: Vec<(String, u64)>,
    more: u64,
}

impl Lines {
    pub(super) fn new() -> Self {
        Lines { texts: Vec::new(), more: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    pub(super) fn add(&mut self, text: String) {
        if let Some((_, times)) = self.texts.iter_mut().find(|(there, _)| *there == text) {
            *times += 1;
        } else if self.texts.len() < TEXTS_MAX {
            self.texts.push((text, 1));
        } else {
            self.more += 1;
        }
    }

    pub(super) fn finish(self) -> Vec<String> {
        let text = |(text, times): (String, u64)| if times > 1 { format!("{text} ({times} times)") } else { text };
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.texts.into_iter().map(text).chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted() {
        let lines = [
            ("ok", Class::Fine),
            ("NULL value in t.c", Class::Row("t.c")),
            ("non-INTEGER value in t.c", Class::Row("t.c")),
            ("NUMERIC value in t.c", Class::Row("t.c")),
            ("TEXT value in a value in b.c", Class::Row("a value in b.c")),
            ("CHECK constraint failed in t", Class::Row("t")),
            ("wrong # of entries in index i", Class::IndexCount("i")),
            ("non-unique entry in index row 7 of", Class::Unique("row 7 of")),
            ("row 12 missing from index of index i", Class::Index("of index i")),
            ("row 12 values differ from index i", Class::Index("i")),
            ("rowid not at end-of-record for row 3 of index i", Class::Index("i")),
            ("index i stores an imprecise floating-point value for row 9", Class::Index("i")),
            ("row not in PRIMARY KEY order for t", Class::KeyOrder("t")),
            ("unable to validate the inverted index for FTS5 table main.f: SQL logic error", Class::NotJudged),
            ("Page 7: never used", Class::UnusedPage),
            ("max rootpage (7) disagrees with header (3)", Class::UnusedPage),
            ("Tree 2 page 3 cell 0: 2nd reference to page 9", Class::Damage),
            ("Freelist: size is 3 but should be 4", Class::Damage),
            ("malformed inverted index for FTS5 table main.f", Class::Damage),
            ("database disk image is malformed", Class::Damage),
            ("what a later version may say", Class::Damage),
            ("row x missing from index i", Class::Damage),
            ("non- value in t", Class::Row("t")),
        ];
        for (line, class) in lines {
            assert_eq!(classify(line), class, "{line}");
        }
    }

    #[test]
    fn the_same_text_is_counted() {
        let mut lines = Lines::new();
        (0..3).for_each(|_| lines.add("a".to_owned()));
        (0..TEXTS_MAX + 1).for_each(|n| lines.add(format!("{n}")));
        let found = lines.finish();
        assert_eq!((found.first().map(String::as_str), found.last().map(String::as_str)), (Some("a (3 times)"), Some("and 2 more")));
    }
}
