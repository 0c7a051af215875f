//! Plans which role restores which entry of a dump, so that code of ordinary roles never runs with a superuser's
//! rights.
//!
//! Restoring an entry can run code that an ordinary role has written. PostgreSQL runs the expressions of a table (CHECK
//! constraints, domains, generated columns, partition keys) with the rights of the role that writes rows. It also
//! computes, with the rights of the role that gives the statement:
//!
//! - functions of constants, when an expression is prepared: for generated columns and partition keys when a table is
//!   created (`contain_mutable_functions_after_planning`, `ComputePartitionAttrs`), for these and for CHECK constraints
//!   when a partition is attached, for indexes when a query checks a foreign key;
//! - constants of composite and array types in any statement, when it is parsed: if a domain is inside, its CHECK runs;
//! - the initial value of an aggregate, if its type is a domain.
//!
//! Entries that do any of this are restored as their owner. It does not matter what a function's body calls, which a
//! dump does not say: everything that is called has the owner's rights.
//!
//! The result is a list of passes, each one run of `pg_restore` with a list of entries. The plan relies on the
//! dependencies in the table of contents, so an entry that another one needs is in an earlier pass or in the same one.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::sql;
use crate::engine::postgres::archive::{Archive, Entry, Section};

/// Kinds of entries that are code: their owner decides what runs when they are used.
const CODE: [&str; 5] = ["FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR", "DOMAIN"];
/// Tables have expressions of their own.
const TABLES: [&str; 2] = ["TABLE", "FOREIGN TABLE"];
/// Kinds whose expressions are only parsed when the entry is restored, not computed.
const PARSED: [&str; 13] = [
    "VIEW",
    "MATERIALIZED VIEW",
    "FUNCTION",
    "PROCEDURE",
    "DOMAIN",
    "TYPE",
    "DEFAULT",
    "INDEX",
    "RULE",
    "POLICY",
    "TRIGGER",
    "CONSTRAINT",
    "STATISTICS",
];
/// Kinds that come last: they could disturb the foreign keys and checks that an owner adds, or they need them.
const LATE: [&str; 5] = ["EVENT TRIGGER", "MATERIALIZED VIEW DATA", "ROW SECURITY", "POLICY", "DEFAULT ACL"];
/// How pg_dump writes a constant: `'value'::type`.
const CONSTANT: &str = "'::";
/// Words in a table's statement that make the server compute an expression while the table is created.
const COMPUTED: [&str; 3] = ["PARTITION BY", "GENERATED ALWAYS AS (", CONSTANT];
/// The word for an aggregate's initial value, which the server computes while the aggregate is created.
const FIRST_VALUE: &str = "INITCOND";
/// The server itself decides who is a member of this role, so no login can be made a member of it.
const DATABASE_OWNER: &str = "pg_database_owner";

/// Whether the plan needs the statements of an entry.
pub(super) fn is_wanted(kind: &str, _: &str) -> bool {
    PARSED.contains(&kind) || TABLES.contains(&kind) || matches!(kind, "TABLE DATA" | "AGGREGATE" | "FK CONSTRAINT")
}

/// The roles of a server.
pub(super) struct Roles {
    pub(super) superusers: BTreeSet<String>,
    pub(super) ordinary: BTreeSet<String>,
}

impl Roles {
    fn is_trusted(&self, owner: &str) -> bool {
        owner.is_empty() || self.superusers.contains(owner)
    }

    /// Whether the role exists here and a login can be made that acts as it.
    pub(super) fn is_there(&self, owner: &str) -> bool {
        self.ordinary.contains(owner) && owner != DATABASE_OWNER
    }
}

/// The role that restores an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Superuser,
    /// The ordinary role that owns the entry.
    Owner(String),
    /// A role whose only right is to insert rows into the tables of its pass.
    Nobody,
}

/// The rights that a role needs for a pass. Names are in quotes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Schemas that the pass uses.
    pub(super) schemas: BTreeSet<String>,
    /// Schemas in which the pass creates something.
    pub(super) makes_in: BTreeSet<String>,
    /// Tables that get rows.
    pub(super) inserts: BTreeSet<String>,
    /// Tables that foreign keys refer to.
    pub(super) references: BTreeSet<String>,
}

/// The entries of one run of pg_restore.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) who: Who,
    /// The dump ids of the entries.
    pub(super) entries: Vec<i64>,
    pub(super) needs: Needs,
}

/// All passes, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) passes: Vec<Pass>,
    /// Entries that run the code of ordinary roles, but that only a superuser can restore. The user is warned of them.
    pub(super) left: Vec<String>,
}

/// Plans the restore of a dump. The entries need the statements that [`is_wanted`] names.
pub(super) fn plan(head: &Archive, roles: &Roles) -> Plan {
    let planner = Planner::new(head, roles);
    let mut left = Vec::new();
    let who: Vec<Who> = head.entries.iter().enumerate().map(|(index, entry)| planner.who(index, entry, &mut left)).collect();
    let mut passes: Vec<Pass> = Vec::new();
    let mut waiting: Vec<Vec<usize>> = vec![Vec::new(); STAGES];
    for (index, stage) in stages(head).into_iter().enumerate() {
        waiting.get_mut(stage).into_iter().for_each(|stage| stage.push(index));
    }
    for mut stage in waiting {
        // Within a stage the roles take turns. Each takes all entries that are its own and need none of the others'
        // remaining ones.
        let mut turn = Who::Superuser;
        while !stage.is_empty() {
            let (taken, rest) = planner.round(&stage, &who, &turn);
            match passes.last_mut() {
                _ if taken.is_empty() => {}
                // Also across stages: fewer passes are fewer runs of pg_restore.
                Some(last) if last.who == turn => last.entries.extend(taken),
                _ => passes.push(Pass { who: turn, entries: taken, needs: Needs::default() }),
            }
            // The owner of the first remaining entry goes next. Nothing before that entry remains, so at least this
            // one is taken, and the loop ends.
            turn = rest.first().and_then(|first| who.get(*first)).cloned().unwrap_or(Who::Superuser);
            stage = rest;
        }
    }
    for pass in &mut passes {
        pass.needs = if pass.who == Who::Superuser { Needs::default() } else { planner.needs(&pass.entries) };
    }
    Plan { passes, left }
}

/// The role that has to load this table's rows.
pub(super) fn who_loads(head: &Archive, data: &Entry, roles: &Roles) -> Who {
    let index = head.entries.iter().position(|entry| entry.dump_id == data.dump_id);
    index.map_or(Who::Nobody, |index| Planner::new(head, roles).who(index, data, &mut Vec::new()))
}

/// The stages of a restore: definitions; rights on them; rows; indexes, keys and triggers; and the kinds in [`LATE`].
const STAGES: usize = 5;

/// The stage of each entry. An entry is never in an earlier stage than one that it needs.
fn stages(head: &Archive) -> Vec<usize> {
    let mut of: HashMap<i64, usize> = HashMap::new();
    let mut section = Section::PreData;
    let mut stages = Vec::with_capacity(head.entries.len());
    for entry in &head.entries {
        // Rights and comments have no section: they belong to the entries before them.
        section = entry.section.unwrap_or(section);
        let is_late = LATE.contains(&entry.kind.as_str());
        let own = match section {
            Section::PreData => usize::from(entry.kind == "ACL"),
            Section::Data => 2,
            Section::PostData => 3 + usize::from(is_late || entry.kind == "ACL"),
        };
        let stage = entry.dependencies.iter().filter_map(|id| of.get(id)).copied().fold(own, usize::max);
        of.insert(entry.dump_id, stage);
        stages.push(stage);
    }
    stages
}

struct Planner<'a> {
    entries: &'a [Entry],
    roles: &'a Roles,
    /// Places in `entries`, by dump id.
    index: HashMap<i64, usize>,
    /// Entries that use code of ordinary roles, directly or through others.
    code: Vec<bool>,
    /// Entries that use domains of ordinary roles, directly or through others.
    domains: Vec<bool>,
    /// Entries whose rows can reach code or tables of ordinary roles. For this a partitioned table also uses its
    /// partitions, since rows are routed into them.
    rows: Vec<bool>,
}

impl<'a> Planner<'a> {
    fn new(head: &'a Archive, roles: &'a Roles) -> Self {
        let entries = head.entries.as_slice();
        let index: HashMap<i64, usize> = entries.iter().enumerate().map(|(index, entry)| (entry.dump_id, index)).collect();
        let uses: Vec<Vec<usize>> =
            entries.iter().map(|entry| entry.dependencies.iter().filter_map(|id| index.get(id)).copied().collect()).collect();
        // A TABLE ATTACH entry depends on both tables. The edges from the tables back to it connect each of them with
        // the other.
        let mut parts = uses.clone();
        for (attach, of) in
            entries.iter().enumerate().filter(|(_, entry)| entry.kind == "TABLE ATTACH").filter_map(|(at, _)| Some((at, uses.get(at)?)))
        {
            of.iter().for_each(|table| parts.get_mut(*table).into_iter().for_each(|uses| uses.push(attach)));
        }
        let is_of = |kinds: &[&str], entry: &Entry| kinds.contains(&entry.kind.as_str()) && !roles.is_trusted(&entry.owner);
        let code = reaching(entries, &uses, |entry| is_of(&CODE, entry));
        let domains = reaching(entries, &uses, |entry| is_of(&["DOMAIN"], entry));
        let rows = reaching(entries, &parts, |entry| is_of(&CODE, entry) || is_of(&TABLES, entry));
        Planner { entries, roles, index, code, domains, rows }
    }

    /// The role that restores an entry. Wherever something is not known, code is assumed to run: the entry then has
    /// fewer rights than it could have, and never more than it should.
    fn who(&self, index: usize, entry: &Entry, left: &mut Vec<String>) -> Who {
        let is = |reached: &[bool]| reached.get(index).copied().unwrap_or(true);
        let (kind, owner) = (entry.kind.as_str(), self.owner(entry));
        let is_foreign = !self.roles.is_trusted(owner);
        // A definition that was too long to be kept may have any of the words.
        let has = |words: &[&str]| entry.definition.as_ref().is_none_or(|text| words.iter().any(|word| text.contains(word)));
        let runs_code = match kind {
            // These read or write rows. The table's own expressions run, and through partitions and references those of
            // other tables.
            "TABLE DATA" | "CHECK CONSTRAINT" | "FK CONSTRAINT" => is_foreign || is(&self.rows),
            "TABLE ATTACH" | "STATISTICS DATA" => is(&self.code),
            "AGGREGATE" => is(&self.domains) && has(&[FIRST_VALUE]),
            kind if TABLES.contains(&kind) => is(&self.code) && has(&COMPUTED),
            kind if PARSED.contains(&kind) => self.uses_domain(entry) && has(&[CONSTANT]),
            _ => false,
        };
        match runs_code {
            false => Who::Superuser,
            true if self.roles.is_there(owner) && self.owns_all(entry) => Who::Owner(owner.to_owned()),
            // Nobody can act as its owner, or the owner is a superuser. Loading rows needs only the right to insert.
            true if kind == "TABLE DATA" => Who::Nobody,
            true => {
                left.push(format!("{kind} {}", entry.full_name()));
                Who::Superuser
            }
        }
    }

    /// Whether an entry uses a domain of an ordinary role through one of its dependencies. The entry itself does not
    /// count: creating a domain does not run its own CHECK.
    fn uses_domain(&self, entry: &Entry) -> bool {
        let used = entry.dependencies.iter().filter_map(|id| self.index.get(id));
        used.into_iter().any(|index| self.domains.get(*index).copied().unwrap_or(true))
    }

    /// The owner of an entry. A dump names none for statistics; they belong to the owner of their table.
    fn owner(&self, entry: &'a Entry) -> &'a str {
        let of = || self.uses(entry).find(|entry| !entry.owner.is_empty());
        let entry = if entry.owner.is_empty() && entry.kind == "STATISTICS DATA" { of().unwrap_or(entry) } else { entry };
        &entry.owner
    }

    /// Whether the owner may do this alone. To attach a partition, a role has to own both tables.
    fn owns_all(&self, entry: &Entry) -> bool {
        entry.kind != "TABLE ATTACH"
            || self.uses(entry).filter(|table| TABLES.contains(&table.kind.as_str())).all(|table| table.owner == entry.owner)
    }

    fn uses(&self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        entry.dependencies.iter().filter_map(|id| self.entries.get(*self.index.get(id)?))
    }

    /// Splits the entries of a stage into those that `turn` restores now and the rest. An entry stays in the rest if it
    /// needs one of the rest.
    fn round(&self, stage: &[usize], who: &[Who], turn: &Who) -> (Vec<i64>, Vec<usize>) {
        let (mut taken, mut rest, mut missing) = (Vec::new(), Vec::new(), HashSet::new());
        for index in stage {
            let Some(entry) = self.entries.get(*index) else { continue };
            if who.get(*index) == Some(turn) && !entry.dependencies.iter().any(|id| missing.contains(id)) {
                taken.push(entry.dump_id);
            } else {
                missing.insert(entry.dump_id);
                rest.push(*index);
            }
        }
        (taken, rest)
    }

    /// The rights that the entries of a pass need.
    fn needs(&self, ids: &[i64]) -> Needs {
        let mut needs = Needs::default();
        for entry in ids.iter().filter_map(|id| self.entries.get(*self.index.get(id)?)) {
            let schemas = self.uses(entry).chain([entry]).filter_map(|entry| entry.schema.as_deref());
            needs.schemas.extend(schemas.map(sql::quote));
            match entry.kind.as_str() {
                "TABLE DATA" => {
                    // The table in the statement can be another one than the entry's: pg_dump can load rows through the
                    // root of the partitions.
                    let named = entry.copy_statement.as_deref().and_then(|text| table_after(text, "COPY"));
                    needs.inserts.extend(named.clone().map(|(_, table)| table));
                    needs.schemas.extend(named.map(|(schema, _)| schema));
                }
                "FK CONSTRAINT" => {
                    let named = entry.definition.as_deref().and_then(|text| table_after(text, "REFERENCES"));
                    needs.references.extend(named.clone().map(|(_, table)| table));
                    needs.schemas.extend(named.map(|(schema, _)| schema));
                }
                _ => needs.makes_in.extend(entry.schema.as_deref().map(sql::quote)),
            }
        }
        needs
    }
}

/// The table that a statement names after this word: its schema, and schema and table. Both are in quotes.
fn table_after(text: &str, word: &str) -> Option<(String, String)> {
    let words = sql::words(text);
    let at = words.iter().position(|token| token.kind == sql::Kind::Word && token.text == word)?;
    let mut rest = words.get(at + 1..)?.iter();
    let schema = sql::quote(&rest.next()?.name()?);
    let table = rest.next().filter(|dot| dot.text == ".").and_then(|_| rest.next())?.name()?;
    Some((schema.clone(), format!("{schema}.{}", sql::quote(&table))))
}

/// For each entry whether it is `wanted` or uses such an entry, directly or through others.
fn reaching(entries: &[Entry], uses: &[Vec<usize>], wanted: impl Fn(&Entry) -> bool) -> Vec<bool> {
    debug_assert_eq!(entries.len(), uses.len(), "one list of used entries for each entry");
    // The edges turned round: who uses this entry.
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); entries.len()];
    for (user, used) in uses.iter().enumerate() {
        used.iter().for_each(|used| users.get_mut(*used).into_iter().for_each(|users| users.push(user)));
    }
    let mut reached = vec![false; entries.len()];
    let mut fresh: Vec<usize> = entries.iter().enumerate().filter(|(_, entry)| wanted(entry)).map(|(index, _)| index).collect();
    while let Some(index) = fresh.pop() {
        match reached.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            // Seen before. Partitions and their tables use each other, so without this the loop would not end.
            _ => continue,
        }
        fresh.extend(users.get(index).into_iter().flatten());
    }
    reached
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Number, kind, name, owner, what it needs, statement.
    type Row = (i64, &'static str, &'static str, &'static str, &'static [i64], &'static str);

    fn archive(rows: &[Row]) -> Archive {
        let section = |kind: &str| match kind {
            "ACL" | "COMMENT" => None,
            "TABLE DATA" | "SEQUENCE SET" => Some(Section::Data),
            "INDEX" | "FK CONSTRAINT" | "CHECK CONSTRAINT" | "EVENT TRIGGER" => Some(Section::PostData),
            _ => Some(Section::PreData),
        };
        let entry = |(dump_id, kind, name, owner, dependencies, text): &Row| Entry {
            dump_id: *dump_id,
            kind: (*kind).to_owned(),
            section: section(kind),
            schema: Some("s".to_owned()),
            name: (*name).to_owned(),
            owner: (*owner).to_owned(),
            has_data: *kind == "TABLE DATA",
            file: None,
            file_at: 0,
            is_copy: *kind == "TABLE DATA",
            dependencies: dependencies.to_vec(),
            tablespace: None,
            definition: Some((*text).to_owned()),
            copy_statement: (*kind == "TABLE DATA").then(|| (*text).to_owned()),
            digest: [0; 32],
        };
        Archive {
            minor_version: 14,
            database: "db".to_owned(),
            server_version: "15".to_owned(),
            dump_version: "15".to_owned(),
            entries: rows.iter().map(entry).collect(),
            blocks: Vec::new(),
            data_offset: 0,
            len: 0,
            widths: (4, 8),
        }
    }

    fn planned(rows: &[Row]) -> (Vec<(Who, Vec<i64>)>, Vec<String>) {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let roles = Roles { superusers: names(&["root"]), ordinary: names(&["app", "other"]) };
        let Plan { passes, left } = plan(&archive(rows), &roles);
        (passes.into_iter().map(|pass| (pass.who, pass.entries)).collect(), left)
    }

    #[test]
    fn each_owner_loads_its_rows_after_rights_are_there() {
        let app = || Who::Owner("app".to_owned());
        let rows: &[Row] = &[
            (1, "TABLE", "a", "app", &[], ""),
            (2, "ACL", "a", "app", &[1], ""),
            (3, "TABLE", "b", "root", &[], ""),
            (4, "TABLE DATA", "a", "app", &[1], "COPY s.a (n) FROM stdin;"),
            (5, "TABLE DATA", "b", "root", &[3], "COPY s.b (n) FROM stdin;"),
            (6, "EVENT TRIGGER", "e", "root", &[], ""),
            (7, "INDEX", "i", "app", &[1], "CREATE INDEX i ON s.a USING btree (n);"),
            (8, "FK CONSTRAINT", "f", "app", &[1, 7], "ALTER TABLE ONLY s.a ADD CONSTRAINT f FOREIGN KEY (n) REFERENCES s.\"B\"(n);"),
            (9, "COMMENT", "f", "app", &[8], ""),
        ];
        let expected = vec![
            (Who::Superuser, vec![1, 3, 2, 5]),
            (app(), vec![4]),
            (Who::Superuser, vec![7]),
            (app(), vec![8]),
            (Who::Superuser, vec![9, 6]),
        ];
        assert_eq!(planned(rows), (expected, Vec::new()));
        let roles = Roles { superusers: ["root".to_owned()].into(), ordinary: ["app".to_owned()].into() };
        let head = archive(rows);
        let needs = Planner::new(&head, &roles).needs(&[4, 8]);
        assert_eq!(needs.inserts, ["\"s\".\"a\"".to_owned()].into());
        assert_eq!(needs.references, ["\"s\".\"B\"".to_owned()].into());
        assert!(needs.makes_in.is_empty());
    }

    #[test]
    fn what_makes_code_run_is_made_by_its_owner() {
        let app = || Who::Owner("app".to_owned());
        let rows: &[Row] = &[
            (1, "FUNCTION", "f", "app", &[], "SELECT 'x'::text"),
            (2, "DOMAIN", "d", "app", &[1], "CREATE DOMAIN s.d AS text CHECK (s.f(VALUE) > '1'::text);"),
            (3, "TABLE", "plain", "app", &[2], "CREATE TABLE s.plain (d s.d);"),
            (4, "TABLE", "computed", "app", &[1], "CREATE TABLE s.computed (n int GENERATED ALWAYS AS (s.f(1)) STORED);"),
            (5, "VIEW", "v", "app", &[2], "CREATE VIEW s.v AS SELECT '{1}'::s.d[];"),
            (6, "VIEW", "w", "root", &[2], "CREATE VIEW s.w AS SELECT '{1}'::s.d[];"),
            (7, "TABLE", "trusting", "root", &[2], "CREATE TABLE s.trusting (d s.d);"),
            (8, "TABLE", "lost", "missing", &[], "CREATE TABLE s.lost (n int);"),
            (9, "TABLE DATA", "trusting", "root", &[7], "COPY s.trusting (d) FROM stdin;"),
            (10, "TABLE DATA", "lost", "missing", &[8], "COPY s.lost (n) FROM stdin;"),
            (11, "CHECK CONSTRAINT", "c", "root", &[7, 1], ""),
        ];
        let expected =
            vec![(Who::Superuser, vec![1, 2, 3, 6, 7, 8]), (app(), vec![4, 5]), (Who::Nobody, vec![9, 10]), (Who::Superuser, vec![11])];
        assert_eq!(planned(rows), (expected, vec!["VIEW s.w".to_owned(), "CHECK CONSTRAINT s.c".to_owned()]));
    }

    #[test]
    fn a_dump_of_superusers_is_one_pass() {
        let rows: &[Row] = &[
            (1, "TABLE", "a", "root", &[], "CREATE TABLE s.a (n int CHECK (n > '1'::int));"),
            (2, "TABLE DATA", "a", "root", &[1], "COPY s.a (n) FROM stdin;"),
            (3, "FK CONSTRAINT", "f", "root", &[1], ""),
        ];
        assert_eq!(planned(rows), (vec![(Who::Superuser, vec![1, 2, 3])], Vec::new()));
    }
}
