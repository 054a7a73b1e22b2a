//! The plain writers through the command: what a file set takes in and leaves out means the same at the backup and at the
//! restore.

use std::{fs, path::Path};

use holdfast_tests::{FixtureError, holdfast::Holdfast, tree::files};

type Tested = Result<(), FixtureError>;

/// The names of the files in a folder and below it, relative to it.
fn names(folder: &Path) -> Vec<String> {
    let below = |path: &Path| path.strip_prefix(folder).expect("below").to_string_lossy().into_owned();
    files(folder).iter().map(|path| below(path)).collect()
}

/// Goal: a folder without what lies below it comes back file by file. What is new since, and matches, goes away with the old
/// data; what was left out of the set is none of a restore's business, and stays as it is today.
#[test]
fn files_of_a_folder_come_back_and_what_was_left_out_of_the_set_stays() -> Tested {
    let mut world = Holdfast::new()?;
    let folder = world.root().join("data");
    fs::create_dir_all(folder.join("below")).expect("folders");
    for (name, content) in [("one", "1"), ("two", "2"), ("é.tmp", "then"), ("below/three", "3")] {
        fs::write(folder.join(name), content).expect("a file");
    }
    world
        .config()
        .writer("data", "files")
        .set("paths", vec![folder.clone()])
        .set("recursive", false)
        .set("exclude", vec!["?.tmp"]);
    world.run(["backup"])?.success()?;

    fs::write(folder.join("one"), "changed").expect("a file");
    fs::remove_file(folder.join("two")).expect("removed");
    fs::write(folder.join("é.tmp"), "now").expect("a file");
    fs::write(folder.join("new"), "new").expect("a file");
    let plan = world.run(["restore", "plan", "latest", "--assume-stopped"])?.success()?;
    let goes =
        plan.stdout.lines().find(|line| line.contains("go away with the old data")).unwrap_or_default();
    assert!(goes.ends_with(": new"), "{}", plan.stdout);
    let restored = world.run(["restore", "latest", "--assume-stopped"])?.success()?;
    assert!(restored.stdout.contains("files of"), "{}", restored.stdout);
    assert_eq!(names(&folder), ["below/three", "one", "two", "é.tmp"]);
    let read = |name: &str| fs::read_to_string(folder.join(name)).expect("a file");
    assert_eq!((read("one"), read("two"), read("é.tmp")), ("1".into(), "2".into(), "now".into()));
    Ok(())
}
