//! Parses connection strings: URIs and `key=value` settings, as libpq does.
//!
//! Guarantee: no message shows a part of the string that may belong to a password. A password in a URI that is not
//! percent-encoded ends early for libpq, and the rest becomes a host, a port, a database or a setting. Such strings are
//! refused.

use super::{Values, invalid, is_known};
use crate::error::Result;

/// Advice where a part of a password may have been taken for something else.
const ENCODE: &str = "in the user's name and the password of a URI, write `@`, `/`, `:`, `%`, `?` and `#` percent-encoded (`@` as %40, \
                      `/` as %2F), or give the password in another way: PGPASSWORD, ~/.pgpass";

/// The settings in a connection string. It may be empty, or the name of a database.
pub(super) fn parse(dsn: &str) -> Result<Values> {
    let uri = ["postgresql://", "postgres://"].iter().find_map(|scheme| dsn.strip_prefix(scheme));
    let start = dsn.split('=').next().unwrap_or_default();
    match uri {
        Some(rest) => parse_uri(rest),
        None if start.contains("://") => invalid("a connection URI begins with postgresql:// or postgres://"),
        None if dsn.contains('=') => parse_settings(dsn),
        None if dsn.split_once('@').is_some_and(|(before, _)| before.contains(':')) => invalid(
            "the connection string looks like a URI without its postgresql:// (a database of such a name is given as dbname='NAME')",
        ),
        None if dsn.is_empty() => Ok(Values::new()),
        None => Ok(Values::from([("dbname".to_owned(), dsn.to_owned())])),
    }
}

fn put(values: &mut Values, key: &str, value: String) -> Result<()> {
    match (key, value.as_str()) {
        // JDBC's name for it.
        ("ssl", "true") => drop(values.insert("sslmode".to_owned(), "require".to_owned())),
        _ if is_known(key) => drop(values.insert(key.to_owned(), value)),
        // After a password, this may be the rest of a password with a space or `&` in it. So it is not shown.
        _ if values.contains_key("password") => {
            return invalid(format!(
                "the connection string has an unknown setting after the password; quotes around the password may be missing; {ENCODE}"
            ));
        }
        _ => return invalid(format!("the connection string has an unknown setting {key:?}")),
    }
    Ok(())
}

/// Parses `key = value` pairs. A value with spaces is in single quotes, and a backslash escapes the next character.
fn parse_settings(dsn: &str) -> Result<Values> {
    let mut values = Values::new();
    let mut rest = dsn.trim_start();
    while !rest.is_empty() {
        let Some((key, after)) = rest.split_once('=') else { return invalid("the connection string ends without a `=`") };
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return invalid("the connection string has a setting without a `=`");
        }
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('\'') {
            Some(quoted) => take_value(quoted, |c| c == '\'', true)?,
            None => take_value(after, char::is_whitespace, false)?,
        };
        put(&mut values, key, value)?;
        rest = next.trim_start();
    }
    Ok(values)
}

/// A value, and the text after it.
fn take_value(text: &str, ends: impl Fn(char) -> bool, is_quoted: bool) -> Result<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        if ends(c) {
            return Ok((value, text.get(at + c.len_utf8()..).unwrap_or_default()));
        }
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    if is_quoted {
        return invalid("the connection string has a quote that does not end");
    }
    Ok((value, ""))
}

/// Parses `[user[:password]@][host[:port],...][/dbname][?key=value&...]`. A setting after `?` overrides the part before
/// it.
fn parse_uri(rest: &str) -> Result<Values> {
    let mut values = Values::new();
    refuse_torn(rest)?;
    // As in libpq, an `@` ends the user's part only if no `/` comes before it.
    let (user_info, rest) = match rest.split_once('@') {
        Some((info, after)) if !info.contains('/') => (Some(info), after),
        _ => (None, rest),
    };
    let (before_query, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let (hosts, database) = before_query.split_once('/').map_or((before_query, None), |(hosts, database)| (hosts, Some(database)));
    if let Some(info) = user_info {
        let (user, password) = info.split_once(':').map_or((info, None), |(user, password)| (user, Some(password)));
        put(&mut values, "user", decode(user)?)?;
        password.map_or(Ok(()), |password| put(&mut values, "password", decode(password)?))?;
    }
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for place in hosts.split(',') {
        let (host, port) = split_port(place)?;
        names.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if names.iter().any(|name| !name.is_empty()) {
        put(&mut values, "host", names.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        put(&mut values, "port", ports.join(","))?;
    }
    database.map_or(Ok(()), |database| put(&mut values, "dbname", decode(database)?))?;
    for setting in query.into_iter().flat_map(|query| query.split('&')).filter(|setting| !setting.is_empty()) {
        let Some((key, value)) = setting.split_once('=') else { return invalid("the connection URI has a setting without a `=`") };
        put(&mut values, &decode(key)?, decode(value)?)?;
    }
    Ok(values)
}

/// Refuses a URI that libpq would divide inside the password. The sign of this is a bare `@` in a host, a port or a
/// database, or a `/` between the user and the `@`, where the text before the `/` cannot be a port.
fn refuse_torn(rest: &str) -> Result<()> {
    let torn = || invalid(format!("the connection URI has an `@` in a wrong place, perhaps as a part of the password; {ENCODE}"));
    match rest.split_once('@') {
        // There is no `/` before the first `@`, so the user's part ends there.
        Some((info, after)) if !info.contains('/') => {
            let place = after.split_once('?').map_or(after, |(place, _)| place);
            let has_password = info.contains(':');
            if place.contains('@') || (has_password && after.contains('@')) { torn() } else { Ok(()) }
        }
        Some((before, _)) if !before.contains('?') => torn(),
        Some((before, _)) if before.split('/').next().is_some_and(|place| place.contains(':') && !place.starts_with('[')) => {
            // `host:port/database?key=a@b` is right; `user:pass/wo?rd@host` has a divided password.
            let port = before.split('/').next().and_then(|place| place.rsplit_once(':')).map_or("", |(_, port)| port);
            if port.chars().all(|c| c.is_ascii_digit()) && before.contains('=') { Ok(()) } else { torn() }
        }
        _ => Ok(()),
    }
}

/// A host and its port. An IPv6 address is in brackets.
fn split_port(place: &str) -> Result<(&str, &str)> {
    let Some(bracketed) = place.strip_prefix('[') else { return Ok(place.split_once(':').unwrap_or((place, ""))) };
    let Some((host, after)) = bracketed.split_once(']') else { return invalid("the connection URI has a `[` without `]`") };
    match after.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if after.is_empty() => Ok((host, "")),
        None => invalid("the connection URI has a text between `]` and the port"),
    }
}

/// Decodes percent-encoding.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            // Two digits always fit a byte. A zero byte would end the value in C.
            (Some(high), Some(low)) if high + low > 0 => bytes.extend(u8::try_from(high * 16 + low)),
            _ => {
                let text = "the connection URI has a % without two hexadecimal digits after it, or %00";
                return invalid(format!("{text}; {ENCODE}"));
            }
        }
    }
    String::from_utf8(bytes).or_else(|_| invalid("the connection URI is not UTF-8"))
}
