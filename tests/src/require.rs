//! What a test needs of the machine. On a laptop a test without it says "skipped"; with `CI` set it fails, so that
//! no promise goes unchecked where it counts.
//!
//! ```no_run
//! # use holdfast_tests::require::{require_root_or_skip, require_tool};
//! fn a_test() {
//!     let (Some(()), Some(_cfssl)) = (require_root_or_skip(), require_tool("cfssl")) else { return };
//!     // …
//! }
//! ```

use std::{
    env,
    path::{Path, PathBuf},
};

/// `None` (and a line on standard error) if this process is not root.
///
/// # Panics
/// With `CI` set.
#[must_use]
pub fn require_root_or_skip() -> Option<()> {
    if rustix::process::geteuid().is_root() { Some(()) } else { skip("needs root") }
}

/// The path of a program on `PATH`, `/usr/sbin` or `/sbin`; `None` (and a line on standard error) without it.
///
/// # Panics
/// With `CI` set.
#[must_use]
pub fn require_tool(name: &str) -> Option<PathBuf> {
    find_program(name).or_else(|| skip(&format!("needs the program `{name}`; run `make deps`")))
}

/// A program of one of the Python environments that `make deps` builds, e.g. `("moto", "moto_server")`.
///
/// # Panics
/// With `CI` set.
#[must_use]
pub fn require_venv(environment: &str, program: &str) -> Option<PathBuf> {
    let path = deps_dir().join(environment).join("bin").join(program);
    if path.is_file() { Some(path) } else { skip(&format!("needs {}; run `make deps`", path.display())) }
}

/// Where `make deps` puts what is not a system package: `$HOLDFAST_DEPS`, or `.deps` at the workspace's root.
#[must_use]
pub fn deps_dir() -> PathBuf {
    env::var_os("HOLDFAST_DEPS").map_or_else(|| workspace_root().join(".deps"), PathBuf::from)
}

/// The root of the workspace this crate was built in.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Says that a test was skipped and why; `None`, so that it can end a lookup.
///
/// # Panics
/// With `CI` set: there, what cannot run has failed.
#[expect(clippy::print_stderr, reason = "a skipped test must say so to whoever runs it")]
pub fn skip<T>(why: &str) -> Option<T> {
    assert!(env::var_os("CI").is_none(), "in CI nothing is skipped: {why}");
    eprintln!("skipped: {why}");
    None
}

/// Debian keeps `mkfs.*`, `losetup` and `fsfreeze` out of a user's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
