//! Makes and changes a small SQLite database for scripts/quickstart.sh: `demo_store FILE create|change`.

use rusqlite::{Connection, params};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(what)) = (args.next(), args.next()) else { return Err("usage: demo_store FILE create|change".into()) };
    let db = Connection::open(path)?;
    let words = ["snapshot", "memory", "recall", "model", "registry", "page", "delta", "restore", "verify", "history", "chunk", "ice"];
    let sentence = |n: i64| -> String {
        let pick = |k: i64| words.get(((n * 2_654_435_761 + k * k * 40_503) % words.len() as i64) as usize).copied().unwrap_or_default();
        (0..40).map(pick).collect::<Vec<_>>().join(" ")
    };
    let tx = db.unchecked_transaction()?;
    if what == "create" {
        tx.execute_batch(
            "CREATE TABLE memory(id INTEGER PRIMARY KEY, body TEXT, seen INTEGER); CREATE INDEX memory_seen ON memory(seen);",
        )?;
        for n in 0..40_000 {
            tx.execute("INSERT INTO memory(body, seen) VALUES (?1, ?2)", params![sentence(n), n % 977])?;
        }
    } else {
        tx.execute("UPDATE memory SET body = body || ' again' WHERE id % 1000 = 7", [])?;
        for n in 40_000..40_200 {
            tx.execute("INSERT INTO memory(body, seen) VALUES (?1, ?2)", params![sentence(n), n % 977])?;
        }
    }
    tx.commit()?;
    Ok(())
}
