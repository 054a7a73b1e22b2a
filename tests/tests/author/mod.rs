//! Somebody who writes a writer: a home, `holdfast` and `cargo` on the PATH, and what he types taken from documents.

use std::{
    env, fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run, binary},
    process::capture,
    require::workspace_root,
};

/// A build from nothing, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(900);

/// Everything is in a world of its own: also what documents put below `/etc`, `/usr/lib` and `/srv`.
pub struct Author {
    world: Holdfast,
}

impl Author {
    pub fn new() -> Result<Self, FixtureError> {
        let mut world = Holdfast::new()?;
        for folder in ["home", "bin", "srv", "etc", "lib"] {
            fs::create_dir(world.root().join(folder)).expect("a folder");
        }
        let bin = world.root().join("bin");
        symlink(binary(), bin.join("holdfast")).expect("a link");
        fs::write(bin.join("cargo"), cargo()).expect("written");
        chmod(&bin.join("cargo"), 0o755);
        let path = env::var("PATH").expect("a PATH");
        world.set_environment("PATH", &format!("{}:{path}", bin.display()));
        Ok(Self { world })
    }

    /// Where he works.
    pub fn home(&self) -> PathBuf {
        self.world.root().join("home")
    }

    /// A script as a shell runs it that stops at the first failure, in his home.
    pub fn types(&self, script: &str) -> Result<Run, FixtureError> {
        self.types_at(Path::new(""), script)
    }

    /// The same in a folder below.
    pub fn types_at(&self, folder: &Path, script: &str) -> Result<Run, FixtureError> {
        let script = self.here(script);
        let mut shell = self.world.command_of(Path::new("sh"), ["-eu", "-c", &script])?;
        let ended = capture(shell.current_dir(self.home().join(folder)), LIMIT)?;
        Ok(Run {
            code: ended.status.code(),
            signal: None,
            stdout: ended.text(),
            stderr: ended.stderr,
            took: ended.took,
        })
    }

    /// Adds to the configuration.
    pub fn configures(&mut self, toml: &str) {
        let toml = self.here(toml);
        let writers = self.world.root().join("etc/writers");
        self.world.config().append(&format!("{toml}\n[plugins]\npaths = [{writers:?}]\n"));
    }

    /// The machine's folders are the world's.
    fn here(&self, text: &str) -> String {
        let root = self.world.root().display();
        let places = [("/etc/holdfast", "etc"), ("/usr/lib/holdfast", "lib"), ("/srv/", "srv/")];
        places
            .iter()
            .fold(text.to_owned(), |text, (there, here)| text.replace(there, &format!("{root}/{here}")))
    }
}

/// Cargo as it has to be here: nothing is fetched, so the versions are those of the workspace; what was built before is
/// used again, and nobody waits for an optimizer.
fn cargo() -> String {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let lock = workspace_root().join("Cargo.lock");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("author");
    fs::create_dir_all(&target).expect("a folder");
    format!(
        "#!/bin/sh
[ -e Cargo.lock ] || cp {lock:?} .
[ -e target ] || ln -s {target:?} target
unset CARGO_TARGET_DIR
export CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=0
exec {cargo:?} \"$@\"
"
    )
}

/// The blocks of a language in a document.
pub fn blocks(document: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let ends = |rest: &str| rest.split("```").next().unwrap_or_default().to_owned();
    document.split(&begin).skip(1).map(ends).collect()
}

pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}
