//! Reads the facts about server and database that a snapshot records: version, encoding, locale, size, extensions. They
//! are read in the transaction whose snapshot is dumped, so they fit the dump.

use super::client::Client;

/// Longest fact in bytes. A database may have very many collations.
const FACT_BYTES_MAX: usize = 16 << 10;
/// The first version whose `pg_database` has the locale provider and the collation version.
const WITH_PROVIDER: u32 = 15_00_00;
/// The first version whose `pg_database` has `datlocale` in place of `daticulocale`.
const WITH_LOCALE: u32 = 17_00_00;

/// The facts by name. A standby has no `lsn`.
pub(super) fn read(client: &mut Client, version: u32) -> Result<Vec<(String, String)>, postgres::Error> {
    let mut facts = Vec::new();
    let provider = match version {
        WITH_LOCALE.. => ", datlocprovider::text, coalesce(datlocale, ''), coalesce(datcollversion, '')",
        WITH_PROVIDER.. => ", datlocprovider::text, coalesce(daticulocale, ''), coalesce(datcollversion, '')",
        _ => ", 'c', '', ''",
    };
    let query = format!(
        "SELECT current_setting('server_version'), current_database()::text, pg_encoding_to_char(encoding)::text, datcollate::text, \
         datctype::text{provider}, pg_database_size(oid)::text, now()::text, pg_is_in_recovery()::text, \
         current_setting('data_checksums') FROM pg_database WHERE datname = current_database()"
    );
    let names = [
        "server_version",
        "database",
        "encoding",
        "collate",
        "ctype",
        "locale_provider",
        "locale",
        "collation_version",
        "database_bytes",
        "transaction_time",
        "standby",
        "data_checksums",
    ];
    let row = client.query_one(&query, &[])?;
    for (index, name) in names.into_iter().enumerate() {
        put(&mut facts, name, row.try_get(index)?);
    }
    let lists = [
        ("extensions", "SELECT extname || ' ' || extversion FROM pg_extension ORDER BY extname"),
        (
            "collations",
            "SELECT quote_ident(nspname) || '.' || quote_ident(collname) || ' ' || collversion FROM pg_collation c \
             JOIN pg_namespace n ON n.oid = collnamespace WHERE collversion IS NOT NULL AND c.oid >= 16384 ORDER BY 1",
        ),
        ("lsn", "SELECT pg_current_wal_lsn()::text WHERE NOT pg_is_in_recovery()"),
    ];
    for (name, query) in lists {
        let rows = client.query(query, &[])?;
        let items = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
        put(&mut facts, name, items.join(", "));
    }
    Ok(facts)
}

/// Adds a fact unless its value is empty. A long value is cut between characters.
pub(super) fn put(facts: &mut Vec<(String, String)>, name: &str, value: String) {
    if !value.is_empty() {
        let end = (0..=FACT_BYTES_MAX.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
        facts.push((name.to_owned(), value.get(..end).unwrap_or_default().to_owned()));
    }
}
