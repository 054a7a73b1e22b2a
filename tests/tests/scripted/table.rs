//! The table of phases and misbehaviours, and how it is gone through.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use holdfast_tests::{FixtureError, holdfast::Run};
use holdfast_writer_test::script::ACTIONS;

use super::scene::{Scene, adopt_orphans, orphans};

/// At which call: the phase, and the nth call of it, from 1; at every one without.
pub type Place = (&'static str, Option<u32>);

/// One run: where what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub phase: &'static str,
    pub nth: Option<u32>,
    /// `do` of the script.
    pub action: &'static str,
}

impl Case {
    /// The step of the script.
    pub fn step(self) -> String {
        let Self { phase, nth, action } = self;
        let has_budget = matches!(phase, "prepare-backup" | "prepare-snapshot" | "freeze");
        let more = match action {
            "fail" => "message = \"as planned\"",
            "delay" => "ms = 30",
            "late" if has_budget => "ms = 50",
            // Longer than the requester's patience.
            "late" => "ms = 2100",
            "answer" => "json = \"7\"",
            "stderr" => "lines = 2000",
            "exit" => "code = 3",
            "descriptors" => "count = 2",
            _ => "",
        };
        let nth = nth.map_or(String::new(), |nth| format!("nth = {nth}"));
        format!("[[on]]\nphase = \"{phase}\"\ndo = \"{action}\"\n{more}\n{nth}\n")
    }

    /// Whether all goes well in spite of it.
    pub fn is_harmless(self) -> bool {
        matches!(self.action, "delay" | "stderr")
    }

    /// What a person is told of the cause; one of these.
    pub fn told(self) -> &'static [&'static str] {
        match self.action {
            "fail" => &["as planned"],
            "answer" | "garbage" => &["not understood"],
            "half" | "hang" | "silent" | "stop" | "late" => &[" within "],
            "cut" => &["in the middle of a message"],
            "twice" | "continues" => &["out of turn"],
            "endless" => &["more than 16777216 bytes"],
            "descriptors" => &["file descriptors that nobody asked for"],
            // On a busy machine the end of the socket may be all that is seen in time.
            "exit" => &["exit status 3", "closed the connection"],
            "kill" => &["signal 9", "closed the connection"],
            "panic" => &["exit status 101", "closed the connection"],
            "close-stdin" => &["closed the connection"],
            "fork" => &["exit status 0", "process ended"],
            _ => &[],
        }
    }
}

/// All actions at `all`, and at each of `some` every fourth, another fourth at each place.
pub fn cases(all: &[Place], some: &[Place]) -> Vec<Case> {
    let whole = all.iter().flat_map(|place| ACTIONS.map(|action| (place, action)));
    let fourths = some.iter().enumerate().flat_map(|(n, place)| {
        let taken = ACTIONS.into_iter().enumerate().filter(move |(at, _)| at % 4 == n % 4);
        taken.map(move |(_, action)| (place, action))
    });
    whole.chain(fourths).map(|((phase, nth), action)| Case { phase, nth: *nth, action }).collect()
}

/// How a run must end.
#[derive(Debug)]
pub struct Expected {
    pub exit: i32,
    pub says: Vec<&'static str>,
    /// One of these, too.
    pub one_of: &'static [&'static str],
}

/// What is not as it was to be.
pub fn unlike(run: &Run, expected: &Expected) -> Vec<String> {
    let said = |word: &&&str| run.stderr.contains(**word);
    let mut missing: Vec<_> =
        expected.says.iter().filter(|word| !said(word)).map(|word| (*word).to_owned()).collect();
    if !expected.one_of.is_empty() && !expected.one_of.iter().any(|word| said(&word)) {
        missing.push(expected.one_of.join(" or "));
    }
    if run.code == Some(expected.exit) && missing.is_empty() {
        return Vec::new();
    }
    vec![format!("exit {:?}, not {}; not said: {missing:?}; said:\n{}", run.code, expected.exit, run.stderr)]
}

/// Goes through all cases, several at a time: most of the time somebody waits for somebody.
///
/// # Panics
/// With all that was wrong, by case.
pub fn go_through<C: Copy + Sync + std::fmt::Debug>(
    cases: &[C],
    scene: impl Fn() -> Result<Scene, FixtureError> + Sync,
    run: impl Fn(&mut Scene, C) -> Result<Vec<String>, FixtureError> + Sync,
) {
    const AT_ONCE: usize = 4;
    adopt_orphans();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let add = |found: Vec<String>| wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let worked = || -> Result<(), FixtureError> {
                    let mut own = scene()?;
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                        let found = run(&mut own, *case)?;
                        add(found.into_iter().map(|what| format!("{case:?}: {what}")).collect());
                    }
                    own.stop()
                };
                if let Err(error) = worked() {
                    add(vec![error.to_string()]);
                }
            });
        }
    });
    let mut wrong = wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    wrong.extend(orphans().into_iter().map(|command| format!("a process is left: {command}")));
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), wrong.join("\n"));
}
