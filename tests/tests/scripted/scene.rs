//! Two scripted writers that keep one journal, beside a SQLite application that never stops writing.
//!
//! `odd` is frozen last and thawed first: while it misbehaves, everybody else is held. `calm` is frozen first.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use holdfast_tests::{
    FixtureError, Journal,
    holdfast::{Holdfast, Run, test_writer},
    watch::SqliteWriter,
};
use holdfast_writer_test::{
    journal::{self, Process, Record},
    rules,
};

/// What an administrator may expect of an application whose backup went wrong.
pub const SOON: Duration = Duration::from_secs(1);
/// How long a writer may take while nothing is held; a machine with much to do starts a process in less.
pub const PATIENCE: &str = "2s";
/// A public half; nobody has the other.
const RECIPIENT: &str = "age1fdqxrlcrrmds0n7ct8h69rduv9c7tp587req60fxz722za8zkq5srp4day";
/// What is in the files that are backed up, and …
pub const THEN: &str = "then\n";
/// … what is in them when they are restored.
pub const NOW: &str = "now\n";

/// A world with its applications.
pub struct Scene {
    pub world: Holdfast,
    application: SqliteWriter,
    /// Sets that must be in the repository.
    pub sets: usize,
}

impl Scene {
    /// A new one, without a repository.
    pub fn new() -> Result<Self, FixtureError> {
        let mut world = Holdfast::new()?;
        let root = world.root().to_owned();
        let database = root.join("app.db");
        // A long busy timeout and a pause: it is the hold that is watched, not the machine's speed.
        let gap = Duration::from_millis(10);
        let application = SqliteWriter::start_with(&database, Journal::Wal, Duration::from_secs(20), gap)?;
        world.config().recipients([RECIPIENT]);
        world.config().writer("app", "sqlite").set("database", database).set("patience", PATIENCE);
        for id in ["odd", "calm"] {
            fs::create_dir_all(root.join(id)).expect("a folder");
            fs::write(root.join(id).join("file"), THEN).expect("a file");
            fs::write(root.join(format!("{id}.lock")), "").expect("a lock");
            fs::write(root.join(format!("{id}.key")), "a secret of no known kind").expect("a key");
            let writer = world.config().writer(id, "scripted").set("program", test_writer());
            writer.set("patience", PATIENCE).set("script", root.join(format!("{id}.toml")));
            writer.set("journal", root.join("journal"));
        }
        let scene = Self { world, application, sets: 0 };
        scene.script("odd", "");
        scene.script("calm", "");
        Ok(scene)
    }

    /// Gives `writer` a script with these steps; `odd` has a key to seal if `keys`.
    pub fn script(&self, writer: &str, steps: &str) {
        self.script_with(writer, steps, writer == "odd");
    }

    pub fn script_with(&self, writer: &str, steps: &str, keys: bool) {
        let root = self.world.root();
        let level = if writer == "odd" { "system" } else { "front_end" };
        let (lock, data) = (root.join(format!("{writer}.lock")), root.join(writer));
        let mut script = format!(
            r#"
            hold = {lock:?}
            [[steps]]
            name = "restart"
            description = "starts it"
            timeout_ms = 2000
            on_failure = "stop"
            {steps}
            [metadata]
            freeze_level = "{level}"
            freeze_budget_ms = 900
            capabilities = {{ freeze = true, keys = {keys}, recover = true, post_restore = true }}
            [[metadata.components]]
            kind = "file_group"
            name = "data"
            selectable = true
            held = true
            files = [{{ path = {data:?}, pattern = "*", recursive = true, role = "data" }}]
            "#
        );
        if keys {
            let key = root.join(format!("{writer}.key"));
            script += &format!(
                "[[metadata.components]]\nkind = \"keys\"\nname = \"key\"\nselectable = false\n\
                 keys = [{{ path = {key:?}, purpose = \"key\" }}]\n"
            );
        }
        fs::write(root.join(format!("{writer}.toml")), script).expect("a script");
    }

    /// Runs the command with a new journal.
    pub fn run(&self, arguments: &[&str]) -> Result<Run, FixtureError> {
        // Most often there is one.
        let _ = fs::remove_file(self.journal());
        self.world.run_within(Duration::from_secs(60), arguments)
    }

    pub fn journal(&self) -> PathBuf {
        self.world.root().join("journal")
    }

    /// What `writer` was asked, in order.
    pub fn asked(&self, writer: &str) -> Vec<String> {
        let lines = journal::read(&self.journal()).expect("a journal");
        let of_writer = lines.into_iter().filter(|line| line.writer == writer);
        of_writer
            .filter_map(|line| match line.record {
                Record::Called { method, .. } => Some(method),
                _ => None,
            })
            .collect()
    }

    pub fn data(&self, writer: &str) -> PathBuf {
        self.world.root().join(writer).join("file")
    }

    /// Everything that must be so after every run, whatever happened in it; what is not.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Err(error) = self.application.wrote_again_within(SOON) {
            wrong.push(format!("the application does not write: {error}"));
        }
        let root = self.world.root();
        for writer in ["odd", "calm"] {
            if !is_free(&root.join(format!("{writer}.lock"))) {
                wrong.push(format!("`{writer}` is held"));
            }
        }
        match journal::read(&self.journal()) {
            Ok(lines) => {
                let violations = rules::check(&lines, Process::is_alive);
                wrong.extend(violations.iter().map(|violation| format!("the requester: {violation}")));
            }
            Err(error) => wrong.push(format!("the journal: {error}")),
        }
        if self.world.runtime_dir().join("holders.json").exists() {
            wrong.push("holders are on record".into());
        }
        wrong.extend(
            names(&self.world.state_dir().join("shadows"))
                .map(|name| format!("a record of a shadow: {name}")),
        );
        let area = self.world.state_dir().join(".holdfast-shadows");
        wrong.extend(names(&area).map(|name| format!("a shadow copy: {name}")));
        let snapshots = names(&self.world.repository().join("snapshots")).count();
        if snapshots != self.sets {
            wrong.push(format!("{snapshots} snapshots, {} sets", self.sets));
        }
        let locks: Vec<_> = names(&self.world.repository().join("locks")).collect();
        if !locks.is_empty() {
            wrong.push(format!("locks of the repository: {locks:?}"));
        }
        wrong
    }

    /// Ends the application; whether everything it was told is there is there.
    pub fn stop(self) -> Result<(), FixtureError> {
        let database = self.application.database().to_path_buf();
        let acks = self.application.stop();
        assert_eq!(
            holdfast_tests::watch::ids(&database)?.len(),
            acks.len(),
            "every acknowledged write is there"
        );
        Ok(())
    }
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

fn is_free(lock: &Path) -> bool {
    let file = fs::File::open(lock).expect("the lock");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
}

/// Processes of writers whose requester is gone. They would be ours: see [`adopt_orphans`].
pub fn orphans() -> Vec<String> {
    let children = holdfast_tests::paused::children(std::process::id());
    let command = |pid: u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let commands =
        children.into_iter().map(|child| String::from_utf8_lossy(&command(child.pid)).replace('\0', " "));
    commands
        .filter(|command| command.contains("writer serve") || command.contains("holdfast-test-writer"))
        .collect()
}

/// Whoever loses its parent becomes a child of this process.
pub fn adopt_orphans() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("to adopt orphans");
}
