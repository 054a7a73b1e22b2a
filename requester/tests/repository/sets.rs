//! What is stored is a set or nothing, stock restic reads it, and it reads back.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use holdfast::repository::{
    EntryKind, EntryMetadata, NodeKind, Options, Password, Repository, RepositoryError, SourceEntry,
};

use crate::support::{Bench, PASSWORD, about, document, entries, noise, succeeded, utf8};

fn plain_tree(bench: &Bench) -> std::path::PathBuf {
    let tree = bench.folder("tree");
    fs::create_dir(tree.join("deep")).expect("a folder");
    fs::write(tree.join("deep/big.db"), noise(9 << 20, 1)).expect("written");
    fs::write(tree.join("small.conf"), "key = 1\n").expect("written");
    fs::write(tree.join("empty"), "").expect("written");
    fs::set_permissions(tree.join("small.conf"), fs::Permissions::from_mode(0o640)).expect("mode");
    std::os::unix::fs::symlink("deep/big.db", tree.join("link")).expect("a link");
    // A name with what the format has to escape.
    fs::write(tree.join("quo\"te\\back\nline é"), "odd").expect("written");
    tree
}

#[test]
fn stock_restic_checks_a_set_and_restores_it_bit_for_bit() {
    let bench = Bench::new();
    let tree = plain_tree(&bench);
    let set = bench.store(&tree);
    let Some(checked) = bench.restic(&["check", "--read-data"]) else { return };
    succeeded(&checked);
    let listed = succeeded(&bench.restic(&["snapshots", "--json"]).expect("restic"));
    assert!(listed.contains(&format!("set:{}", set.set)) && listed.contains("nightly"), "{listed}");
    let target = bench.place.path().join("restic");
    succeeded(&bench.restic(&["restore", &set.snapshot, "--target", utf8(&target)]).expect("restic"));
    let below = target.join("data/files");
    for name in ["deep/big.db", "small.conf", "empty", "quo\"te\\back\nline é"] {
        assert_eq!(fs::read(below.join(name)).expect(name), fs::read(tree.join(name)).expect(name), "{name}");
    }
    let mode = fs::metadata(below.join("small.conf")).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
    assert_eq!(fs::read_link(below.join("link")).expect("a link"), Path::new("deep/big.db"));
    assert_eq!(fs::read(target.join("holdfast/set.json")).expect("document"), b"{}");
}

#[test]
fn a_set_lists_with_its_names_and_reads_back_after_reopening() {
    let bench = Bench::new();
    let stored = bench.store(&plain_tree(&bench));
    let repository = bench.open().expect("opens");
    let sets = repository.sets().expect("listed");
    assert_eq!(sets, std::slice::from_ref(&stored));
    assert_eq!((stored.tags.as_slice(), stored.hostname.as_str()), (&["nightly".to_owned()][..], "bench"));
    assert_eq!(repository.partials().expect("listed"), []);
    assert_eq!(repository.set(stored.set).expect("found"), stored);

    let document = repository.read_document(&stored, Path::new("writers/files.json"), 1000).expect("read");
    assert_eq!(document, b"{\"writer\":1}");
    let long = repository.read_document(&stored, Path::new("writers/files.json"), 3);
    assert!(matches!(long, Err(RepositoryError::TooLarge { size: 12, limit: 3, .. })));
    for missing in ["nothing.json", "writers", "writers/files.json/x", "../data"] {
        let missing = repository.read_document(&stored, Path::new(missing), 1000);
        assert!(matches!(missing, Err(RepositoryError::NoSuchPath { .. })));
    }

    let nodes: Vec<_> = repository.tree(&stored).expect("walk").map(|node| node.expect("a node")).collect();
    let paths: Vec<_> = nodes.iter().map(|node| utf8(&node.path)).collect();
    assert_eq!(
        paths,
        [
            "/data",
            "/data/files",
            "/data/files/deep",
            "/data/files/deep/big.db",
            "/data/files/empty",
            "/data/files/link",
            "/data/files/quo\"te\\back\nline é",
            "/data/files/small.conf",
            "/holdfast",
            "/holdfast/set.json",
            "/holdfast/writers",
            "/holdfast/writers/files.json",
        ]
    );
    assert_eq!(nodes[3].metadata.size, 9 << 20);
    assert_eq!(nodes[5].kind, NodeKind::Symlink { target: "deep/big.db".into() });
}

#[test]
fn data_without_a_commit_is_never_a_set_and_can_be_removed() {
    let bench = Bench::new();
    let about = about();
    let tree = plain_tree(&bench);
    // A session that dies here commits nothing.
    bench.repository.archive(&about, entries(&tree, "/data/files"), None).expect("archived");
    let repository = bench.open().expect("opens");
    assert_eq!(repository.sets().expect("listed"), []);
    let partials = repository.partials().expect("listed");
    assert_eq!(partials.len(), 1);
    assert_eq!(partials[0].set, Some(about.set));
    assert_eq!(repository.remove_partials(Some(uuid::Uuid::nil())).expect("removed"), 0);
    assert_eq!(repository.remove_partials(Some(about.set)).expect("removed"), 1);
    assert_eq!(repository.partials().expect("listed"), []);
}

#[test]
fn several_partials_and_the_documents_become_one_snapshot() {
    let bench = Bench::new();
    let about = about();
    let one = bench.folder("one");
    fs::write(one.join("a"), "1").expect("written");
    let two = bench.folder("two");
    fs::write(two.join("b"), "2").expect("written");
    let partials = [
        bench.repository.archive(&about, entries(&one, "/data/ca/etc"), None).expect("archived"),
        bench.repository.archive(&about, entries(&two, "/data/files"), None).expect("archived"),
    ];
    let set =
        bench.repository.commit(&about, &partials, vec![document("set.json", b"{}")]).expect("committed");
    let reader = bench.repository.reader(&set).expect("reader");
    assert_eq!(reader.read_file(Path::new("/data/ca/etc/a"), 10).expect("read"), b"1");
    assert_eq!(reader.read_file(Path::new("/data/files/b"), 10).expect("read"), b"2");
    assert_eq!(bench.repository.partials().expect("listed"), []);
    if let Some(checked) = bench.restic(&["check", "--read-data"]) {
        succeeded(&checked);
    }
}

#[test]
fn an_amended_set_has_the_new_documents_and_the_old_data_under_one_snapshot() {
    let bench = Bench::new();
    let first = bench.store(&plain_tree(&bench));
    let documents = vec![document("set.json", b"{\"result\":1}"), document("result.json", b"ok")];
    let second = bench.repository.amend(&first, documents).expect("amended");
    assert_eq!(bench.repository.sets().expect("listed"), std::slice::from_ref(&second));
    assert_eq!((second.set, second.time, second.revision), (first.set, first.time, 1));
    assert_eq!((&second.tags, &second.label), (&first.tags, &first.label));
    let read = |path| bench.repository.read_document(&second, Path::new(path), 100).expect("read");
    assert_eq!(read("set.json"), b"{\"result\":1}");
    assert_eq!(read("result.json"), b"ok");
    assert_eq!(read("writers/files.json"), b"{\"writer\":1}");
    assert_eq!(bench.repository.partials().expect("listed"), []);
    let third = bench.repository.amend(&second, vec![document("set.json", b"3")]).expect("amended");
    let read = bench.repository.read_document(&third, Path::new("set.json"), 100).expect("read");
    assert_eq!(read, b"3");
}

#[test]
fn a_file_that_cannot_be_read_whole_is_named_and_leaves_no_snapshot() {
    let bench = Bench::new();
    let about = about();
    let content = |name: &str, size: u64, bytes: io::Result<&'static [u8]>| {
        let mut entries = entries(&bench.folder(name), "/data/files");
        entries.push(SourceEntry {
            save_as: format!("/data/files/{name}").into(),
            kind: EntryKind::File(Box::new(move || Ok(Box::new(bytes?)))),
            metadata: EntryMetadata { mode: 0o600, size, ..EntryMetadata::default() },
        });
        entries
    };
    for (name, size, bytes, reason) in [
        ("gone", 3, Err(io::Error::from(io::ErrorKind::PermissionDenied)), "permission denied"),
        ("shrunk", 10, Ok(&b"abc"[..]), "10 bytes were announced, 3 could be read"),
        ("grown", 2, Ok(&b"abc"[..]), "it grew past the 2 bytes announced"),
    ] {
        let refused = bench.repository.archive(&about, content(name, size, bytes), None);
        let Err(RepositoryError::Unreadable { files, total: 1 }) = refused else {
            panic!("{name}: {refused:?}")
        };
        assert_eq!(
            (utf8(&files[0].path), files[0].reason.as_str()),
            (&*format!("/data/files/{name}"), reason)
        );
        assert_eq!(bench.repository.partials().expect("listed"), []);
    }
}

#[test]
fn entries_out_of_order_twice_without_parent_or_with_a_crooked_path_are_refused_before_anything_is_stored() {
    let bench = Bench::new();
    let folder = |path: &str| SourceEntry {
        save_as: path.into(),
        kind: EntryKind::Directory,
        metadata: EntryMetadata::default(),
    };
    for paths in [
        &["/b", "/a"][..],
        &["/a", "/a"],
        &["/a", "/a-b", "/a/c"],
        &["/a", "/b/c"],
        &["/a", "/a/../b"],
        &["a"],
        &["/"],
        &["/a/"],
        &["/a", "/a/./b"],
        &["//a"],
    ] {
        let given = paths.iter().map(|path| folder(path)).collect();
        let refused = bench.repository.archive(&about(), given, None);
        assert!(matches!(refused, Err(RepositoryError::InvalidSource { .. })), "{paths:?}: {refused:?}");
    }
    assert_eq!(bench.repository.partials().expect("listed"), []);
}

#[test]
fn tags_that_would_pass_for_ours_or_break_the_list_are_refused() {
    let bench = Bench::new();
    for tag in ["", "a,b", "holdfast", "holdfast-partial", "set:1", "revision:9", "new\nline"] {
        let about = holdfast::repository::SetIdentity { tags: vec![tag.into()], ..about() };
        let refused = bench.repository.archive(&about, Vec::new(), None);
        assert!(matches!(refused, Err(RepositoryError::InvalidTag { .. })), "{tag:?}");
    }
}

#[test]
fn wrong_password_no_repository_and_an_existing_one_are_told_apart() {
    let bench = Bench::new();
    let open = |path: &Path, password: &str| {
        Repository::open(utf8(path), &Password::new(password), &Options::default()).map(drop)
    };
    assert!(matches!(open(&bench.path(), "wrong"), Err(RepositoryError::WrongPassword { .. })));
    assert!(matches!(open(bench.place.path(), PASSWORD), Err(RepositoryError::NoRepository { .. })));
    assert!(matches!(
        open(&bench.path().join("nothing"), PASSWORD),
        Err(RepositoryError::NoRepository { .. })
    ));
    let again = Repository::init(utf8(&bench.path()), &Password::new(PASSWORD), &Options::default());
    assert!(matches!(again, Err(RepositoryError::AlreadyExists { .. })));
}

#[test]
fn an_init_that_was_cut_off_before_the_config_can_be_repeated() {
    let bench = Bench::new();
    fs::remove_file(bench.path().join("config")).expect("removed");
    assert!(matches!(bench.open(), Err(RepositoryError::NoRepository { .. })));
    Repository::init(utf8(&bench.path()), &Password::new(PASSWORD), &Options::default()).expect("made");
    assert_eq!(fs::read_dir(bench.path().join("keys")).expect("listed").count(), 1);
    bench.open().expect("opens");
}
