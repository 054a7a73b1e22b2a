//! The same on a real server that speaks S3, on loopback.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use holdfast::repository::{LockKind, Options, Password, Repository, RepositoryError, S3Options};

use crate::{
    death,
    support::{Bench, PASSWORD, about, document, entries, noise, succeeded},
};

const KEY: &str = "test-key";
const SECRET: &str = "test-secret";

pub fn options() -> Options {
    Options::with_s3(S3Options {
        access_key_id: KEY.into(),
        secret_access_key: SECRET.to_owned().into(),
        ..S3Options::default()
    })
}

/// A server with one bucket; ended when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        // Where `make deps` puts it, else on the PATH.
        let deps = env::var_os("HOLDFAST_DEPS").map(|deps| PathBuf::from(deps).join("moto/bin/moto_server"));
        let program = deps.filter(|path| path.is_file()).unwrap_or_else(|| "moto_server".into());
        let started = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match started {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                assert!(env::var_os("CI").is_none(), "moto_server is not installed, and this is CI");
                println!("skipped: moto_server not installed");
                return None;
            }
            other => other.expect("started"),
        };
        let mut server = Self { child, port };
        let mut stream = loop {
            match TcpStream::connect(("127.0.0.1", port)) {
                Ok(stream) => break stream,
                Err(_) => assert!(server.child.try_wait().expect("asked").is_none(), "the server ended"),
            }
            std::thread::yield_now();
        };
        write!(
            stream,
            "PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .expect("asked");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Some(server)
    }

    fn location(&self, prefix: &str) -> String {
        format!("s3:http://127.0.0.1:{}/bucket/{prefix}", self.port)
    }

    fn restic(&self, prefix: &str, arguments: &[&str]) -> Option<std::process::Output> {
        let output = Command::new("restic")
            .args(["--no-cache", "--repo", &self.location(prefix)])
            .args(arguments)
            .envs([
                ("RESTIC_PASSWORD", PASSWORD),
                ("AWS_ACCESS_KEY_ID", KEY),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
            ])
            .output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                assert!(env::var_os("CI").is_none(), "restic is not installed, and this is CI");
                println!("skipped: restic not installed");
                None
            }
            other => Some(other.expect("restic ran")),
        }
    }
}

#[test]
fn a_set_in_a_bucket_is_stored_restored_pruned_and_read_by_stock_restic() {
    let Some(server) = Server::start() else { return };
    let bench = Bench::at(&server.location("a/b"), &options());
    let again = Repository::init(&server.location("a/b"), &Password::new(PASSWORD), &options());
    assert!(matches!(again, Err(RepositoryError::AlreadyExists { .. })));
    let tree = bench.folder("tree");
    fs::write(tree.join("big"), noise(40 << 20, 1)).expect("written");
    let old = bench.store(&tree);
    fs::remove_file(tree.join("big")).expect("removed");
    for number in 0..200 {
        fs::write(tree.join(number.to_string()), noise(1000 + number * 10, number as u64 + 2))
            .expect("written");
    }
    let set = bench.store(&tree);
    bench.repository.forget(&[old.set]).expect("forgotten");
    let freed = bench.repository.prune(false).expect("pruned").freed_bytes;
    assert!(freed > 39 << 20, "{freed} bytes freed");
    bench.repository.check(true).expect("whole");
    let back = bench.place.path().join("back");
    let selection = [("/data/files".into(), back.clone())];
    let restored = bench.repository.restore_files(&set, &selection, &Default::default()).expect("restored");
    assert_eq!(restored.done.files, 200);
    for number in 0..200 {
        let name = number.to_string();
        assert_eq!(fs::read(back.join(&name)).expect("read"), fs::read(tree.join(&name)).expect("read"));
    }
    let Some(checked) = server.restic("a/b", &["check", "--read-data"]) else { return };
    succeeded(&checked);
    let exclusive = bench.repository.lock(LockKind::Exclusive).expect("free");
    assert!(!server.restic("a/b", &["snapshots"]).expect("restic").status.success());
    drop(exclusive);
    succeeded(&server.restic("a/b", &["snapshots"]).expect("restic"));
}

/// A session gives its lock back on the thread that drives it.
#[tokio::test]
async fn a_lock_is_taken_and_given_back_on_a_thread_that_drives_a_runtime() {
    let Some(server) = Server::start() else { return };
    let bench = Bench::at(&server.location("runtime"), &options());
    let other = Repository::open(&server.location("runtime"), &Password::new(PASSWORD), &options());
    let other = other.expect("opened");
    let lock = bench.repository.lock(LockKind::Exclusive).expect("taken");
    assert_eq!(other.others_at_work().expect("listed").len(), 1);
    drop(lock);
    assert!(other.others_at_work().expect("listed").is_empty(), "given back");
}

#[test]
fn killed_in_the_middle_of_a_backup_the_bucket_is_whole_and_free() {
    let Some(server) = Server::start() else { return };
    let location = server.location("killed");
    let bench = Bench::at(&location, &options());
    let mut child = death::start_dying(&location);
    // Half a lock refresh is enough to have sent something: wait for the lock, then for packs to be pruned later.
    let packs = || {
        let planned = bench.repository.prune(true);
        planned.map_or(0, |planned| planned.packs_removed)
    };
    while packs() < 2 {
        assert!(child.try_wait().expect("asked").is_none(), "it ended by itself");
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
    death::survives(&bench);
}

#[test]
fn no_bucket_no_repository_no_server_and_a_wrong_password_are_told_apart() {
    let Some(server) = Server::start() else { return };
    let open = |location: &str, password: &str| {
        Repository::open(location, &Password::new(password), &options()).map(drop)
    };
    let nothing = open(&server.location("empty"), PASSWORD);
    assert!(matches!(nothing, Err(RepositoryError::NoRepository { .. })), "{nothing:?}");
    let bench = Bench::at(&server.location("full"), &options());
    let wrong = open(&server.location("full"), "wrong");
    assert!(matches!(wrong, Err(RepositoryError::WrongPassword { .. })), "{wrong:?}");
    let about = about();
    let tree = bench.folder("tree");
    let bucketless = server.location("x").replace("/bucket/", "/nobucket/");
    let refused = Repository::init(&bucketless, &Password::new(PASSWORD), &options()).map(drop);
    assert!(matches!(refused, Err(RepositoryError::NoBucket { .. })), "{refused:?}");
    drop(server);
    let gone = bench
        .repository
        .archive(&about, entries(&tree, "/data"), None)
        .and_then(|partial| bench.repository.commit(&about, &[partial], vec![document("set.json", b"{}")]));
    assert!(matches!(gone, Err(RepositoryError::Unreachable { .. })), "{gone:?}");
}
