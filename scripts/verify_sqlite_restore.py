#!/usr/bin/env python3
"""Recovery smoke test: seeds a memory and a model registry in SQLite, runs the backup and the restore script, and asks the restored files
what the originals would have answered. Writes .data/restore-verify/verification.json below the current directory; exits with 1 on a failure.
`icecore drill` does the same without Python."""

import datetime
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
import time

SCRIPTS = pathlib.Path(__file__).resolve().parent
TOPICS = ["glacier", "harbour", "violin", "comet", "orchard", "lantern", "compass"]
MEMORIES = 1000
MODELS = {"recall-small": ["archived", "production", "staging"], "rank": ["production", "staging"]}


def seed(memory, registry):
    with sqlite3.connect(memory) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE memory(id INTEGER PRIMARY KEY, body TEXT NOT NULL)")
        db.execute("CREATE VIRTUAL TABLE recall USING fts5(body, content='memory', content_rowid='id')")
        rows = [(i, f"memory {i} is about the {TOPICS[i % len(TOPICS)]}, token t{i * 7919}") for i in range(1, MEMORIES + 1)]
        db.executemany("INSERT INTO memory VALUES (?, ?)", rows)
        db.execute("INSERT INTO recall(recall) VALUES ('rebuild')")
    db.close()
    with sqlite3.connect(registry) as db:
        db.execute("CREATE TABLE history(id INTEGER PRIMARY KEY, model TEXT, version INTEGER, stage TEXT)")
        rows = [(model, version, stage) for model, stages in MODELS.items() for version, stage in enumerate(stages, 1)]
        db.executemany("INSERT INTO history(model, version, stage) VALUES (?, ?, ?)", rows)
    db.close()


def recall_is_right(memory):
    db = sqlite3.connect(memory)
    found = {topic: [row[0] for row in db.execute("SELECT rowid FROM recall WHERE recall MATCH ? ORDER BY rowid", [topic])] for topic in TOPICS}
    single = [row[0] for row in db.execute("SELECT rowid FROM recall WHERE recall MATCH ?", [f"t{500 * 7919}"])]
    db.close()
    expected = {topic: [i for i in range(1, MEMORIES + 1) if TOPICS[i % len(TOPICS)] == topic] for topic in TOPICS}
    return found == expected and single == [500], f"{sum(map(len, found.values()))} memories recalled by {len(TOPICS)} topics"


def history_is_right(registry):
    db = sqlite3.connect(registry)
    found = {}
    for model, stage in db.execute("SELECT model, stage FROM history ORDER BY model, version"):
        found.setdefault(model, []).append(stage)
    db.close()
    return found == MODELS, f"{sum(map(len, found.values()))} versions of {len(found)} models"


def integrity(path):
    db = sqlite3.connect(path)
    lines = [row[0] for row in db.execute("PRAGMA integrity_check")]
    db.close()
    return lines == ["ok"], "; ".join(lines[:10])


def run(*command):
    done = subprocess.run(["bash", *map(str, command)], text=True, capture_output=True)
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}")


def main():
    work = pathlib.Path.cwd() / ".data" / "restore-verify"
    scratch = work / "scratch"
    # Only what an earlier run of this script has left.
    shutil.rmtree(scratch, ignore_errors=True)
    (scratch / "source").mkdir(parents=True)
    # The test leaves the store's own repository alone.
    for name in ["ICECORE_REPOSITORY", "ICECORE_PASSWORD", "ICECORE_PASSWORD_FILE", "ICECORE_PASSWORD_COMMAND"]:
        os.environ.pop(name, None)
    source = [scratch / "source" / name for name in ("brainstem.db", "model_registry.db")]
    restored = [scratch / "restored" / name for name in ("brainstem.db", "model_registry.db")]
    out = scratch / "backups" / "latest"
    started = datetime.datetime.now(datetime.timezone.utc)
    seed(*source)
    run(SCRIPTS / "backup_sqlite.sh", "--memory-db", source[0], "--registry-db", source[1], "--out-dir", out)
    began = time.monotonic()
    run(SCRIPTS / "restore_sqlite.sh", "--backup-dir", out, "--memory-db", restored[0], "--registry-db", restored[1])
    checks = []
    for check, stream, (passed, detail) in [
        ("integrity", "memory.db", integrity(restored[0])),
        ("recall", "memory.db", recall_is_right(restored[0])),
        ("integrity", "model_registry.db", integrity(restored[1])),
        ("history", "model_registry.db", history_is_right(restored[1])),
    ]:
        checks.append({"check": check, "stream": stream, "outcome": "passed" if passed else "failed", "detail": detail})
    recovery_ms = (time.monotonic() - began) * 1000
    report = {
        "schema": 1,
        "passed": all(check["outcome"] == "passed" for check in checks),
        "started": started.isoformat(),
        "snapshot": json.loads((out / "manifest.json").read_text())["snapshot"],
        "recovery_ms": round(recovery_ms, 1),
        "checks": checks,
    }
    path = work / "verification.json"
    fresh = path.with_suffix(".json.new")
    fresh.write_text(json.dumps(report, indent=2) + "\n")
    os.replace(fresh, path)
    shutil.rmtree(scratch)
    for check in checks:
        print(f"{check['outcome']:<7} {check['check']:<10} {check['stream']}: {check['detail']}")
    print(f"restore and verification took {recovery_ms / 1000:.1f} s; report in {path}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
