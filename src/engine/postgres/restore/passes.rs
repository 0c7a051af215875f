//! Which entries of a dump a superuser restores, and which have the code of ordinary roles run, so that somebody else does.
//!
//! PostgreSQL runs the expressions of a table with the rights of who writes rows: CHECK constraints, domains, generated columns, keys of partitions. Besides it computes,
//! with the rights of who gives the statement:
//!
//! - functions of constants, where an expression is prepared: of generated columns and keys of partitions when a table is made (`contain_mutable_functions_after_planning`,
//!   `ComputePartitionAttrs`), of those and of CHECK constraints when a partition is attached, of indexes when a foreign key is checked by a query;
//! - constants of composite types and arrays in any statement, when it is parsed: if a domain is inside, its CHECK;
//! - the first value of an aggregate, if its type is a domain.
//!
//! All of these are given to the owner. What the dump does not say, as what a function's body calls, makes no difference: whatever is called has the owner's rights.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::sql;
use crate::engine::postgres::archive::{Archive, Entry, Section};

/// Kinds of entries whose owners choose what runs when they are used.
const CODE: [&str; 5] = ["FUNCTION", "PROCEDURE", "AGGREGATE", "OPERATOR", "DOMAIN"];
/// Tables have expressions of their own.
const TABLES: [&str; 2] = ["TABLE", "FOREIGN TABLE"];
/// Kinds whose statements have expressions that are parsed and not computed.
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
/// Kinds that would stand in the way of foreign keys and checks that their owner adds, or need those.
const LATE: [&str; 5] = ["EVENT TRIGGER", "MATERIALIZED VIEW DATA", "ROW SECURITY", "POLICY", "DEFAULT ACL"];
/// How pg_dump writes a constant, and what is computed when a table or an aggregate is made.
const CONSTANT: &str = "'::";
const COMPUTED: [&str; 3] = ["PARTITION BY", "GENERATED ALWAYS AS (", CONSTANT];
const FIRST_VALUE: &str = "INITCOND";
/// A role that has other members by itself.
const DATABASE_OWNER: &str = "pg_database_owner";

/// Whether the statements of an entry are needed to make a plan.
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

    /// Whether there is such a role that somebody else can act as.
    pub(super) fn is_there(&self, owner: &str) -> bool {
        self.ordinary.contains(owner) && owner != DATABASE_OWNER
    }
}

/// Who restores.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Superuser,
    /// An ordinary role that owns what is restored.
    Owner(String),
    /// A role that has no rights but to put rows into these tables.
    Nobody,
}

/// What a role has to be allowed to for a pass. Names are in quotes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) schemas: BTreeSet<String>,
    /// Schemas that something is made in.
    pub(super) makes_in: BTreeSet<String>,
    pub(super) inserts: BTreeSet<String>,
    pub(super) references: BTreeSet<String>,
}

/// What is restored at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pass {
    pub(super) who: Who,
    /// The numbers of entries.
    pub(super) entries: Vec<i64>,
    pub(super) needs: Needs,
}

/// All passes, in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) passes: Vec<Pass>,
    /// What has others' code run and can only be restored by a superuser.
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
        let mut turn = Who::Superuser;
        while !stage.is_empty() {
            let (taken, rest) = planner.round(&stage, &who, &turn);
            match passes.last_mut() {
                _ if taken.is_empty() => {}
                Some(last) if last.who == turn => last.entries.extend(taken),
                _ => passes.push(Pass { who: turn, entries: taken, needs: Needs::default() }),
            }
            turn = rest.first().and_then(|first| who.get(*first)).cloned().unwrap_or(Who::Superuser);
            stage = rest;
        }
    }
    for pass in &mut passes {
        pass.needs = if pass.who == Who::Superuser { Needs::default() } else { planner.needs(&pass.entries) };
    }
    Plan { passes, left }
}

/// Who has to load this table's rows.
pub(super) fn who_loads(head: &Archive, data: &Entry, roles: &Roles) -> Who {
    let index = head.entries.iter().position(|entry| entry.dump_id == data.dump_id);
    index.map_or(Who::Nobody, |index| Planner::new(head, roles).who(index, data, &mut Vec::new()))
}

/// Definitions; rights on them; rows; indexes, keys, triggers; and [`LATE`].
const STAGES: usize = 5;

/// The stage of each entry. None is before one that it needs.
fn stages(head: &Archive) -> Vec<usize> {
    let mut of: HashMap<i64, usize> = HashMap::new();
    let mut section = Section::PreData;
    let mut stages = Vec::with_capacity(head.entries.len());
    for entry in &head.entries {
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
    index: HashMap<i64, usize>,
    /// Entries that use, by whatever way, code of ordinary roles; such domains; and such code or tables, where partitions and what they are parts of use each other.
    code: Vec<bool>,
    domains: Vec<bool>,
    rows: Vec<bool>,
}

impl<'a> Planner<'a> {
    fn new(head: &'a Archive, roles: &'a Roles) -> Self {
        let entries = head.entries.as_slice();
        let index: HashMap<i64, usize> = entries.iter().enumerate().map(|(index, entry)| (entry.dump_id, index)).collect();
        let uses: Vec<Vec<usize>> =
            entries.iter().map(|entry| entry.dependencies.iter().filter_map(|id| index.get(id)).copied().collect()).collect();
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

    fn who(&self, index: usize, entry: &Entry, left: &mut Vec<String>) -> Who {
        let is = |reached: &[bool]| reached.get(index).copied().unwrap_or(true);
        let (kind, owner) = (entry.kind.as_str(), self.owner(entry));
        let is_foreign = !self.roles.is_trusted(owner);
        let has = |words: &[&str]| entry.definition.as_ref().is_none_or(|text| words.iter().any(|word| text.contains(word)));
        let runs_code = match kind {
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
            true if kind == "TABLE DATA" => Who::Nobody,
            true => {
                left.push(format!("{kind} {}", entry.full_name()));
                Who::Superuser
            }
        }
    }

    /// A domain's own definition computes nothing of its own CHECK.
    fn uses_domain(&self, entry: &Entry) -> bool {
        let used = entry.dependencies.iter().filter_map(|id| self.index.get(id));
        used.into_iter().any(|index| self.domains.get(*index).copied().unwrap_or(true))
    }

    /// Statistics name no owner in a dump.
    fn owner(&self, entry: &'a Entry) -> &'a str {
        let of = || self.uses(entry).find(|entry| !entry.owner.is_empty());
        let entry = if entry.owner.is_empty() && entry.kind == "STATISTICS DATA" { of().unwrap_or(entry) } else { entry };
        &entry.owner
    }

    /// Who attaches a partition has to own it and what it becomes a part of.
    fn owns_all(&self, entry: &Entry) -> bool {
        entry.kind != "TABLE ATTACH"
            || self.uses(entry).filter(|table| TABLES.contains(&table.kind.as_str())).all(|table| table.owner == entry.owner)
    }

    fn uses(&self, entry: &'a Entry) -> impl Iterator<Item = &'a Entry> {
        entry.dependencies.iter().filter_map(|id| self.entries.get(*self.index.get(id)?))
    }

    /// Takes what this one can restore now: nothing that needs what others have to restore before.
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

    fn needs(&self, ids: &[i64]) -> Needs {
        let mut needs = Needs::default();
        for entry in ids.iter().filter_map(|id| self.entries.get(*self.index.get(id)?)) {
            let schemas = self.uses(entry).chain([entry]).filter_map(|entry| entry.schema.as_deref());
            needs.schemas.extend(schemas.map(sql::quote));
            match entry.kind.as_str() {
                "TABLE DATA" => {
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

/// Schema and table, in quotes, that come after this word.
fn table_after(text: &str, word: &str) -> Option<(String, String)> {
    let words = sql::words(text);
    let at = words.iter().position(|token| token.kind == sql::Kind::Word && token.text == word)?;
    let mut rest = words.get(at + 1..)?.iter();
    let schema = sql::quote(&rest.next()?.name()?);
    let table = rest.next().filter(|dot| dot.text == ".").and_then(|_| rest.next())?.name()?;
    Some((schema.clone(), format!("{schema}.{}", sql::quote(&table))))
}

/// The entries that are `wanted`, or use one of these.
fn reaching(entries: &[Entry], uses: &[Vec<usize>], wanted: impl Fn(&Entry) -> bool) -> Vec<bool> {
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); entries.len()];
    for (user, used) in uses.iter().enumerate() {
        used.iter().for_each(|used| users.get_mut(*used).into_iter().for_each(|users| users.push(user)));
    }
    let mut reached = vec![false; entries.len()];
    let mut fresh: Vec<usize> = entries.iter().enumerate().filter(|(_, entry)| wanted(entry)).map(|(index, _)| index).collect();
    while let Some(index) = fresh.pop() {
        match reached.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
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
