//! Named points at which a test may stop a command, to look around or to kill it there.
//!
//! Exists in debug builds only: `HOLDFAST_PAUSE_AT=frozen` writes `paused-at-frozen` into the runtime
//! folder and waits.

use crate::paths::Paths;

#[cfg(debug_assertions)]
pub fn at(paths: &Paths, name: &str) {
    let wanted = std::env::var_os("HOLDFAST_PAUSE_AT");
    if wanted.is_some_and(|wanted| wanted == name) {
        let _ = std::fs::write(paths.runtime.join(format!("paused-at-{name}")), name);
        let released = paths.runtime.join("go-on");
        for _ in 0..6000 {
            if released.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[cfg(not(debug_assertions))]
pub fn at(_: &Paths, _: &str) {}
