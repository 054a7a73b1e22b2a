//! What is written in Python is tested in Python; this runs those tests along with all others.
//!
//! A test of theirs that the machine lacks something for says so; with `CI` set that is a failure, as everywhere.

use std::{env, path::Path, time::Duration};

use holdfast_tests::{
    process::{capture, command},
    require::{require_tool, workspace_root},
};

/// Runs the tests of one folder in a child process.
fn unittest(folder: &str) {
    let Some(python) = require_tool("python3") else { return };
    let folder = workspace_root().join(folder);
    assert!(has_tests(&folder), "no tests in {}", folder.display());
    let mut tests = command(python);
    tests.args(["-B", "-W", "error::ResourceWarning", "-m", "unittest", "-v"]).current_dir(&folder);
    let output = capture(&mut tests, Duration::from_secs(900)).expect("python3 -m unittest");
    assert!(output.status.success(), "{}", output.stderr);
    let skipped: Vec<_> = output.stderr.lines().filter(|line| line.contains("... skipped")).collect();
    assert!(skipped.is_empty() || env::var_os("CI").is_none(), "in CI nothing is skipped: {skipped:#?}");
}

fn has_tests(folder: &Path) -> bool {
    let names = folder.read_dir().expect("the folder").filter_map(Result::ok).map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).any(|name| name.starts_with("test_"))
}

#[test]
fn the_module_for_writers_in_python_keeps_its_promises() {
    unittest("writer-api/python");
}

#[test]
fn the_example_writer_for_redis_keeps_its_promises() {
    if require_tool("redis-server").is_some() {
        unittest("writers/examples/redis");
    }
}

#[test]
fn the_example_writer_for_mariadb_keeps_its_promises() {
    if let (Some(_), Some(_)) = (require_tool("mariadbd"), require_tool("age")) {
        unittest("writers/examples/mariadb");
    }
}
