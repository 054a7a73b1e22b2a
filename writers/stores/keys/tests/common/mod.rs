//! Runs the real `openssl`, `age` and `python3` for the tests. Where one is missing the test says "skipped", and in
//! CI, where the variable `CI` is set, it fails.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::path::Path;
use std::process::Command;

/// Whether `program` can be run here. In CI it must.
pub fn available(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", "command -v \"$0\" > /dev/null", program]).status();
    if there.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "`{program}` must be installed in CI");
    eprintln!("skipped: `{program}` is not installed");
    false
}

/// Runs a shell script in `folder`, which must succeed; its standard output.
#[track_caller]
pub fn run(folder: &Path, script: &str) -> Vec<u8> {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
