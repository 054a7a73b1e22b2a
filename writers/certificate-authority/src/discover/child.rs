//! Asks a foreign program, as the user it belongs to: bounded in time and output, ended with all its children.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::DiscoverError;

/// Most bytes of an answer.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// Most bytes kept of what a program complains.
const MAX_COMPLAINT: u64 = 64 * 1024;

/// Who runs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Runs `program` and gives back what it wrote. Nothing of our environment is passed on.
pub(crate) async fn ask(
    program: &Path,
    arguments: &[&str],
    folder: &Path,
    user: Option<User>,
    timeout: Duration,
) -> Result<Zeroizing<Vec<u8>>, DiscoverError> {
    let failed = |problem: String| DiscoverError::Program { program: program.to_owned(), problem };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "C.UTF-8")
        .env("HOME", folder)
        // Asking must leave nothing behind.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    if let Some(user) = user {
        // The standard library drops the supplementary groups as well when it changes the user.
        command.uid(user.uid).gid(user.gid);
    }
    let mut child = command.spawn().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let _group = Group(child.id());
    let answer = tokio::time::timeout(timeout, output(&mut child)).await;
    match answer {
        Err(_) => Err(failed(format!("did not answer within {} s", timeout.as_secs()))),
        Ok(Err(error)) => Err(failed(format!("cannot be read: {error}"))),
        Ok(Ok((_, output, _))) if output.len() as u64 > MAX_OUTPUT => {
            Err(failed(format!("wrote more than {MAX_OUTPUT} bytes")))
        }
        Ok(Ok((status, output, _))) if status.success() => Ok(output),
        Ok(Ok((status, _, complaint))) => {
            let text = String::from_utf8_lossy(&complaint);
            // The end of a traceback says it.
            let last: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            let last = last[last.len().saturating_sub(3)..].join("; ");
            Err(failed(format!("failed ({status}): {last}")))
        }
    }
}

type Output = (std::process::ExitStatus, Zeroizing<Vec<u8>>, Vec<u8>);

async fn output(child: &mut Child) -> std::io::Result<Output> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let complaints = read(stderr, MAX_COMPLAINT, true);
    let answer = read(stdout, MAX_OUTPUT + 1, false);
    tokio::pin!(complaints, answer);
    let mut complaint = None;
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer?,
            ended = &mut complaints, if complaint.is_none() => complaint = Some(ended?),
        }
    };
    // A program that wrote too much waits for a reader that will not come.
    if answer.len() as u64 > MAX_OUTPUT {
        child.kill().await?;
    }
    let complaint = match complaint {
        Some(complaint) => complaint,
        None => complaints.await?,
    };
    Ok((child.wait().await?, answer, complaint.to_vec()))
}

/// All that comes, up to `limit`; what is beyond is read and thrown away if `drain`.
async fn read(
    from: Option<impl AsyncRead + Unpin>,
    limit: u64,
    drain: bool,
) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    if let Some(mut from) = from {
        (&mut from).take(limit).read_to_end(&mut bytes).await?;
        if drain {
            tokio::io::copy(&mut from, &mut tokio::io::sink()).await?;
        }
    }
    Ok(bytes)
}

/// Ends whatever the program started and left behind.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let group = self.0.and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // Usually nobody is left.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    async fn shell(script: &str, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, DiscoverError> {
        ask(Path::new("/bin/sh"), &["-c", script], Path::new("/"), None, timeout).await
    }

    #[tokio::test]
    async fn an_answer_comes_back_and_our_environment_does_not_go_out() {
        let answer = shell("echo \"$CARGO_PKG_NAME-$PYTHONDONTWRITEBYTECODE\"", Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(answer.as_slice(), b"-1\n");
    }

    #[tokio::test]
    async fn failures_carry_the_end_of_the_complaint() {
        let error = shell("echo one >&2; echo two >&2; exit 3", Duration::from_secs(10)).await.unwrap_err();
        assert!(
            error.to_string().contains("exit status: 3") && error.to_string().contains("one; two"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let started = Instant::now();
        let script = format!("sleep 600 & echo $! > {}/pid; wait", folder.path().display());
        let error = shell(&script, Duration::from_millis(500)).await.unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
        let pid: i32 = std::fs::read_to_string(folder.path().join("pid")).unwrap().trim().parse().unwrap();
        // Dead, or dead and not yet collected by whoever inherited it.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ending = || {
            state.rsplit(')').next().is_some_and(|rest| matches!(rest.trim().chars().next(), Some('Z' | 'X')))
        };
        let gone = state.is_empty() || ending() || {
            let deadline = Instant::now() + Duration::from_secs(5);
            while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < deadline {
                tokio::task::yield_now().await;
            }
            !Path::new(&format!("/proc/{pid}")).exists()
        };
        assert!(gone, "{state}");
    }

    #[tokio::test]
    async fn endless_output_is_cut_off() {
        let error = shell("yes", Duration::from_secs(30)).await.unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}
