//! The picture in README shows what the program prints.

use std::path::Path;

use crate::place::Place;

#[test]
fn the_picture_is_what_the_program_prints() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/record_demo.py");
    let place = Place::new();
    let mut python = place.program("python3");
    let output = python.arg(script).arg("--check").current_dir("/").env("ICECORE_BIN", env!("CARGO_BIN_EXE_icecore")).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}
