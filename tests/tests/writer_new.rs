//! A new author: makes a writer with `writer new`, types what its README says, and has a backup and a restore by it.

mod author;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use author::{Author, blocks, chmod};
use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run},
    require::{require_tool, workspace_root},
    tree,
};

type Tested = Result<(), FixtureError>;

const MANUAL: &str = include_str!("../../docs/writing-a-writer.md");

/// A mistake that authors make: in a file, instead of what is there, and the rule that finds it.
struct Mistake {
    file: &'static str,
    instead_of: &'static str,
    stands: &'static str,
    rule: &'static str,
}

/// Goal: what `writer new` makes works, by the commands of its own README and nothing else; and its kit is no ornament.
/// Method: the README's blocks are typed in their order, its table is the configuration; then each mistake is made.
fn a_new_author_gets_along(language: &str, mistakes: &[Mistake]) -> Tested {
    if ["flock", "python3"].map(require_tool).iter().any(Option::is_none) {
        return Ok(());
    }
    let mut author = Author::new()?;
    let said = author.types_at(Path::new(""), &format!("holdfast writer new notes --lang {language}"))?;
    let said = said.success()?.stdout;
    let folder = Path::new("notes");
    let readme = fs::read_to_string(author.home().join("notes/README.md")).expect("the README");
    let [test, install, show] = &blocks(&readme, "sh")[..] else { panic!("three blocks: {readme}") };
    // What was printed is the beginning of the README.
    let next = format!("next:\n  cd notes\n  {}\n", test.trim_end().replace('\n', "\n  "));
    assert!(said.contains(&next), "{said}");

    let report = author.types_at(folder, test)?.success()?;
    assert!(report.stdout.ends_with("19 rules: 14 ok, 5 not applicable\n"), "{}", report.stdout);
    assert!(!report.stderr.contains("warning"), "{}", report.stderr);

    author.types_at(folder, install)?.success()?;
    author.configures(&blocks(&readme, "toml").concat());
    let shown = author.types_at(folder, show)?.success()?.stdout;
    let entry = shown.lines().find(|line| line.parse::<u64>().is_ok()).expect("an entry was made");
    assert_eq!(shown.lines().last(), Some(entry), "the entry did not come back:\n{shown}");
    assert!(shown.contains("level application"), "{shown}");

    for mistake in mistakes {
        let file = author.home().join("notes").join(mistake.file);
        let good = fs::read_to_string(&file).expect("a file");
        assert_eq!(good.matches(mistake.instead_of).count(), 1, "`{}`", mistake.instead_of);
        fs::write(&file, good.replace(mistake.instead_of, mistake.stands)).expect("written");
        let report = author.types_at(folder, &format!("{} --rule {}", test.trim_end(), mistake.rule))?;
        assert_eq!(report.code, Some(7), "{}\n{}", report.stdout, report.stderr);
        assert!(report.stdout.contains(&format!("{:<4} FAILED", mistake.rule)), "{}", report.stdout);
        fs::write(&file, good).expect("written");
    }
    Ok(())
}

#[test]
fn a_new_author_gets_along_in_rust() -> Tested {
    const FILE: &str = "src/backup.rs";
    let held =
        Mistake { file: FILE, instead_of: "self.held = Some(lock);", stands: "drop(lock);", rule: "W3" };
    let kept = Mistake {
        file: FILE,
        instead_of: "match self.held.take()",
        stands: "match self.held.as_ref()",
        rule: "W4",
    };
    a_new_author_gets_along("rust", &[held, kept])
}

#[test]
fn a_new_author_gets_along_in_python() -> Tested {
    const FILE: &str = "notes";
    let held = Mistake {
        file: FILE,
        instead_of: "self.held, self.lock = self.lock, None",
        stands: "self.lock.close()",
        rule: "W3",
    };
    let kept = Mistake { file: FILE, instead_of: "held.close()", stands: "self.lock = held", rule: "W4" };
    a_new_author_gets_along("python", &[held, kept])
}

#[test]
fn a_new_author_gets_along_in_shell() -> Tested {
    const FILE: &str = "notes";
    let held = Mistake { file: FILE, instead_of: ": >\"$folder/closed\"", stands: "true", rule: "W3" };
    let kept = Mistake { file: FILE, instead_of: "rm -f \"$folder/closed\"", stands: "true", rule: "W4" };
    a_new_author_gets_along("shell", &[held, kept])
}

/// Goal: `docs/writing-a-writer.md` tells nothing that is not so.
/// Method: its blocks are typed one after the other, its tables are the configuration; what it promises to be printed is.
#[test]
fn the_manual_for_authors_says_what_is_so() -> Tested {
    if ["flock", "python3"].map(require_tool).iter().any(Option::is_none) {
        return Ok(());
    }
    let mut author = Author::new()?;
    author.configures(&blocks(MANUAL, "toml").concat());
    let mut said = String::new();
    // One that begins as a script is a script.
    for block in blocks(MANUAL, "sh").iter().filter(|block| !block.starts_with("#!")) {
        said += &author.types(block)?.success()?.stdout;
    }
    for line in blocks(MANUAL, "text").concat().lines() {
        assert!(said.lines().any(|known| known == line), "`{line}` is not said:\n{said}");
    }
    let stored = said.lines().filter(|line| line.contains(" application  "));
    assert_eq!(stored.count(), 3, "not all are in the set:\n{said}");
    for folder in ["shop", "cache", "visitors"] {
        author.types(&format!("{folder}/fixture stop /srv/{folder}"))?.success()?;
    }
    // What is only to be read is what another test builds.
    let outside = tree::files(&workspace_root().join("writers/examples/outside"));
    let sources = outside.iter().filter(|file| file.extension().is_some_and(|ending| ending == "rs"));
    let sources: Vec<_> = sources.map(|file| fs::read_to_string(file).expect("a source")).collect();
    for block in blocks(MANUAL, "rust,ignore") {
        assert!(sources.iter().any(|source| source.contains(&block)), "nowhere built:\n{block}");
    }
    Ok(())
}

#[test]
fn what_is_made_is_what_an_author_would_keep() -> Tested {
    let author = Author::new()?;
    // Without a language, Rust; into a folder that is there and empty.
    fs::create_dir(author.home().join("mine")).expect("a folder");
    let made = author.types("holdfast writer new my-cache --dir mine --json")?.success()?.json()?;
    let folder = author.home().join("mine");
    assert_eq!(made["schema"], "holdfast.writer-new/1");
    assert_eq!((&made["name"], &made["language"]), (&"my-cache".into(), &"rust".into()));
    assert_eq!(made["folder"], folder.to_str().expect("UTF-8"));
    assert_eq!(made["next"][0], "cargo build --release", "{made}");
    let mut named: Vec<_> = made["files"]
        .as_array()
        .expect("files")
        .iter()
        .map(|file| folder.join(file.as_str().expect("a path")))
        .collect();
    let mut there = tree::files(&folder);
    named.sort();
    there.sort();
    assert_eq!(named, there);
    let mode = |name: &str| fs::metadata(folder.join(name)).expect("a file").permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("fixture"), mode("README.md")), (0o755, 0o755, 0o644));
    for file in &there {
        let text = fs::read_to_string(file).expect("text");
        assert!(!text.contains("@NAME@") && !text.contains("@API@"), "{}", file.display());
    }
    // Formatted as cargo makes it in anybody's folder.
    author.types_at(Path::new("mine"), "cargo fmt --check")?.success()?;

    author.types("holdfast writer new other --lang python")?.success()?;
    let module = fs::read(author.home().join("other/holdfast_writer.py")).expect("the module");
    let original =
        fs::read(workspace_root().join("writer-api/python/holdfast_writer.py")).expect("the module");
    assert!(module == original, "another holdfast_writer.py");
    Ok(())
}

#[test]
fn what_cannot_be_made_is_refused_by_name_and_nothing_is_changed() -> Tested {
    let author = Author::new()?;
    let refused = |arguments: &str, code: i32, words: &[&str]| -> Tested {
        let before = tree::files(&author.home());
        author.types(&format!("exec holdfast writer new {arguments}"))?.assert_failed(code, words);
        assert_eq!(tree::files(&author.home()), before, "{arguments}");
        Ok(())
    };
    for name in ["2nd", "a/b", "a.b", "''"] {
        refused(name, 2, &["a letter, then letters, digits"])?;
    }
    refused("sqlite", 2, &["`sqlite` is the type of a built-in writer"])?;
    refused("fixture --lang python", 2, &["`fixture` is the name of something else in the folder"])?;
    refused("deps", 2, &["`deps` is the name of something else"])?;
    refused("x --lang cobol", 2, &["possible values: rust, python, shell"])?;
    refused("x --lang python --api /x", 2, &["`--api` is for writers in Rust"])?;
    refused("x --api .", 2, &["the crate holdfast-writer-api is not in ."])?;
    refused("x --dir none/x", 1, &["none/x cannot be made", "No such file", "whose parent is there"])?;
    fs::create_dir(author.home().join("x")).expect("a folder");
    fs::write(author.home().join("x/precious"), "data").expect("a file");
    refused("x", 4, &["x is there and not empty; nothing is overwritten", "--dir"])?;
    refused("x --dir x/precious", 1, &["x/precious cannot be made", "ot a directory"])?;
    assert_eq!(fs::read(author.home().join("x/precious")).expect("it is there"), b"data");
    Ok(())
}

#[test]
fn a_place_that_is_not_the_authors_is_told_of() -> Tested {
    const NOBODY: u32 = 65534;
    let world = Holdfast::new()?;
    let closed = world.root().join("closed");
    fs::create_dir(&closed).expect("a folder");
    chmod(&closed, 0o555);
    let place = closed.join("x");
    let arguments = ["writer", "new", "x", "--lang", "python", "--dir", place.to_str().expect("UTF-8")];
    let run: Run = if rustix::process::geteuid().is_root() {
        Holdfast::run_command(world.command_as(NOBODY, arguments)?)?
    } else {
        world.run(arguments)?
    };
    run.assert_failed(1, &["closed/x cannot be made", "Permission denied", "nothing was changed"]);
    assert!(tree::files(&closed).is_empty());
    Ok(())
}
