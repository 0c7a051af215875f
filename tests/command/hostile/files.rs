//! Backups of trees that somebody else changes meanwhile: what is stored was in the tree.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime};

use icecore::engine::files::{FilesOptions, FilesSource};
use icecore::engine::sqlite::{ContentWhen, SqliteOptions};
use icecore::engine::{Body, Source};
use icecore::progress::Silent;
use rusqlite::Connection;

use super::attacker::Scene;

fn options() -> FilesOptions {
    let sqlite =
        SqliteOptions { busy_timeout: Duration::ZERO, temp_dir: None, clock: || SystemTime::UNIX_EPOCH, content: ContentWhen::Always };
    FilesOptions { sqlite, exclude: Vec::new() }
}

fn database(path: &Path, word: &str) {
    let conn = Connection::open(path).unwrap();
    conn.execute_batch(&format!("CREATE TABLE t(word TEXT); INSERT INTO t VALUES ('{word}')")).unwrap();
}

/// All that a backup stores, as text, with somebody acting before the stream of that number is asked for; and whether there was one.
fn stored(root: &Path, at: usize, act: &dyn Fn()) -> (String, bool) {
    let source = FilesSource::new(vec![root.to_path_buf()], options()).unwrap();
    if at == 0 {
        act();
    }
    let known = HashMap::new();
    let Ok(mut capture) = source.capture(&known, &Silent) else { return (String::new(), true) };
    let (mut text, mut number) = (String::new(), 0);
    loop {
        number += 1;
        if number == at {
            act();
        }
        let Some(stream) = capture.next_stream().unwrap() else { return (text, number >= at) };
        let mut bytes = Vec::new();
        match stream.body {
            Body::Bytes(mut input) => drop(input.read_to_end(&mut bytes).unwrap()),
            Body::Pages(pages) => {
                bytes.resize(pages.len_bytes() as usize, 0);
                pages.read_at(0, &mut bytes).unwrap();
            }
            _ => {}
        }
        let meta = stream.meta.unwrap();
        text.push_str(&format!("{} {:o} {:?}\n", String::from_utf8_lossy(&stream.name), meta.mode, stream.kind));
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
}

/// Directories, files and databases become links to somebody else's, before each stream in turn.
#[test]
fn nothing_from_outside_is_stored() {
    for (name, outside) in
        [("home/tree", ""), ("home", ""), ("home/tree/etc", "etc"), ("home/tree/a.db", "b.db"), ("home/tree/etc/c.db", "b.db")]
    {
        let mut at = 0;
        loop {
            let scene = Scene::new();
            let root = scene.theirs.join("home/tree");
            fs::create_dir_all(root.join("etc/deep")).unwrap();
            for file in ["0", "etc/0", "etc/deep/file", "etc/file", "z"] {
                fs::write(root.join(file), "theirs").unwrap();
            }
            database(&root.join("a.db"), "theirs");
            database(&root.join("etc/c.db"), "theirs");
            // With a second name: it is read when all others have been.
            fs::hard_link(root.join("etc/c.db"), root.join("etc/d.db")).unwrap();
            database(&scene.outside.join("b.db"), "precious");
            database(&scene.outside.join("etc/c.db"), "precious");
            fs::create_dir_all(scene.outside.join("tree/etc")).unwrap();
            fs::write(scene.outside.join("tree/etc/file"), "precious").unwrap();
            std::os::unix::fs::symlink("precious", scene.outside.join("etc/link")).unwrap();
            let before = scene.untouched();
            let (text, acted) = stored(&root, at, &|| scene.turn(name, outside));
            assert!(!text.contains("precious"), "{name} at {at}: {text}");
            assert_eq!(scene.untouched(), before, "{name} at {at}");
            if !acted {
                assert!(at > 8 && text.contains("etc/deep/file"), "{at}: {text}");
                break;
            }
            at += 1;
        }
    }
}
