//! What a database has and its dump lacks, such as rows of unlogged tables on a standby. It is recorded as facts. The
//! backup and the restore both warn of it.

use super::client::Client;

use super::facts::put;

/// The fact with schema and extension that every new database has and this one lacks. A restore drops them.
pub const ABSENT_FACT: &str = "absent";
/// Most tables of one kind in a message. The record has more.
const TOLD_MAX: usize = 20;
/// A table's name with its schema, as bytes. They are UTF-8 unless the database has no encoding.
const NAME: &str =
    "convert_to(format('%I.%I', nspname, relname), CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)";
/// Facts: the name, the text about the tables in it, and the condition that finds them, over `pg_class c` with its
/// schema.
const LACKING: [(&str, &str, &str); 3] = [
    (
        "unlogged_tables",
        "the rows of unlogged tables, which a standby does not have",
        // Sequences are unlogged with their tables since 15.
        "pg_is_in_recovery() AND relpersistence = 'u' AND relkind IN ('r', 'S')",
    ),
    (
        "extension_tables",
        "the rows of tables that belong to an extension which has not marked them for dumps (pg_extension_config_dump)",
        // The size is asked for last and only for these tables, since that takes a lock.
        "CASE WHEN relkind = 'r' AND relpersistence <> 't' AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid \
         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' \
         AND NOT c.oid = ANY (coalesce(e.extconfig, '{}'))) THEN pg_relation_size(c.oid) > 0 ELSE false END",
    ),
    ("foreign_tables", "the rows of foreign tables, which are elsewhere", "relkind = 'f'"),
];
const ABSENT: &str = "SELECT 'schema public' WHERE NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public') UNION ALL \
                      SELECT 'extension plpgsql' WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'plpgsql')";

/// Facts about what a dump lacks, read inside the transaction whose snapshot is dumped.
pub(super) fn read(client: &mut Client) -> Result<Vec<(String, String)>, postgres::Error> {
    let mut facts = Vec::new();
    for (fact, _, condition) in LACKING {
        let query = format!("SELECT {NAME} FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE {condition} ORDER BY 1");
        let mut names = Vec::new();
        for row in client.query(&query, &[])? {
            let name: Vec<u8> = row.try_get(0)?;
            names.push(String::from_utf8_lossy(&name).into_owned());
        }
        put(&mut facts, fact, names.join(", "));
    }
    let absent = client.query(ABSENT, &[])?.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>()?;
    put(&mut facts, ABSENT_FACT, absent.join(", "));
    Ok(facts)
}

/// The warning about a fact; `None` if it is not one of these.
pub fn told(fact: &str, value: &str) -> Option<String> {
    let (_, what, _) = LACKING.iter().find(|(name, ..)| *name == fact)?;
    let mut names = value.split(", ");
    let first: Vec<&str> = names.by_ref().take(TOLD_MAX).collect();
    let more = match names.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Some(format!("the dump does not have {what}: {}{more}", first.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_of_many_tables_are_told() {
        let many: Vec<String> = (0..25).map(|number| format!("t{number}")).collect();
        let text = told("foreign_tables", &many.join(", ")).unwrap_or_default();
        assert!(text.ends_with("t18, t19, and 5 more"), "{text}");
        assert_eq!(told("rows", "7"), None);
    }
}
