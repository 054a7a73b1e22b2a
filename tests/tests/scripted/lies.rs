//! Answers that are well formed and wrong, and errors of every class.

use holdfast_tests::FixtureError;

use super::{
    scene::Scene,
    table::{Expected, go_through, unlike},
};

/// A wrong answer of `odd`.
#[derive(Debug, Clone, Copy)]
struct Lie {
    phase: &'static str,
    /// `do` and what belongs to it.
    step: &'static str,
    exit: i32,
    says: &'static [&'static str],
}

impl Lie {
    /// The backup ends with 0, and there is a set.
    const fn believed(phase: &'static str, step: &'static str) -> Self {
        Self { phase, step, exit: 0, says: &[] }
    }

    const fn refused(
        phase: &'static str,
        step: &'static str,
        exit: i32,
        says: &'static [&'static str],
    ) -> Self {
        Self { phase, step, exit, says }
    }

    fn is_stored(&self) -> bool {
        self.exit == 0 || self.phase == "backup-complete"
    }
}

const LIES: &[Lie] = &[
    Lie::refused("hello", "merge = { protocol = \"2.0\" }", 4, &["speaks protocol 2.0, we speak 1.0"]),
    Lie::refused("hello", "merge = { protocol = \"one\" }", 1, &["`one` is no version"]),
    Lie::believed("hello", "merge = { protocol = \"1.99\", features = [], more = true }"),
    Lie::refused("hello", "merge = { guardian = 99999999 }", 1, &["process 99999999 as its guardian"]),
    Lie::refused("identify", "merge = { metadata = { id = \"calm\" } }", 4, &["`odd`", "answered as `calm`"]),
    Lie::refused("identify", "merge = { metadata = { writer_type = \"sqlite\" } }", 4, &["of type `sqlite`"]),
    Lie::refused("identify", "merge = { metadata = { components = [] } }", 4, &["no component is declared"]),
    Lie::refused(
        "identify",
        "merge = { metadata = { schema = \"holdfast.writer-metadata/9\" } }",
        4,
        &["holdfast.writer-metadata/9"],
    ),
    Lie::refused("identify", "merge = { metadata = { freeze_budget_ms = 0 } }", 4, &["0 ms"]),
    Lie::refused(
        "identify",
        "merge = { metadata = { capabilities = { keys = false } } }",
        4,
        &["`odd`", "the capability `keys` is not declared"],
    ),
    // What says that it is held, by one that cannot hold, is cut unheld; the set says so.
    Lie::believed("identify", "merge = { metadata = { capabilities = { freeze = false } } }"),
    Lie::refused("prepare-backup", "json = '{\"backup_type\": \"everything\"}'", 1, &["`everything`"]),
    Lie::believed("prepare-backup", "json = '{\"backup_type\": \"log\", \"warnings\": [\"\\u001b[2J\"]}'"),
    Lie::refused("seal-keys", "json = '{\"keys\": []}'", 8, &["`odd`", "odd.key"]),
    Lie::believed("freeze", "json = '{\"mark\": {\"position\": \"\\u001b[2J\"}, \"more\": 1}'"),
    Lie::refused(
        "thaw",
        "json = '{\"thawed\": \"was_not_held\"}'",
        5,
        &["lost before the thaw", "3 of 3 writers thawed"],
    ),
    Lie::believed("post-snapshot", "json = '{\"stamps\": {\"nobody\": \"x\"}}'"),
    Lie::refused(
        "backup-complete",
        "json = '{\"logs\": [\"never-stored.log\"]}'",
        1,
        &["is stored", "never-stored.log"],
    ),
];

/// Errors of the contract, where nothing is held yet: the exit code is that of the class.
const CLASSES: &[(&str, i32)] = &[
    ("inconsistent-snapshot", 1),
    ("out-of-resources", 1),
    ("busy", 1),
    ("rejected", 4),
    ("skipped", 4),
    ("denied", 4),
    ("recovery-failed", 1),
    ("key", 8),
    ("chain-broken", 9),
    ("not-responding", 1),
    ("stuck-frozen", 6),
    ("com.example.Oops", 1),
    ("org.varlink.service.MethodNotFound", 4),
];

fn backup(
    scene: &mut Scene,
    step: &str,
    expected: &Expected,
    is_stored: bool,
) -> Result<Vec<String>, FixtureError> {
    scene.script("odd", step);
    let run = scene.run(&["backup"])?;
    scene.sets += usize::from(is_stored);
    let mut wrong = unlike(&run, expected);
    if format!("{}{}", run.stdout, run.stderr).contains('\u{1b}') {
        wrong.push("the writer's text moves the cursor".into());
    }
    wrong.extend(scene.wrong());
    Ok(wrong)
}

/// Goal: a well-formed answer is not believed where it cannot be true.
#[test]
fn an_answer_that_cannot_be_true_is_told_and_makes_no_set() {
    go_through(LIES, Scene::new, |scene, lie| {
        let step = format!("[[on]]\nphase = \"{}\"\ndo = \"answer\"\n{}\n", lie.phase, lie.step);
        let expected = Expected { exit: lie.exit, says: lie.says.to_vec(), one_of: &[] };
        backup(scene, &step, &expected, lie.is_stored())
    });
}

#[test]
fn every_class_of_error_ends_the_backup_with_its_exit_code() {
    go_through(CLASSES, Scene::new, |scene, (class, exit)| {
        let step = format!("[[on]]\nphase = \"prepare-backup\"\ndo = \"fail\"\nclass = \"{class}\"\n");
        let expected = Expected { exit, says: vec!["`odd`", "no set was made"], one_of: &[] };
        backup(scene, &step, &expected, false)
    });
}
