//! A small SQL tokenizer: enough to put another database's name into pg_dump's statements, and to find the roles and
//! objects that they name.
//!
//! pg_dump writes keywords in capitals, and names in lower case or in quotes. So outside of quotes the word `DATABASE`
//! is always the keyword, and the name follows it (`fmtId` and `dumpDatabase` in PostgreSQL's sources). Guarantee: any
//! text is cut without a panic, and the tokens together are the whole text.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whitespace.
    Space,
    /// A keyword, a number, or a name without quotes.
    Word,
    /// A name in quotes.
    Quoted,
    /// A string in quotes.
    Literal,
    /// From `--` to the end of the line.
    Comment,
    /// Any other single character.
    Sign,
}

/// A piece of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
}

impl Token<'_> {
    /// The name, without quotes; `None` if the token is not a name.
    pub(super) fn name(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_owned()),
            Kind::Quoted => Some(self.text.get(1..self.text.len().saturating_sub(1))?.replace("\"\"", "\"")),
            _ => None,
        }
    }

    fn is(&self, word: &str) -> bool {
        self.text == word
    }
}

/// Cuts a text into tokens. A quote that is not closed reaches to the end.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let (kind, len) = match first {
            '"' => (Kind::Quoted, quoted(rest, 1, '"', false)),
            '\'' => (Kind::Literal, quoted(rest, 1, '\'', false)),
            // E'...': here a backslash escapes the quote after it.
            'E' | 'e' if rest.get(1..).is_some_and(|rest| rest.starts_with('\'')) => (Kind::Literal, quoted(rest, 2, '\'', true)),
            '-' if rest.starts_with("--") => (Kind::Comment, run(rest, |c| c != '\n')),
            c if c.is_whitespace() => (Kind::Space, run(rest, char::is_whitespace)),
            c if is_word(c) => (Kind::Word, run(rest, is_word)),
            c => (Kind::Sign, c.len_utf8()),
        };
        let (token, after) = rest.split_at_checked(len).unwrap_or((rest, ""));
        found.push(Token { kind, text: token });
        rest = after;
    }
    found
}

/// The length of the characters at the start that belong together.
fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

/// The length of a quoted text. Its opening takes `start` bytes, and a doubled quote inside stands for one.
fn quoted(text: &str, start: usize, quote: char, has_escapes: bool) -> usize {
    let mut chars = text.char_indices().skip(start).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && has_escapes {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return at + 1;
        }
    }
    text.len()
}

/// The statements in a text, without semicolons and comments. Empty ones are left out.
pub(super) fn statements(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let parts = tokens.split(|token| token.is(";"));
    let plain = |part: &[Token<'_>]| part.iter().filter(|token| token.kind != Kind::Comment).map(|token| token.text).collect::<String>();
    let texts = parts.map(|part| plain(part).trim().to_owned());
    texts.filter(|text| !text.is_empty()).collect()
}

/// The same statements for another database: its name is put after each `DATABASE` and into `datname = '...'`.
pub(super) fn retarget(text: &str, database: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The last two tokens besides whitespace and comments.
    let (mut before, mut last) = ("", "");
    for token in tokens(text) {
        let is_name = matches!(token.kind, Kind::Word | Kind::Quoted) && last == "DATABASE";
        let is_condition = token.kind == Kind::Literal && (before, last) == ("datname", "=");
        match (is_name, is_condition) {
            (true, _) => out.push_str(&quote(database)),
            (_, true) => out.push_str(&literal(database)),
            _ => out.push_str(token.text),
        }
        if !matches!(token.kind, Kind::Space | Kind::Comment) {
            (before, last) = (last, token.text);
        }
    }
    out
}

/// A statement without the option `WORD = value`.
pub(super) fn without(text: &str, word: &str) -> String {
    let mut tokens = tokens(text).into_iter().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(token) = tokens.next() {
        if token.kind != Kind::Word || !token.is(word) {
            out.push_str(token.text);
            continue;
        }
        while tokens.next_if(|next| next.kind == Kind::Space || next.is("=")).is_some() {}
        tokens.next();
    }
    out
}

/// The tokens besides whitespace and comments.
pub(super) fn words(text: &str) -> Vec<Token<'_>> {
    tokens(text).into_iter().filter(|token| !matches!(token.kind, Kind::Space | Kind::Comment)).collect()
}

/// All names in lists that follow one of the `leads`, such as `TO` in `TO a, b`. A lead is one or several words.
pub(super) fn names_after(text: &str, leads: &[&[&str]]) -> Vec<String> {
    let tokens = words(text);
    let mut names = Vec::new();
    for (at, _) in tokens.iter().enumerate() {
        let rest = tokens.get(at..).unwrap_or_default();
        let lead = leads.iter().find(|lead| rest.len() > lead.len() && lead.iter().zip(rest).all(|(word, token)| token.is(word)));
        let Some(mut list) = lead.and_then(|lead| rest.get(lead.len()..)) else { continue };
        while let Some((first, after)) = list.split_first() {
            names.extend(first.name());
            match after.split_first() {
                Some((comma, more)) if comma.is(",") => list = more,
                _ => break,
            }
        }
    }
    names
}

/// Whether a word occurs outside of quotes.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    tokens(text).iter().any(|token| token.kind == Kind::Word && token.is(word))
}

/// A name in quotes.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string in quotes. It has the same meaning with both values of `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    let escape = if text.contains('\\') { "E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn statements_get_another_name_and_nothing_else_does() {
        let cases = [
            ("ALTER DATABASE db SET x TO 'DATABASE db';", "ALTER DATABASE \"new\" SET x TO 'DATABASE db';"),
            ("ALTER ROLE database IN DATABASE \"a\"\"b\" SET y TO 'it''s';", "ALTER ROLE database IN DATABASE \"new\" SET y TO 'it''s';"),
            ("COMMENT ON DATABASE db IS E'a\\'DATABASE db';", "COMMENT ON DATABASE \"new\" IS E'a\\'DATABASE db';"),
            (
                "UPDATE pg_catalog.pg_database SET a = true WHERE datname = 'db';",
                "UPDATE pg_catalog.pg_database SET a = true WHERE datname = 'new';",
            ),
            ("GRANT ALL ON DATABASE db TO \"DATABASE x\";", "GRANT ALL ON DATABASE \"new\" TO \"DATABASE x\";"),
        ];
        for (text, expected) in cases {
            assert_eq!(retarget(text, "new"), expected);
        }
        assert_eq!(retarget("ON DATABASE x IS", "a\"b"), "ON DATABASE \"a\"\"b\" IS");
    }

    #[test]
    fn statements_are_cut_outside_of_quotes() {
        assert_eq!(statements("A 'x;y'; B \"p;q\";\n\n C E'\\';'; "), ["A 'x;y'", "B \"p;q\"", "C E'\\';'"]);
        assert_eq!(statements("-- it's; a \"comment\nA '--'; --;\nB"), ["A '--'", "B"]);
        assert_eq!(without("CREATE DATABASE x TABLESPACE = \"a b\" Y = 'z'", "TABLESPACE"), "CREATE DATABASE x  Y = 'z'");
    }

    #[test]
    fn any_text_is_cut_into_tokens_that_are_all_of_it() {
        let sample = "E'\\'' \"a\"\"b\" \u{e9}x DATABASE\u{a0}'q''' TABLESPACE = E datname = '\\' $1;--(\u{1F600}\"";
        let places: Vec<usize> = sample.char_indices().map(|(at, _)| at).chain([sample.len()]).collect();
        for (number, start) in places.iter().enumerate() {
            for end in places.iter().skip(number) {
                let text = sample.get(*start..*end).unwrap();
                assert_eq!(tokens(text).iter().map(|token| token.text).collect::<String>(), text);
                let (_, _, _) = (statements(text), retarget(text, "x"), without(text, "TABLESPACE"));
                names_after(text, &[&["="], &["DATABASE", "x"]]).clear();
            }
        }
    }

    #[test]
    fn names_in_lists() {
        let text = "GRANT SELECT ON TABLE t TO a,\"B\"\"c\"; REVOKE ALL ON t FROM PUBLIC; SET SESSION AUTHORIZATION d;";
        assert_eq!(names_after(text, &[&["TO"], &["FROM"], &["SESSION", "AUTHORIZATION"]]), ["a", "B\"c", "PUBLIC", "d"]);
        assert!(names_after("GRANT x TO", &[&["TO"]]).is_empty());
        assert_eq!(literal("a\\'b"), "E'a\\\\''b'");
    }
}
