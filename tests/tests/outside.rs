//! What a third party has: a crate with a writer that knows nothing but the contract, the same writer as a program, and
//! a requester of its own with the writer linked in. Built from a folder that is no part of the workspace, offline.
//!
//! Costs a build of the whole requester in a target folder of its own: about two minutes on two cores the first time
//! (no debug information, nothing incremental, without `s3`), some seconds after that.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    FixtureError,
    holdfast::Holdfast,
    process::{self, command},
    require::workspace_root,
    tree,
};

type Tested = Result<(), FixtureError>;

/// A build from nothing, on a machine with other things to do.
const BUILD: Duration = Duration::from_secs(1200);

/// A copy of `writers/examples/outside` away from the checkout.
struct Outside {
    folder: PathBuf,
    target: PathBuf,
}

impl Outside {
    /// Always at the same place, so that a second run builds little.
    fn copied() -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside");
        let (folder, target) = (place.join("folder"), place.join("target"));
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the copy of an earlier run");
        }
        let example = workspace_root().join("writers/examples/outside");
        for file in tree::files(&example) {
            let relative = file.strip_prefix(&example).expect("a file of the folder");
            // Whoever tried the example in its own place built it there.
            if relative.starts_with("target") || relative == Path::new("Cargo.lock") {
                continue;
            }
            let copy = folder.join(relative);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
            fs::copy(&file, &copy).expect("a copy");
        }
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("the manifest");
        let checkout = workspace_root().display().to_string();
        let pointed = manifest.replace("\"../../../", &format!("\"{checkout}/"));
        assert!(pointed.contains(&checkout) && !pointed.contains("\"../"), "{pointed}");
        fs::write(folder.join("Cargo.toml"), pointed).expect("the manifest");
        // The same versions; nothing is fetched.
        fs::copy(workspace_root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("the lock file");
        Self { folder, target }
    }

    /// What cargo says on standard error, and whether it is content.
    fn cargo(&self, arguments: &[&str]) -> Result<(bool, String), FixtureError> {
        let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(arguments).arg("--offline").arg("--target-dir").arg(&self.target);
        cargo.current_dir(&self.folder).env("CARGO_INCREMENTAL", "0");
        let done = process::capture(&mut cargo, BUILD)?;
        Ok((done.status.success(), done.stderr))
    }

    fn program(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }
}

#[test]
fn a_third_party_has_a_writer_a_program_of_it_and_a_requester_with_it() -> Tested {
    let outside = Outside::copied();
    let (built, said) = outside.cargo(&["build"])?;
    assert!(built, "{said}");

    let mut world = Holdfast::new()?;
    let book = world.root().join("guests");
    fs::create_dir(&book).expect("a folder");
    fs::write(book.join("book"), "Ada was here\nso was Grace\n").expect("the book");
    fs::write(book.join("lock"), "").expect("the lock");
    world.config().writer("guests", "guestbook").set("folder", &*book);

    // Linked in: nothing is installed anywhere.
    let requester = outside.program("my-holdfast");
    let run = |world: &Holdfast, arguments: &[&str]| {
        Holdfast::run_command(world.command_of(&requester, arguments)?)
    };
    let listed = run(&world, &["--json", "list", "writers"])?.success()?.json()?;
    assert_eq!(listed["writers"][0]["id"], "guests", "{listed}");
    assert_eq!(listed["writers"][0]["state"], "stable", "{listed}");
    run(&world, &["backup"])?.success()?;
    assert_eq!(world.json(["list", "backups"])?["backups"].as_array().map(Vec::len), Some(1));
    fs::remove_file(book.join("book")).expect("a disaster");
    run(&world, &["restore", "latest"])?.success()?;
    assert_eq!(fs::read_to_string(book.join("book")).expect("the book"), "Ada was here\nso was Grace\n");
    // What the writer says on standard error is in the log of the session.
    let logs = tree::files(&world.state_dir().join("sessions"));
    let told = logs.iter().any(|log| fs::read_to_string(log).expect("a log").contains("held for "));
    assert!(told, "the wrapper around the writer was not heard: {logs:?}");

    // The program is a writer for a requester that knows nothing of it.
    world.json(["list", "writers"]).expect_err("`guestbook` is not installed");
    let installed = world.root().join("writers");
    fs::create_dir(&installed).expect("a folder");
    fs::copy(outside.program("guestbook"), installed.join("guestbook")).expect("a program");
    for path in [&installed, &installed.join("guestbook")] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    world.config().append(&format!("[plugins]\npaths = [{installed:?}]\n"));
    world.run(["backup"])?.success()?;
    assert_eq!(world.json(["list", "backups"])?["backups"].as_array().map(Vec::len), Some(2));

    // Started by a person, it says what it is.
    let alone = process::capture(&mut command(installed.join("guestbook")), Duration::from_secs(10))?;
    assert_eq!(alone.status.code(), Some(2), "{}", alone.stderr);
    assert!(alone.stderr.contains("guestbook-writer: it is a writer, and started by"), "{}", alone.stderr);

    // A wrapper that forgets a method would answer with a default instead of the wrapped writer.
    let clippy = ["clippy", "--package", "guestbook-writer", "--lib"];
    let (content, said) = outside.cargo(&clippy)?;
    assert!(content, "{said}");
    let (content, said) = outside.cargo(&[&clippy[..], &["--features", "forgetful"]].concat())?;
    assert!(!content && said.contains("missing trait method provided by default: `seal_keys`"), "{said}");
    Ok(())
}
