//! Directories as what they are: given back by name, left out in part, with names of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use serde_json::{Value, json};

use super::run::Run;
use super::support::{Place, rows};
use super::xattrs::{ACCESS, acl, are_there, of, set};

fn names(place: &Place, snap: &str) -> Vec<String> {
    let listed = place.json(["ls", snap]);
    listed["streams"].as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap().to_owned()).collect()
}

fn write(place: &Place, names: &[&str]) {
    for name in names {
        fs::create_dir_all(place.path(name).parent().unwrap()).unwrap();
        fs::write(place.path(name), name).unwrap();
    }
}

#[test]
fn a_directory_of_a_snapshot_is_restored_by_its_name() {
    let place = Place::with_repository();
    write(&place, &["data/aaa", "data/app/conf/a", "data/app/conf/deep/b", "data/app/confused"]);
    place.database("data/app/conf/x.db", 20);
    fs::hard_link(place.path("data/aaa"), place.path("data/app/conf/same")).unwrap();
    symlink("a", place.path("data/app/conf/link")).unwrap();
    fs::set_permissions(place.path("data/app/conf"), PermissionsExt::from_mode(0o750)).unwrap();
    place.ok(["backup", "files", "data"]);

    let done = place.json(["restore", "latest", "app/conf/=out", "aaa=only"]);
    let mut restored: Vec<&str> = done["restored"].as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap()).collect();
    restored.sort_unstable();
    let below = ["a", "deep", "deep/b", "link", "same", "x.db"].map(|name| format!("app/conf/{name}"));
    assert_eq!(restored, ["aaa"].into_iter().chain(below.iter().map(String::as_str)).collect::<Vec<_>>());
    assert_eq!(fs::read_to_string(place.path("out/deep/b")).unwrap(), "data/app/conf/deep/b");
    assert_eq!(fs::read_to_string(place.path("out/same")).unwrap(), "data/aaa", "its first name is elsewhere");
    assert_eq!(fs::read_link(place.path("out/link")).unwrap(), Path::new("a"));
    assert_eq!((rows(&place.path("out/x.db")), place.path("out/confused").exists()), (20, false));
    assert_eq!(fs::metadata(place.path("out")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(fs::read_to_string(place.path("only")).unwrap(), "data/aaa");

    // Onto what is there: that is kept, as everywhere; the directory keeps its own mode.
    fs::write(place.path("out/a"), "mine").unwrap();
    fs::set_permissions(place.path("out"), PermissionsExt::from_mode(0o700)).unwrap();
    let done = place.json(["restore", "latest", "app/conf=out"]);
    let a = done["restored"].as_array().unwrap().iter().find(|stream| stream["name"] == "app/conf/a").unwrap();
    assert_eq!(fs::read_to_string(a["kept"][0]["path"].as_str().unwrap()).unwrap(), "mine");
    assert_eq!(fs::metadata(place.path("out")).unwrap().mode() & 0o7777, 0o700);
    // A directory that has no entry of its own.
    let sqlite = place.database("b.db", 5);
    place.ok(["backup", "sqlite", &format!("{}", sqlite.display())]);
    place.run(["restore", "latest", "--source", "b.db", "b=out"]).failed(1, &["no stream `b`"]);
    place.run(["restore", "latest", "--source", "data", "app=x", "--live"]).failed(2, &["SQLite"]);
    place.run(["restore", "latest", "--source", "data", "app=x", "aaa=x"]).failed(2, &["named twice"]);
    assert!(!place.path("x").exists());
}

#[test]
fn only_what_has_bytes_is_dumped() {
    let place = Place::with_repository();
    write(&place, &["data/a/file"]);
    fs::hard_link(place.path("data/a/file"), place.path("data/b")).unwrap();
    symlink("a", place.path("data/link")).unwrap();
    place.ok(["backup", "files", "data"]);
    place.run(["dump", "latest", "a"]).failed(2, &["a is a directory", "restore SNAP a=DIR"]);
    place.run(["dump", "latest", "link"]).failed(2, &["symbolic link to a"]);
    place.run(["dump", "latest", "none"]).failed(1, &["no stream `none`"]);
    assert_eq!(place.ok(["dump", "latest", "b"]).stdout, "data/a/file", "a further name has the same bytes");
    let done = place.json(["restore", "latest", "b=again"]);
    assert_eq!(done["restored"][0]["name"], "b");
    assert_eq!(fs::read_to_string(place.path("again")).unwrap(), "data/a/file");
}

#[test]
fn two_directories_of_one_name_are_in_one_snapshot() {
    let place = Place::with_repository();
    write(&place, &["srv/a/data/f", "srv/b/data/f"]);
    place.ok(["backup", "files", "srv/a/data", "srv/b/data"]);
    assert_eq!(names(&place, "latest"), ["a/data", "a/data/f", "b/data", "b/data/f"]);
    place.ok(["restore", "latest", "b/data=back"]);
    assert_eq!(fs::read_to_string(place.path("back/f")).unwrap(), "srv/b/data/f");
    place.ok(["restore", "latest", "b=above"]);
    assert_eq!(fs::read_to_string(place.path("above/data/f")).unwrap(), "srv/b/data/f");
    // Names that were given stay when a directory is added.
    place.ok(["backup", "files", "--source", "s", "one=srv/a/data"]);
    assert_eq!(names(&place, &place.newest()), ["one", "one/f"]);
    place.ok(["backup", "files", "--source", "s", "one=srv/a/data", "two=srv/b/data"]);
    assert_eq!(names(&place, &place.newest()), ["one", "one/f", "two", "two/f"]);
    place.run(["backup", "files", "one=srv/a/data", "one=srv/b/data"]).failed(2, &["NAME=PATH"]);
}

#[test]
fn what_is_left_out_is_said_and_is_not_missing() {
    let place = Place::with_repository();
    write(&place, &["data/keep", "data/x.log", "data/y.tmp", "data/z.log", "data/old.pre_restore.20261123T031500Z", "data/cache/x"]);
    fs::write(place.path("data/cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    fs::write(place.path("patterns"), "# of the team\n*.log\n\n*.tmp\n").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(place.path("data/socket")).unwrap();
    let args = ["backup", "files", "data", "--exclude-file", "patterns", "--exclude", "!z.log", "--exclude-caches", "--one-file-system"];
    let done = place.json(args);
    assert_eq!(names(&place, "latest"), ["cache", "cache/CACHEDIR.TAG", "keep", "z.log"]);
    let expected = json!({ "excluded": 2, "kept_by_restores": 1, "other_file_systems": 0, "caches": 1, "special_files": 1 });
    assert_eq!((&done["left_out"], &done["skipped"]), (&expected, &json!([])));
    let facts = place.json(["show", "latest"])["facts"].clone();
    assert_eq!(
        (&facts["exclude"], &facts["exclude-caches"], &facts["one-file-system"]),
        (&"*.log\n*.tmp\n!z.log".into(), &"yes".into(), &"yes".into())
    );
    let text = place.ok(args).stdout;
    assert!(
        text.contains("left out: 2 excluded, 1 kept or left behind by icecore itself (*.pre_restore.TIME and the like), 1 in caches, 1 special files (pipes, sockets, devices)"),
        "{text}"
    );
    place.run(["backup", "files", "data", "--exclude", "#x"]).failed(2, &["comment"]);
    place.run(["backup", "files", "data", "--exclude", "a{b"]).failed(2, &["not a valid pattern"]);
    place.run(["backup", "files", "data", "--exclude-file", "none"]).failed(1, &["none"]);
}

/// What a restore by an ordinary user cannot give back is open to nobody new: the group of the new file is another one.
#[test]
fn an_ordinary_user_opens_nothing_to_another_group() {
    let place = Place::with_repository();
    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can make files of others: left out");
        return;
    }
    write(&place, &["data/secret", "data/public", "data/theirs"]);
    for (name, mode) in [("secret", 0o640), ("public", 0o644), ("theirs", 0o604)] {
        fs::set_permissions(place.path("data").join(name), PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(place.path("data").join(name), Some(12345), Some(12345)).unwrap();
    }
    // Nobody may write to it, and its attributes come back all the same.
    write(&place, &["data/closed"]);
    let has_attributes = are_there(&place.path("data"), "user.x", b"");
    if has_attributes {
        set(&place.path("data/closed"), "user.x", b"y");
    }
    fs::set_permissions(place.path("data/closed"), PermissionsExt::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(place.path("data/closed"), Some(65_534), Some(65_534)).unwrap();
    place.ok(["backup", "files", "data"]);
    for found in walkdir::WalkDir::new(place.path("")) {
        let found = found.unwrap();
        fs::set_permissions(found.path(), PermissionsExt::from_mode(if found.file_type().is_dir() { 0o777 } else { 0o666 })).unwrap();
    }
    let mut command = place.command();
    command.args(["restore", "latest", "--to", "out"]).env("ICECORE_CACHE_DIR", place.path("theirs")).uid(65_534).gid(65_534);
    let run: Run = match command.output() {
        Ok(output) => output.into(),
        Err(e) => {
            eprintln!("another user cannot run the program: {e}; left out");
            return;
        }
    };
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    for (name, mode) in [("secret", 0o600), ("public", 0o644), ("theirs", 0o600)] {
        let restored = fs::metadata(place.path("out").join(name)).unwrap();
        assert_eq!((restored.mode() & 0o7777, restored.uid()), (mode, 65_534), "{name}");
    }
    assert_eq!(of(&place.path("out/closed")).contains_key("user.x"), has_attributes, "{}", run.stderr);
    let about: Vec<&str> = run.stderr.lines().filter(|line| line.contains("its group gets no more than others")).collect();
    assert_eq!(about.len(), 2, "{}", run.stderr);
}

#[test]
fn lists_are_shown_and_can_be_left_behind() {
    let place = Place::with_repository();
    write(&place, &["data/file"]);
    let list = acl(6, 6, 0, 6, 0);
    if !are_there(&place.path("data"), ACCESS, &list) || !are_there(&place.path("data"), "user.x", b"") {
        return;
    }
    set(&place.path("data/file"), ACCESS, &list);
    set(&place.path("data/file"), "user.why", b"because");
    let mode = |name: &str| fs::metadata(place.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("data/file"), 0o660);
    place.ok(["backup", "files", "data"]);
    let stream: Value = place.json(["ls", "latest"])["streams"][0].clone();
    assert_eq!((&stream["xattrs"], &stream["hole_bytes"]), (&json!([ACCESS, "user.why"]), &json!(0)));
    place.ok(["restore", "latest", "--to", "with"]);
    assert_eq!((mode("with/file"), of(&place.path("with/file"))), (0o660, of(&place.path("data/file"))));
    let narrowed = place.ok(["restore", "latest", "--to", "without", "--no-xattrs"]).stderr;
    assert!(narrowed.contains("1 access control list not restored"), "{narrowed}");
    assert_eq!((mode("without/file"), of(&place.path("without/file")).len()), (0o600, 0));
    place.ok(["restore", "latest", "file=single", "--no-xattrs"]);
    assert_eq!((mode("single"), of(&place.path("single")).len()), (0o600, 0));
    // An export belongs to the user who makes it.
    place.ok(["export", "latest", "flat"]);
    assert_eq!((mode("flat/file"), of(&place.path("flat/file")).len()), (0o600, 0));
    let narrowed = place.ok(["backup", "files", "data", "--no-xattrs"]).stderr;
    assert!(narrowed.contains("1 access control lists are not stored"), "{narrowed}");
    let stream = place.json(["ls", "latest"])["streams"][0].clone();
    assert_eq!((&stream["xattrs"], &stream["mode"]), (&json!([]), &json!("0600")));
}
