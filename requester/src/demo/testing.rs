//! Applications as threads, copies by another process, and waiting for acknowledgements.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{APPLICATIONS, Hold, Places, ack, app};
use crate::session::events::now_ns;

/// The three applications as threads of this process.
pub(super) struct Threads {
    places: Places,
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<Result<(), app::AppError>>>,
}

impl Threads {
    pub(super) fn start(places: &Places) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |name: &'static str| {
            let (dir, stop) = (places.root().to_owned(), Arc::clone(&stop));
            std::thread::spawn(move || app::run_until(name, &dir, &stop))
        };
        let handles = APPLICATIONS.map(start).into();
        Self { places: places.clone(), stop, handles }
    }

    /// Until each has acknowledged `count` writes.
    pub(super) fn wait_for(&self, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for name in APPLICATIONS {
            while ack::count(&self.places.acks(), name).unwrap() < count {
                assert!(Instant::now() < deadline, "{name} is too slow");
                assert!(!self.handles.iter().any(JoinHandle::is_finished), "an application ended");
                std::thread::yield_now();
            }
        }
    }

    /// Ends them after the write under way.
    pub(super) fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for handle in self.handles.drain(..) {
            handle.join().unwrap().unwrap();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Copies the application folders below `from` to below `to`, in another process: closing a database file in this one
/// would drop SQLite's locks.
pub(super) fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").args(APPLICATIONS.map(|name| from.join(name))).arg(to);
    assert!(command.status().unwrap().success());
}

/// A hold of all applications at this moment.
pub(super) fn held_now() -> BTreeMap<String, Hold> {
    let now = now_ns();
    let hold = Hold { called_ns: now, taken_ns: now, released_ns: now };
    APPLICATIONS.map(|name| (name.to_owned(), hold)).into()
}
