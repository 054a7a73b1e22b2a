//! What `docs/test-writer.md` tells somebody to type does what it says.

use std::{fs, path::Path, time::Duration};

use holdfast_tests::{
    FixtureError,
    holdfast::{binary, test_writer},
    process::{capture, command},
};

const MANUAL: &str = include_str!("../../../docs/test-writer.md");

/// The blocks of a language, one after the other.
fn blocks(language: &str) -> String {
    let begin = format!("```{language}\n");
    MANUAL.split(&begin).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_commands_of_the_manual_do_what_it_says() -> Result<(), FixtureError> {
    let folder = tempfile::tempdir().expect("a folder");
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    for program in [binary(), test_writer()] {
        let name = program.file_name().unwrap_or_default();
        std::os::unix::fs::symlink(program, bin.join(name)).expect("a link");
    }
    let here = folder.path().join("here");
    fs::create_dir(&here).expect("a folder");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = format!("{}:{}", bin.display(), Path::new(&path).display());
    let mut shell = command("sh");
    // What the developer has set for himself must not leak into it.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HOLDFAST_")) {
        shell.env_remove(name);
    }
    shell.args(["-eu", "-c", &blocks("sh")]).current_dir(&here).env("PATH", path);
    let output = capture(&mut shell, Duration::from_secs(120))?;
    let said = format!("{}{}", output.text(), output.stderr);
    assert!(output.status.success(), "{said}");
    for line in blocks("text").lines() {
        assert!(said.lines().any(|known| known == line), "`{line}` is not said:\n{said}");
    }
    Ok(())
}
