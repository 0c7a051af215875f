//! Hides passwords in texts that go to a terminal, into mail, or into the journal.
//!
//! Commands refuse or use passwords before any text is made of them. This is the last line of defence: for a password
//! in an argument at the wrong place, or in what another program printed. It hides too much rather than too little.

/// The text in place of a password.
const HIDDEN: &str = "...";
/// The end of the names of settings that have a password.
const KEY: &str = "password";

/// The text without passwords of URIs (`scheme://user:password@host`) and of settings (`password=...`).
pub fn hidden(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(|line| in_settings(&in_uris(line))).collect();
    lines.join("\n")
}

/// Hides the password of a URI. A password that is not percent-encoded may have any character, so everything up to
/// the last `@` of the line counts as part of it.
fn in_uris(line: &str) -> String {
    let Some((before, after)) = line.split_once("://") else { return line.to_owned() };
    let parts = after.rsplit_once('@').and_then(|(info, host)| Some((info.split_once(':')?.0, host)));
    match parts {
        Some((user, host)) => format!("{before}://{user}:{HIDDEN}@{host}"),
        None => line.to_owned(),
    }
}

/// Hides the values of settings whose names end with `password`, in any case of letters.
fn in_settings(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    loop {
        let lower = rest.to_ascii_lowercase();
        let Some(start) = lower.find(KEY) else { break };
        let (before, after) = rest.split_at(start + KEY.len());
        out.push_str(before);
        let value = after.trim_start().strip_prefix('=').map(str::trim_start);
        rest = match value {
            Some(value) => {
                out.push_str(&format!("={HIDDEN}"));
                value.get(value_len(value)..).unwrap_or_default()
            }
            None => after,
        };
    }
    out + rest
}

/// The length of a value. It ends at a space or quote; a value in single quotes ends at the closing one. A backslash
/// protects the character after it.
fn value_len(value: &str) -> usize {
    let is_quoted = value.starts_with('\'');
    let mut chars = value.char_indices().skip(usize::from(is_quoted));
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '\'' if is_quoted => return at + 1,
            '\'' | '"' | '`' if !is_quoted => return at,
            c if c.is_whitespace() && !is_quoted => return at,
            _ => {}
        }
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::hidden;

    #[test]
    fn passwords_are_hidden_and_nothing_else() {
        let cases = [
            ("'postgresql://u:p@ss w/o:rd@h/db' found", "'postgresql://u:...@h/db' found"),
            ("postgresql://backup@h/db", "postgresql://backup@h/db"),
            ("http://h:80/x is down", "http://h:80/x is down"),
            ("host=h password=secret user=u", "host=h password=... user=u"),
            ("password = 'it\\'s so' x", "password=... x"),
            ("PGPASSWORD=a\nb", "PGPASSWORD=...\nb"),
            ("'password=secret' found", "'password=...' found"),
            ("wrong password for x", "wrong password for x"),
        ];
        for (text, expected) in cases {
            assert_eq!(hidden(text), expected, "{text}");
        }
    }
}
