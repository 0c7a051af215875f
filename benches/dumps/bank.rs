//! The database that is dumped: what pgbench makes, and a table of text that people edit.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::Result;
use crate::common::prose::Prose;
use crate::common::rng::Rng;
use crate::server::{Server, run};

/// Of each unit of scale (100,000 accounts), the rows of text; their text is about 4 MB.
const NOTES: u64 = 6_000;
/// Of each unit of scale, pgbench's transactions in a step: each changes one account.
const TRANSACTIONS: u32 = 400;
/// Of 1,000 rows of text, how many a step changes, inserts and deletes.
const CHANGED: u64 = 5;
const INSERTED: u64 = 3;
const DELETED: u64 = 2;
/// Steps from one VACUUM to the next: updated rows then go to places that became free.
const VACUUM_STEPS: u32 = 3;

/// A server with the database.
pub struct Bank {
    server: Server,
    scale: u32,
    prose: Prose,
    /// The first id that was never given to a row of text.
    next_note: u64,
}

impl Bank {
    /// Makes the database.
    ///
    /// # Errors
    /// What PostgreSQL's programs say.
    pub fn start(scale: u32, bin: Option<PathBuf>) -> Result<Self> {
        Self::on(Server::start(bin)?, scale)
    }

    /// Makes it on a new server that runs.
    ///
    /// # Errors
    /// What PostgreSQL's programs say.
    pub fn on(server: Server, scale: u32) -> Result<Self> {
        run(server.client("pgbench").args(["-i", "-q", "-s", &scale.to_string()]), "")?;
        server.sql("CREATE TABLE notes (id bigint PRIMARY KEY, topic bigint NOT NULL, title text NOT NULL, body text NOT NULL);")?;
        let mut bank = Bank { server, scale, prose: Prose::new(1), next_note: 0 };
        let mut rng = Rng::new(1, "notes");
        let mut left = bank.notes();
        while left > 0 {
            let count = left.min(NOTES);
            let rows = bank.rows(&mut rng, count);
            bank.server.sql(&rows)?;
            left -= count;
        }
        bank.server.sql("CREATE INDEX notes_topic ON notes (topic, title); VACUUM ANALYZE;")?;
        Ok(bank)
    }

    /// Where it is.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The same, to be changed.
    pub fn server_mut(&mut self) -> &mut Server {
        &mut self.server
    }

    fn notes(&self) -> u64 {
        u64::from(self.scale) * NOTES
    }

    /// New rows, for psql.
    fn rows(&mut self, rng: &mut Rng, count: u64) -> String {
        let mut text = String::from("COPY notes FROM STDIN;\n");
        for _ in 0..count {
            let (topic, bytes) = (rng.below(1 << 20), rng.between(100, 1_100) as usize);
            let mut title = String::new();
            self.prose.sentence(rng, topic, &mut title);
            let body = self.prose.text(rng, topic, bytes).replace('\n', "\\n");
            writeln!(text, "{}\t{topic}\t{title}\t{body}", self.next_note).expect("a String takes any text");
            self.next_note += 1;
        }
        text.push_str("\\.\n");
        text
    }

    /// What happens between two dumps.
    ///
    /// # Errors
    /// What PostgreSQL's programs say.
    pub fn step(&mut self, n: u32) -> Result<()> {
        let mut rng = Rng::new(u64::from(n), "edits");
        let transactions = (TRANSACTIONS * self.scale).to_string();
        run(self.server.client("pgbench").args(["-n", "-c", "1", "-t", &transactions, "--random-seed", &n.to_string()]), "")?;
        let mut edits = String::from("BEGIN;\n");
        for _ in 0..self.notes() * CHANGED / 1_000 {
            let (id, topic) = (rng.below(self.next_note), rng.next());
            let mut sentence = String::new();
            self.prose.sentence(&mut rng, topic, &mut sentence);
            writeln!(edits, "UPDATE notes SET body = body || ' {sentence}' WHERE id = {id};").expect("a String takes any text");
        }
        for _ in 0..self.notes() * DELETED / 1_000 {
            writeln!(edits, "DELETE FROM notes WHERE id = {};", rng.below(self.next_note)).expect("a String takes any text");
        }
        let inserted = self.rows(&mut rng, self.notes() * INSERTED / 1_000);
        self.server.sql(&format!("{edits}{inserted}COMMIT;\n"))?;
        if n.is_multiple_of(VACUUM_STEPS) {
            self.server.sql("VACUUM;")?;
        }
        Ok(())
    }

    /// Puts the rows of both tables into another order.
    ///
    /// # Errors
    /// What psql says.
    pub fn cluster(&self) -> Result<()> {
        self.server
            .sql("CLUSTER pgbench_accounts USING pgbench_accounts_pkey; CLUSTER notes USING notes_topic; VACUUM FULL pgbench_tellers;")
    }

    /// Dumps the database into a file.
    ///
    /// # Errors
    /// What pg_dump says.
    pub fn dump(&self, custom: bool, to: &Path) -> Result<()> {
        let mut command = self.server.client("pg_dump");
        if custom {
            command.args(["-Fc", "-Z0"]);
        }
        let status = command.stdin(Stdio::null()).stdout(File::create(to)?).status()?;
        if status.success() { Ok(()) } else { Err(format!("pg_dump: {status}").into()) }
    }
}
