//! Goal: wherever a restore dies, no live path is ever half restored, and going on or back ends right.
//! Method: the same restore over and over, stopped after step 0, 1, 2, … until none is left; then resumed, or rolled
//! back, that run stopped after each of its own steps too, and finished by a third.

use std::{
    cell::Cell,
    ffi::OsString,
    fs::{self, OpenOptions},
    ops::ControlFlow,
    path::PathBuf,
};

use uuid::Uuid;

use super::{
    About, Kind, NoSteps, OldData, Phase, Placement, Plan, Problem, Registry, RestoreError, Resumed, Steps,
    Undo, UnitSpec,
};

/// Stops after a given number of steps.
struct StopAfter(Cell<usize>);

impl Steps for StopAfter {
    fn reached(&self, _step: &'static str) -> ControlFlow<()> {
        match self.0.get().checked_sub(1) {
            Some(left) => {
                self.0.set(left);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        }
    }
}

fn after(steps: usize) -> StopAfter {
    StopAfter(Cell::new(steps))
}

struct Bench {
    top: tempfile::TempDir,
    registry: Registry,
    restore: Uuid,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Live {
    Old,
    Blocked,
    New,
}

impl Bench {
    fn new() -> Self {
        // Thousands of runs, each with dozens of fsyncs: in memory where there is such a place.
        let top = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let ca = top.path().join("srv");
        fs::create_dir_all(ca.join("keys")).unwrap();
        fs::write(ca.join("certs.db"), "old").unwrap();
        fs::write(ca.join("certs.db-wal"), "old wal").unwrap();
        fs::write(ca.join("certs.db-shm"), "old shm").unwrap();
        fs::write(ca.join("keys/ca.pem"), "old key").unwrap();
        fs::write(ca.join("other"), "not ours").unwrap();
        let registry = Registry::open(top.path()).unwrap();
        Self { top, registry, restore: Uuid::now_v7() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("srv").join(name)
    }

    fn specs(&self) -> Vec<UnitSpec> {
        let unit = |name: &str, kind, companions: &[&str]| UnitSpec {
            live: self.path(name),
            kind,
            companions: companions.iter().map(OsString::from).collect(),
        };
        vec![
            unit("certs.db", Kind::File, &["certs.db-wal", "certs.db-shm", "certs.db-journal"]),
            unit("keys/", Kind::Directory, &[]),
            unit("serial", Kind::File, &[]),
            unit("made/deep/crl", Kind::Directory, &[]),
            unit("made/deep/index", Kind::File, &[]),
        ]
    }

    fn about(&self) -> About {
        About {
            restore: self.restore,
            set: "set-1".into(),
            writer: "ca".into(),
            together: None,
            components: vec!["/ca/db".into()],
            confirmations: vec![],
        }
    }

    fn begin(&self, steps: &dyn Steps) -> Result<Placement, RestoreError> {
        Placement::begin(Plan::new(&self.specs()).unwrap(), self.about(), &self.registry, steps)
    }

    fn stage(&self, placement: &Placement) {
        let staged = |name| placement.staged_path(&self.path(name)).unwrap().to_owned();
        fs::write(staged("certs.db"), "new").unwrap();
        fs::write(staged("certs.db").with_file_name("certs.db-wal"), "new wal").unwrap();
        for folder in ["keys", "made/deep/crl"] {
            fs::create_dir(staged(folder)).unwrap();
            fs::write(staged(folder).join("ca.pem"), "new key").unwrap();
        }
        fs::write(staged("serial"), "new").unwrap();
        fs::write(staged("made/deep/index"), "new").unwrap();
    }

    fn forward(&self, steps: &dyn Steps) -> Result<Placement, RestoreError> {
        let mut placement = self.begin(steps)?;
        self.stage(&placement);
        placement.register(steps)?;
        self.go_on(&mut placement, steps)?;
        Ok(placement)
    }

    /// From registered to published.
    fn go_on(&self, placement: &mut Placement, steps: &dyn Steps) -> Result<(), RestoreError> {
        placement.block(steps)?;
        placement.recovery_done(steps)?;
        placement.publish(steps)
    }

    fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path(name)).ok()
    }

    /// What an application finds at each live path, by trying as one that runs as this user (root, in CI).
    fn look(&self, unit: &UnitSpec) -> Live {
        let name =
            unit.live.strip_prefix(self.path("")).unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
        let path = &self.path(&name);
        let had_old = matches!(name.as_str(), "certs.db" | "keys");
        let content = if unit.kind == Kind::File { name.clone() } else { format!("{name}/ca.pem") };
        match (self.text(&content).as_deref(), fs::symlink_metadata(path)) {
            (Some("new" | "new key"), _) => Live::New,
            (Some("old" | "old key"), _) => Live::Old,
            (None, Err(_)) if !had_old => Live::Old,
            (None, Ok(_)) => {
                if unit.kind == Kind::File {
                    let opened =
                        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
                    assert_eq!(opened.unwrap_err().kind(), std::io::ErrorKind::IsADirectory, "{name}");
                } else {
                    let made = fs::write(path.join("x"), "x").unwrap_err();
                    assert_eq!(made.kind(), std::io::ErrorKind::NotADirectory, "{name}");
                    assert!(fs::create_dir(path).is_err());
                }
                Live::Blocked
            }
            (found, there) => panic!("{name}: half restored, {found:?} {there:?}"),
        }
    }

    /// The promise, at any instant.
    fn assert_never_half(&self, context: &str) -> Vec<Live> {
        let lives: Vec<_> = self.specs().iter().map(|unit| self.look(unit)).collect();
        match lives.first() {
            Some(Live::Old) => {
                assert_eq!(self.text("certs.db-wal").as_deref(), Some("old wal"), "{context}");
                assert_eq!(self.text("certs.db-shm").as_deref(), Some("old shm"), "{context}");
            }
            Some(Live::New) => {
                assert_eq!(self.text("certs.db-wal").as_deref(), Some("new wal"), "{context}");
                assert_eq!(self.text("certs.db-shm"), None, "{context}");
            }
            Some(Live::Blocked) | None => {}
        }
        assert!(
            !(lives.contains(&Live::Old) && lives.contains(&Live::New)),
            "{context}: old beside new without a blocker between them: {lives:?}"
        );
        if lives.contains(&Live::Blocked) {
            let marker = self.registry.load(self.restore).expect("a blocked path has a marker");
            assert!(marker.phase.gates_start(), "{context}: {} {lives:?}", marker.phase);
        }
        assert_eq!(self.text("other").as_deref(), Some("not ours"));
        lives
    }

    fn assert_all(&self, expected: Live, context: &str) {
        let lives = self.assert_never_half(context);
        assert!(lives.iter().all(|live| *live == expected), "{context}: {lives:?}");
    }

    fn assert_nothing_left(&self, context: &str) {
        assert!(self.registry.list().unwrap().is_empty(), "{context}");
        for folder in [self.path(""), self.path("made/deep")] {
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let name = entry.unwrap().file_name();
                assert!(!name.to_string_lossy().starts_with(".holdfast"), "{context}: {name:?} left");
            }
        }
    }

    fn load(&self) -> Option<Placement> {
        match Placement::load(&self.registry, self.restore) {
            Ok(placement) => Some(placement),
            Err(RestoreError { problem: Problem::NoSuchRestore { .. }, .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Resumes and finishes; a stop is an error.
    fn finish(&self, steps: &dyn Steps) -> Result<(), RestoreError> {
        let Some(mut placement) = self.load() else { return Ok(()) };
        match placement.resume(steps)? {
            Resumed::Discarded | Resumed::RolledBack | Resumed::Removed => return Ok(()),
            Resumed::Blocked | Resumed::Recovered => {
                if placement.marker().phase == Phase::Blocked {
                    placement.recovery_done(steps)?;
                }
                placement.publish(steps)?;
            }
            Resumed::Published | Resumed::Settled => {}
        }
        placement.settle(OldData::Remove, steps)
    }

    fn undo(&self, steps: &dyn Steps) -> Result<(), RestoreError> {
        self.load().map_or(Ok(()), |mut placement| placement.rollback(Undo::EvenPublished, steps))
    }
}

fn stopped<T>(result: Result<T, RestoreError>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(RestoreError { problem: Problem::Stopped { .. }, .. }) => None,
        Err(error) => panic!("{error}: {:?}", error.problem),
    }
}

/// Runs `first` stopped after each step, then `second` stopped after each step, then `second` to its end.
fn sweep(
    first: impl Fn(&Bench, &dyn Steps) -> Result<(), RestoreError>,
    second: impl Fn(&Bench, &dyn Steps) -> Result<(), RestoreError>,
    at_end: impl Fn(&Bench, bool, &str),
) -> usize {
    for n in 0..1000 {
        let mut first_done = false;
        for m in 0..1000 {
            let context = format!("stopped after {n}, then after {m}");
            let bench = Bench::new();
            first_done = stopped(first(&bench, &after(n))).is_some();
            bench.assert_never_half(&context);
            let registered = bench.load().is_some_and(|p| p.marker().phase != Phase::Staging);
            let second_done = stopped(second(&bench, &after(m))).is_some();
            bench.assert_never_half(&context);
            second(&bench, &NoSteps).unwrap_or_else(|error| panic!("{context}: {error:?}"));
            at_end(&bench, registered, &context);
            bench.assert_nothing_left(&context);
            if second_done {
                break;
            }
        }
        if first_done {
            return n;
        }
    }
    panic!("the restore never ended");
}

#[test]
fn a_restore_that_dies_anywhere_is_finished_by_going_on() {
    let steps = sweep(
        |bench, steps| bench.forward(steps).map(drop),
        |bench, steps| bench.finish(steps),
        |bench, registered, context| {
            bench.assert_all(if registered { Live::New } else { Live::Old }, context);
            assert_eq!(bench.path("made").exists(), registered, "{context}");
        },
    );
    assert!(steps > 40, "only {steps} steps were swept");
}

#[test]
fn a_restore_that_dies_anywhere_can_be_undone() {
    let steps = sweep(
        |bench, steps| bench.forward(steps).map(drop),
        |bench, steps| bench.undo(steps),
        |bench, _, context| {
            bench.assert_all(Live::Old, context);
            assert!(!bench.path("made").exists(), "{context}");
        },
    );
    assert!(steps > 40, "only {steps} steps were swept");
}

#[test]
fn a_settled_restore_can_still_be_undone_from_any_step_of_keeping_the_old() {
    sweep(
        |bench, steps| {
            let mut placement = bench.forward(&NoSteps)?;
            placement.settle(OldData::Keep { until: None }, steps)
        },
        |bench, steps| bench.undo(steps),
        |bench, _, context| bench.assert_all(Live::Old, context),
    );
}

#[test]
fn what_the_application_made_of_the_new_data_goes_away_in_an_undo() {
    let bench = Bench::new();
    let mut placement = bench.forward(&NoSteps).unwrap();
    placement.settle(OldData::Keep { until: None }, &NoSteps).unwrap();
    fs::write(bench.path("serial.tmp"), "later").unwrap();
    fs::rename(bench.path("serial.tmp"), bench.path("serial")).unwrap();
    fs::write(bench.path("certs.db-journal"), "hot").unwrap();
    fs::remove_dir_all(bench.path("keys")).unwrap();
    let refused = placement.rollback(Undo::BeforePublish, &NoSteps).unwrap_err();
    assert!(matches!(refused.problem, Problem::AlreadyPublished { .. }), "{refused}");
    placement.rollback(Undo::EvenPublished, &NoSteps).unwrap();
    bench.assert_all(Live::Old, "undone");
    assert!(!bench.path("certs.db-journal").exists());
    bench.assert_nothing_left("undone");
}

#[test]
fn sqlite_can_neither_open_nor_create_a_blocked_database_nor_its_side_files() {
    let bench = Bench::new();
    let mut placement = bench.begin(&NoSteps).unwrap();
    bench.stage(&placement);
    placement.register(&NoSteps).unwrap();
    placement.block(&NoSteps).unwrap();
    for name in ["certs.db", "serial"] {
        let opened = rusqlite::Connection::open(bench.path(name))
            .and_then(|db| db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a)"));
        assert!(opened.is_err(), "{name}");
        for side in ["-wal", "-shm", "-journal"] {
            assert!(!bench.path(&format!("{name}{side}")).exists(), "{name}{side}");
        }
        let note = fs::read_to_string(bench.path(name).join("README"));
        if rustix::process::geteuid().is_root() {
            assert!(note.unwrap().contains("holdfast recover --writer ca"));
        }
    }
}

#[test]
fn a_live_file_replaced_between_plan_and_register_or_block_is_refused_untouched() {
    for when in ["register", "block"] {
        let bench = Bench::new();
        let mut placement = bench.begin(&NoSteps).unwrap();
        bench.stage(&placement);
        if when == "block" {
            placement.register(&NoSteps).unwrap();
        }
        fs::write(bench.path("swap"), "theirs").unwrap();
        fs::rename(bench.path("swap"), bench.path("certs.db")).unwrap();
        let error = if when == "block" { placement.block(&NoSteps) } else { placement.register(&NoSteps) };
        let error = error.unwrap_err();
        assert!(matches!(error.problem, Problem::LiveChanged { .. }), "{error}");
        assert_eq!(error.nothing_changed(), when == "register");
        placement.rollback(Undo::BeforePublish, &NoSteps).unwrap();
        assert_eq!(bench.text("certs.db").as_deref(), Some("theirs"));
        bench.assert_nothing_left(when);
    }
}

#[test]
fn links_and_a_replaced_parent_are_refused() {
    let bench = Bench::new();
    std::os::unix::fs::symlink("/etc/passwd", bench.path("link")).unwrap();
    let spec = |live: PathBuf| UnitSpec { live, kind: Kind::File, companions: vec![] };
    let error = Plan::new(&[spec(bench.path("link"))]).unwrap_err();
    assert!(matches!(error.problem, Problem::LiveNotPlain { .. }), "{error}");
    let plan = Plan::new(&[spec(bench.path("keys/ca.pem"))]).unwrap();
    fs::rename(bench.path("keys"), bench.path("moved")).unwrap();
    for link in [true, false] {
        if link {
            std::os::unix::fs::symlink("moved", bench.path("keys")).unwrap();
        } else {
            fs::remove_file(bench.path("keys")).unwrap();
            fs::create_dir(bench.path("keys")).unwrap();
        }
        let error = Placement::begin(plan.clone(), bench.about(), &bench.registry, &NoSteps).unwrap_err();
        assert!(
            matches!(error.problem, Problem::ParentIsLink { .. } | Problem::ParentChanged { .. }),
            "{error}"
        );
        assert!(error.nothing_changed());
        bench.assert_nothing_left("refused");
    }
}

#[test]
fn a_staging_folder_somebody_else_made_is_refused_and_left_alone() {
    let bench = Bench::new();
    let plan = Plan::new(&bench.specs()).unwrap();
    let theirs = bench.path("").join(super::registration::hidden_name(bench.restore));
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("x"), "theirs").unwrap();
    let error = Placement::begin(plan, bench.about(), &bench.registry, &NoSteps).unwrap_err();
    assert!(matches!(error.problem, Problem::StagingNotOurs { .. }), "{error}");
    assert_eq!(fs::read_to_string(theirs.join("x")).unwrap(), "theirs");
    assert!(bench.registry.list().unwrap().is_empty());
    bench.assert_all(Live::Old, "refused");
}

#[test]
fn overlapping_targets_and_a_second_restore_of_the_same_path_are_refused() {
    let bench = Bench::new();
    let spec = |name, kind| UnitSpec { live: bench.path(name), kind, companions: vec![] };
    let error = Plan::new(&[spec("keys", Kind::Directory), spec("keys/ca.pem", Kind::File)]).unwrap_err();
    assert!(matches!(error.problem, Problem::Overlap { .. }), "{error}");
    bench.begin(&NoSteps).unwrap();
    let about = About { restore: Uuid::now_v7(), ..bench.about() };
    let plan = Plan::new(&[spec("keys/ca.pem", Kind::File)]).unwrap();
    let error = Placement::begin(plan, about, &bench.registry, &NoSteps).unwrap_err();
    assert!(matches!(error.problem, Problem::Busy { .. }), "{error}");
}

#[test]
fn a_side_file_that_appears_while_blocked_stops_publishing_until_it_is_gone() {
    let bench = Bench::new();
    let mut placement = bench.begin(&NoSteps).unwrap();
    bench.stage(&placement);
    placement.register(&NoSteps).unwrap();
    placement.block(&NoSteps).unwrap();
    placement.recovery_done(&NoSteps).unwrap();
    fs::write(bench.path("certs.db-journal"), "hot").unwrap();
    let error = placement.publish(&NoSteps).unwrap_err();
    assert!(matches!(error.problem, Problem::StrayCompanion { .. }), "{error}");
    assert_eq!(bench.look(bench.specs().first().unwrap()), Live::Blocked);
    fs::remove_file(bench.path("certs.db-journal")).unwrap();
    placement.publish(&NoSteps).unwrap();
    bench.assert_all(Live::New, "published");
}

#[test]
fn a_marker_that_is_damaged_newer_or_anothers_is_a_named_error() {
    let bench = Bench::new();
    bench.begin(&NoSteps).unwrap();
    let path = bench.registry.path(bench.restore);
    let good = fs::read_to_string(&path).unwrap();
    let load = |text: &str| {
        fs::write(&path, text).unwrap();
        bench.registry.load(bench.restore).unwrap_err()
    };
    assert!(matches!(load("{"), Problem::MarkerUnreadable { .. }));
    assert!(matches!(
        load(&good.replace("restore-marker/1", "restore-marker/2")),
        Problem::MarkerNewer { .. }
    ));
    assert!(matches!(load(&good.replace("/old/serial", "/../etc")), Problem::MarkerDamaged { .. }));
    assert!(matches!(load(&good.replace("\"site\": 1", "\"site\": 9")), Problem::MarkerDamaged { .. }));
    fs::write(&path, &good).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert!(matches!(bench.registry.load(bench.restore), Err(Problem::StateNotOurs { .. })));
}
