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

/// For one answer of a server on loopback.
const LIMIT: Duration = Duration::from_secs(60);

/// An access key that [`Moto::check_credentials`] made.
#[derive(Debug, Clone)]
pub struct AccessKey {
    /// `AWS_ACCESS_KEY_ID`.
    pub id: String,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret: String,
}

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
        let (server, port) = process::start_on_free_port(|port| {
            let program = deps_dir().join("moto/bin/moto_server");
            let mut server = Server::start(
                "moto_server",
                command(program).args(["-H", "127.0.0.1", "-p", &port.to_string()]),
            )?;
            server.wait_ready(LIMIT, || http::request(port, "GET", "/", b"", LIMIT).is_ok())?;
            Ok(server)
        })?;
        let moto = Self { server, port };
        moto.ask("PUT", &format!("/{BUCKET}"), &[], b"")?;
        Ok(moto)
    }

    /// The text of an answer 200.
    fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<String, FixtureError> {
        let answer = http::request_with(self.port, method, path, headers, body, LIMIT)?;
        let told = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status == 200 {
            return Ok(told);
        }
        Err(FixtureError::answer("moto_server", format!("{} {told}", answer.status)))
    }

    /// From here on every request must be signed with the key that this makes, which may do anything in S3.
    /// [`check_no_credentials`](Self::check_no_credentials) undoes it.
    ///
    /// moto takes a signature apart by the query as it was sent: requests of clients that leave `/` in there as it is,
    /// ours among them, count as badly signed where they list. Requests without a query do not.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] if moto does not do it.
    pub fn check_credentials(&self) -> Result<AccessKey, FixtureError> {
        // The service is told by the scope of a signature, which is not looked at yet.
        let scope = "AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/iam/aws4_request, SignedHeaders=host, \
                     Signature=0";
        let headers = [("Authorization", scope), ("Content-Type", "application/x-www-form-urlencoded")];
        let iam = |form: &str| {
            self.ask("POST", "/", &headers, format!("Version=2010-05-08&UserName=test&{form}").as_bytes())
        };
        iam("Action=CreateUser")?;
        let key = iam("Action=CreateAccessKey")?;
        let all = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C\
                   %22Action%22%3A%22s3%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
        iam(&format!("Action=PutUserPolicy&PolicyName=all&PolicyDocument={all}"))?;
        let element = |name: &str| {
            let missing = || FixtureError::answer("moto_server", format!("no {name} in {key}"));
            elements(&key, name).into_iter().next().ok_or_else(missing)
        };
        let key = AccessKey { id: element("AccessKeyId")?, secret: element("SecretAccessKey")? };
        self.ask("POST", "/moto-api/reset-auth", &[], b"0")?;
        Ok(key)
    }

    /// Anybody may do anything again, as from the start.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] if moto does not do it.
    pub fn check_no_credentials(&self) -> Result<(), FixtureError> {
        self.ask("POST", "/moto-api/reset-auth", &[], b"inf").map(drop)
    }

    /// The names of all objects that begin with `prefix`, sorted. At most a thousand.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] if moto refuses.
    pub fn objects(&self, prefix: &str) -> Result<Vec<String>, FixtureError> {
        let listed = self.ask("GET", &format!("/{BUCKET}?list-type=2&prefix={prefix}"), &[], b"")?;
        Ok(elements(&listed, "Key"))
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
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

/// What stands between `<name>` and `</name>`, each time.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let inside = |rest: &str| rest.split_once(&*close).map(|(inside, _)| inside.to_owned());
    xml.split(&*open).skip(1).filter_map(inside).collect()
}
