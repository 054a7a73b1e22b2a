//! The table of phases and misbehaviours, and how it is gone through.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::scene::{Scene, adopt_orphans, orphans};

/// One run: at which call what is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub phase: &'static str,
    /// The nth call of it; at every one without.
    pub nth: Option<u32>,
    pub kind: &'static str,
}

impl Case {
    /// The step of the script.
    pub fn step(&self) -> String {
        let more = match self.kind {
            "fail" => "message = \"as planned\"",
            "delay" => "ms = 30",
            // After the patience of the requester, where the call has no budget of its own.
            "late" if matches!(self.phase, "prepare-backup" | "prepare-snapshot" | "freeze") => "ms = 50",
            "late" => "ms = 2100",
            "answer" => "json = \"7\"",
            "stderr" => "lines = 2000",
            "exit" => "code = 3",
            "descriptors" => "count = 2",
            _ => "",
        };
        let nth = self.nth.map_or(String::new(), |nth| format!("nth = {nth}"));
        format!("[[on]]\nphase = \"{}\"\ndo = \"{}\"\n{more}\n{nth}\n", self.phase, self.kind)
    }
}

/// Goes through all cases, several at a time: most of the time somebody waits for somebody. What was wrong, by case.
pub fn go_through<C: Copy + Sync + std::fmt::Debug>(
    cases: &[C],
    scene: impl Fn() -> Scene + Sync,
    run: impl Fn(&mut Scene, C) -> Vec<String> + Sync,
) -> Vec<String> {
    const AT_ONCE: usize = 4;
    adopt_orphans();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut own = scene();
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let found = run(&mut own, *case);
                    let found = found.into_iter().map(|what| format!("{case:?}: {what}"));
                    wrong.lock().expect("no panic").extend(found);
                }
                own.stop().expect("all acknowledged writes");
            });
        }
    });
    let mut wrong = wrong.into_inner().expect("no panic");
    wrong.extend(orphans().into_iter().map(|command| format!("left: {command}")));
    wrong
}
