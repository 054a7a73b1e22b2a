//! A real S3-speaking server on loopback: moto, with one bucket, until dropped.

use std::{process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    error::FixtureError,
    http,
    process::{self, Server, command},
    require::deps_dir,
};

const BUCKET: &str = "holdfast";

/// moto_server with one empty bucket in memory.
#[derive(Debug)]
pub struct Moto {
    server: Server,
    port: u16,
}

impl Moto {
    /// Starts it on a free port of 127.0.0.1 and makes the bucket `holdfast`. Takes about 2 s.
    ///
    /// # Errors
    /// [`FixtureError::Command`] with its log if it cannot serve.
    pub fn start() -> Result<Self, FixtureError> {
        let limit = Duration::from_secs(60);
        let (server, port) = process::start_on_free_port(|port| {
            let program = deps_dir().join("moto/bin/moto_server");
            let mut server = Server::start(
                "moto_server",
                command(program).args(["-H", "127.0.0.1", "-p", &port.to_string()]),
            )?;
            server.wait_ready(limit, || http::request(port, "GET", "/", b"", limit).is_ok())?;
            Ok(server)
        })?;
        let made = http::request(port, "PUT", &format!("/{BUCKET}"), b"", limit)?;
        if made.status != 200 {
            let told = String::from_utf8_lossy(&made.body).into_owned();
            return Err(FixtureError::answer("moto_server", format!("{} {told}", made.status)));
        }
        Ok(Self { server, port })
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The bucket's name.
    #[must_use]
    pub const fn bucket(&self) -> &'static str {
        BUCKET
    }

    /// A repository in the bucket, the way restic writes it: `s3:http://127.0.0.1:PORT/holdfast/PREFIX`.
    #[must_use]
    pub fn repository(&self, prefix: &str) -> String {
        format!("s3:{}/{BUCKET}/{prefix}", self.endpoint())
    }

    /// Environment variables that any S3 client needs; moto does not check what they say.
    #[must_use]
    pub const fn environment(&self) -> [(&'static str, &'static str); 3] {
        [
            ("AWS_ACCESS_KEY_ID", "holdfast-test"),
            ("AWS_SECRET_ACCESS_KEY", "holdfast-test-secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ]
    }

    /// Adds [`environment`](Self::environment) to a command.
    pub fn configure<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.envs(self.environment())
    }

    /// Makes it silent without closing connections, as a network fault does; [`resume`](Self::resume) undoes it.
    pub fn suspend(&self) {
        self.server.signal(Signal::STOP);
    }

    /// See [`suspend`](Self::suspend).
    pub fn resume(&self) {
        self.server.signal(Signal::CONT);
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Ends it by SIGKILL; the bucket is gone with it.
    pub fn kill(self) {
        drop(self);
    }
}
