//! Shadow copies of a session that fails: providers that miss their deadline, or cannot remove what they made.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use holdfast::failure::Exit;
use holdfast::provider::{
    Atomicity, DeleteShadow, NotSupported, Pending, PreparedShadow, Provider, ProviderDescriptor,
    ProviderError, ShadowArea, ShadowCopy, ShadowRecord, ShadowRequest,
};
use holdfast::session::BackupOptions;
use holdfast::volume::{FileSelection, Volume};

use crate::support::Scene;

/// Notices its deadline long after it, as one whose call the kernel does not let go.
pub static LATE: ProviderDescriptor =
    descriptor("late", || Box::new(Late { name: "late", delete: |_| Ok(()) }));

/// The same, and what it made cannot be removed.
pub static STICKY: ProviderDescriptor = descriptor("sticky", || {
    let delete: DeleteShadow =
        |record| Err(ProviderError::DeleteRefused { path: record.path.clone(), problem: "as asked" });
    Box::new(Late { name: "sticky", delete })
});

const fn descriptor(name: &'static str, build: fn() -> Box<dyn Provider>) -> ProviderDescriptor {
    ProviderDescriptor { name, atomicity: Atomicity::None, summary: "for tests", build }
}

struct Late {
    name: &'static str,
    delete: DeleteShadow,
}

struct Prepared(Pending);

impl Provider for Late {
    fn name(&self) -> &'static str {
        self.name
    }
    fn atomicity(&self) -> Atomicity {
        Atomicity::None
    }
    fn supports(&self, _: &Volume, _: &[FileSelection], _: &ShadowArea) -> Result<(), NotSupported> {
        Ok(())
    }
    fn prepare(&self, request: ShadowRequest) -> Result<Box<dyn PreparedShadow>, ProviderError> {
        let (state, area) = (&request.area.state_dir, PathBuf::from("/nowhere"));
        let record = ShadowRecord::new(state, request.set, self.name, &request.volume, &area);
        Ok(Box::new(Prepared(Pending::begin(record, self.delete)?)))
    }
    fn delete(&self, record: &ShadowRecord) -> Result<(), ProviderError> {
        (self.delete)(record)
    }
}

impl PreparedShadow for Prepared {
    fn estimate(&self) -> Duration {
        Duration::ZERO
    }
    fn commit(&mut self, deadline: Instant, _: &AtomicBool) -> Result<(), ProviderError> {
        let late = deadline + Duration::from_secs(2);
        std::thread::sleep(late.saturating_duration_since(Instant::now()));
        Err(ProviderError::DeadlineExceeded { late_ms: 2000 })
    }
    fn finish(self: Box<Self>) -> Result<ShadowCopy, ProviderError> {
        unreachable!("nothing was cut")
    }
    fn abort(self: Box<Self>) -> Result<(), ProviderError> {
        self.0.undo()
    }
}

/// Goal: "no shadow copy is left" is true when it is said, also of a cut that was still under way at its deadline.
#[tokio::test]
async fn a_cut_that_misses_its_deadline_keeps_nobody_held_and_is_removed_before_the_session_ends() {
    let scene = Scene::new();
    let writers = [scene.writer_cut_by("a", "late")];
    let failure = scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::FreezeAborted, "{failure:?}");
    assert!(failure.state.ends_with("no application is held; no shadow copy is left"), "{}", failure.state);
    scene.nothing_is_left(false);
    let log = scene.logs();
    let at = |event: &str| {
        let line =
            log.lines().find(|line| line.contains(event)).unwrap_or_else(|| panic!("{event} in {log}"));
        serde_json::from_str::<serde_json::Value>(line).unwrap()["at_ns"].as_u64().unwrap()
    };
    let held = at(r#""event":"thaw-done""#) - at(r#""event":"freeze-started""#);
    assert!(held < 1_500_000_000, "it was held for {held} ns, as long as the cut took");
}

#[tokio::test]
async fn a_shadow_copy_that_cannot_be_removed_is_said_to_be_left() {
    let scene = Scene::new();
    let failure =
        scene.backup(&[scene.writer_cut_by("a", "sticky")], &BackupOptions::default()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::FreezeAborted, "{failure:?}");
    assert!(failure.state.ends_with("a shadow copy is left: `holdfast gc` removes it"), "{}", failure.state);
    assert!(scene.is_free("a"));
    assert_eq!(holdfast::provider::list(&scene.paths.state).unwrap().records.len(), 1);
    assert!(scene.logs().contains(r#""event":"leftover""#), "{}", scene.logs());
}
