//! Where things are: repository, cache, names of streams and files, UTF-8 or not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::support::{Place, Run, rows};

#[test]
fn the_repository_is_the_argument_else_the_variable_else_the_default() {
    let place = Place::new();
    place.database("a.db", 1);
    let with = |args: &[&str]| -> Run { place.command().env("ICECORE_REPOSITORY", "two").args(args).output().unwrap().into() };
    for (args, directory) in [(&["-R", "one", "init", "--no-encryption"], "one"), (&["init", "--no-encryption", "-v", "--json"], "two")] {
        assert_eq!(with(args).code, Some(0));
        assert!(place.path(directory).join("config").is_file());
    }
    assert!(!place.path(".icecore").exists());
    place.ok(["init", "--no-encryption"]);
    assert!(place.path(".icecore/config").is_file());
    let empty: Run = place.command().env("ICECORE_REPOSITORY", "").arg("stats").output().unwrap().into();
    assert_eq!(empty.code, Some(0), "an empty variable counts as unset");
    std::fs::remove_dir_all(place.path(".icecore")).unwrap();
    let empty: Run = place.command().env("ICECORE_REPOSITORY", "").arg("stats").output().unwrap().into();
    empty.failed(
        10,
        &[
            "no repository at",
            ".icecore",
            "is the disk mounted and the path right?",
            "icecore init",
            "ICECORE_REPOSITORY is set, but empty",
        ],
    );
    place.run(["stats"]).failed(10, &["no repository at"]);
    let other: Run = place.command().env("ICECORE_REPOSITORY", "").args(["-R", "nowhere", "stats"]).output().unwrap().into();
    assert!(!other.stderr.contains("ICECORE_REPOSITORY"), "{}", other.stderr);
}

#[test]
fn the_cache_directory() {
    let place = Place::with_repository();
    let run = |variables: &[(&str, &OsStr)]| -> Run {
        let mut command = place.command();
        command.env_remove("ICECORE_CACHE_DIR").env_remove("HOME").envs(variables.iter().copied());
        command.arg("stats").output().unwrap().into()
    };
    let without = run(&[]);
    assert_eq!(without.code, Some(0), "{}", without.stderr);
    for name in ["ICECORE_CACHE_DIR", "XDG_CACHE_HOME", "HOME"] {
        assert!(without.stderr.contains(name), "{name} is not in {:?}", without.stderr);
    }
    let (home, xdg) = (place.path("home"), place.path("xdg"));
    assert_eq!(run(&[("HOME", home.as_os_str()), ("XDG_CACHE_HOME", xdg.as_os_str())]).code, Some(0));
    assert!(xdg.join("icecore").is_dir() && std::fs::read_dir(&home).unwrap().next().is_none());
    assert_eq!(run(&[("HOME", home.as_os_str()), ("XDG_CACHE_HOME", OsStr::new("relative"))]).code, Some(0));
    assert!(std::fs::read_dir(&home).unwrap().next().is_some());
}

#[test]
fn names_of_streams() {
    let place = Place::with_repository();
    std::fs::create_dir(place.path("sub")).unwrap();
    place.database("sub/a.db", 3);
    place.database("a=b.db", 4);
    place.run(["backup", "sqlite", "a.db", "sub/a.db"]).failed(2, &["a.db", "NAME=FILE"]);
    place.run(["backup", "sqlite", "a=b.db"]).failed(1, &["b.db"]);
    place.ok(["backup", "sqlite", "a.db", "other=sub/a.db", "./a=b.db"]);
    let names: Vec<String> =
        place.json(["ls", "latest"])["streams"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().into()).collect();
    assert_eq!(names, ["a.db", "a=b.db", "other"]);
    place.ok(["restore", "latest", "a=b.db=x=y.db", "other=new.db"]);
    assert_eq!((rows(&place.path("x=y.db")), rows(&place.path("new.db"))), (4, 3));
    place.run(["restore", "latest", "other"]).failed(2, &["NAME=DEST"]);
    place.run(["restore", "latest", "other=z.db", "a.db=z.db"]).failed(2, &["named twice"]);
    place.ok(["restore", "latest", "--to", "all"]);
    for (name, count) in [("a.db", 100), ("other", 3), ("a=b.db", 4)] {
        assert_eq!(rows(&place.path("all").join(name)), count);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn arguments_that_are_not_utf8() {
    let place = Place::with_repository();
    let odd = OsStr::from_bytes(b"\xff\xfe.db");
    std::fs::rename(place.path("a.db"), place.path(odd)).unwrap();
    let args =
        |first: &[&str], last: &OsStr| first.iter().map(|arg| OsStr::new(arg).to_owned()).chain([last.to_owned()]).collect::<Vec<_>>();
    place.run(args(&["backup", "sqlite"], odd)).failed(2, &["NAME=FILE"]);
    let named = [b"x=", odd.as_bytes()].concat();
    place.ok(args(&["backup", "sqlite"], OsStr::from_bytes(&named)));
    let to = OsStr::from_bytes(b"x=\xfd.db");
    let done = place.json(args(&["restore", "latest"], to));
    assert!(done["restored"][0]["path_hex"].as_str().unwrap().ends_with("fd2e6462"), "{done}");
    assert_eq!(rows(&place.path(OsStr::from_bytes(b"\xfd.db"))), 100);
    place.run(args(&["show"], odd)).failed(2, &[]);
    place.run(args(&["dump", "latest"], odd)).failed(1, &["no stream"]);
    place.run(args(&["frobnicate"], odd)).failed(2, &[]);
    place.run(args(&["snapshots", "-R"], odd)).failed(10, &["no repository"]);
}
