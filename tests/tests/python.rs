//! What is written in Python is tested in Python; this runs those tests along with all others.
//!
//! A test of theirs that the machine lacks something for says so; with `CI` set that is a failure, as everywhere.

use std::{env, fs::File, io::Read, path::Path, time::Duration};

use holdfast_tests::{
    process::{capture, command},
    require::{require_tool, workspace_root},
};
use holdfast_writer_api::{
    BackupRequest, BackupType, FreezeContext, Thawed, Writer, WriterError,
    protocol::{Launcher, RemoteWriter},
};
use uuid::Uuid;

/// Runs the tests of one folder in a child process.
fn unittest(folder: &str) {
    let Some(python) = require_tool("python3") else { return };
    let folder = workspace_root().join(folder);
    assert!(has_tests(&folder), "no tests in {}", folder.display());
    let mut tests = command(python);
    tests.args(["-B", "-W", "error::ResourceWarning", "-m", "unittest", "-v"]).current_dir(&folder);
    let output = capture(&mut tests, Duration::from_secs(900)).expect("python3 -m unittest");
    assert!(output.status.success(), "{}", output.stderr);
    let skipped: Vec<_> = output.stderr.lines().filter(|line| line.contains("... skipped")).collect();
    assert!(skipped.is_empty() || env::var_os("CI").is_none(), "in CI nothing is skipped: {skipped:#?}");
}

fn has_tests(folder: &Path) -> bool {
    let names = folder.read_dir().expect("the folder").filter_map(Result::ok).map(|entry| entry.file_name());
    names.filter_map(|name| name.into_string().ok()).any(|name| name.starts_with("test_"))
}

#[test]
fn the_module_for_writers_in_python_keeps_its_promises() {
    unittest("writer-api/python");
}

#[test]
fn the_example_writer_for_redis_keeps_its_promises() {
    if require_tool("redis-server").is_some() {
        unittest("writers/examples/redis");
    }
}

#[test]
fn the_example_writer_for_mariadb_keeps_its_promises() {
    if let (Some(_), Some(_)) = (require_tool("mariadbd"), require_tool("age")) {
        unittest("writers/examples/mariadb");
    }
}

/// Goal: the two sides, each in its own language, agree on errors, descriptors and the hold.
#[tokio::test]
async fn a_writer_in_python_streams_to_and_is_held_by_a_requester_in_rust() -> Result<(), WriterError> {
    let Some(python) = require_tool("python3") else { return Ok(()) };
    let script = workspace_root().join("writer-api/python/sample_writer.py");
    let file = tempfile::NamedTempFile::new().expect("a file");
    let settings = serde_json::json!({"file": file.path()});
    let launcher = Launcher::new(python, [script.to_str().expect("UTF-8")]);
    let writer = RemoteWriter::new(launcher, "w", "sample", settings);
    let metadata = writer.identify().await?;
    assert!(metadata.capabilities.freeze && metadata.capabilities.stream && !metadata.capabilities.keys);
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: BackupType::Full,
        components: vec![metadata.components[0].reference()],
        previous_stamps: Default::default(),
    };
    let mut run = writer.begin_backup(request).await?;
    let budget = Duration::from_secs(20);
    let mark = run.freeze(&FreezeContext { set: Uuid::nil(), budget }).await?;
    assert_eq!(mark.position, "7");
    let stream = run.open_stream("pipe").await?;
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        File::from(stream.fd).read_to_end(&mut bytes).map(|_| bytes)
    });
    let bytes = read.await.expect("the reader").expect("the stream");
    assert!(bytes.len() == 1_000_000 && bytes.iter().all(|byte| *byte == b'x'));
    run.close_stream("pipe", 1_000_000).await?;
    let wrong = run.close_stream("pipe", 7).await;
    assert!(matches!(wrong, Err(WriterError::InconsistentSnapshot { .. })), "{wrong:?}");
    let busy = run.open_stream("Busy").await.map(drop);
    assert_eq!(
        busy.map_err(|error| holdfast_writer_api::chain(&error)),
        Err("`w` is busy: outer: inner".into())
    );
    assert_eq!(run.thaw().await?, Thawed::Released);
    run.abort().await
}
