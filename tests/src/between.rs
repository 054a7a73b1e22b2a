//! Stands between a client and an HTTP server on loopback, and holds one request back: the client can be killed exactly
//! there.
//! Owns: the listener, one thread a connection, and what was said at the head of every request.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use crate::error::FixtureError;

/// No head of a request is longer.
const HEAD: usize = 64 << 10;

/// Passes everything on but the requests that [`hold`](Self::start) names, which never reach the server. Serves until
/// the test's process ends.
#[derive(Debug)]
pub struct Between {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    held: mpsc::Receiver<String>,
}

impl Between {
    /// Listens on a free port of 127.0.0.1, for the server on port `server`. `hold` is asked about the first line of each
    /// request, such as `PUT /bucket/name HTTP/1.1`, one at a time.
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn start(server: u16, hold: impl FnMut(&str) -> bool + Send + 'static) -> Result<Self, FixtureError> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(FixtureError::io("listen on 127.0.0.1"))?;
        let port = listener.local_addr().map_err(FixtureError::io("ask for our own port"))?.port();
        let (tell, held) = mpsc::channel();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (seen, hold) = (Arc::clone(&heads), Arc::new(Mutex::new(hold)));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, hold, tell) = (Arc::clone(&seen), Arc::clone(&hold), tell.clone());
                thread::spawn(move || {
                    // A connection that breaks is the client's to notice.
                    let _ = connection(client, server, |head| {
                        lock(&seen).push(head.to_owned());
                        let line = head.lines().next().unwrap_or_default();
                        let is_held = (*lock(&hold))(line);
                        if is_held {
                            // The test may have seen enough.
                            let _ = tell.send(line.to_owned());
                        }
                        is_held
                    });
                });
            }
        });
        Ok(Self { port, heads, held })
    }

    /// The port it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until a request is held, and gives its first line.
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] after `limit`.
    pub fn wait_held(&self, limit: Duration) -> Result<String, FixtureError> {
        let late = |_| FixtureError::Deadline { what: "a request to hold".to_owned(), after: limit };
        self.held.recv_timeout(limit).map_err(late)
    }

    /// The heads of all requests so far, the held ones too: request line and headers.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        lock(&self.heads).clone()
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, which is one request: the server closes it behind its answer.
fn connection(mut client: TcpStream, server: u16, hold: impl FnOnce(&str) -> bool) -> io::Result<()> {
    let mut begun = Vec::new();
    let mut piece = [0; 4096];
    while !begun.windows(4).any(|four| four == b"\r\n\r\n") && begun.len() < HEAD {
        let read = client.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        begun.extend_from_slice(&piece[..read]);
    }
    if hold(&String::from_utf8_lossy(&begun)) {
        // Until the client gives up or dies.
        while client.read(&mut piece)? > 0 {}
        return Ok(());
    }
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server))?;
    server.write_all(&begun)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let rest = thread::spawn(move || io::copy(&mut from, &mut to).and_then(|_| to.shutdown(Shutdown::Write)));
    let answered = io::copy(&mut server, &mut client);
    // Wakes the other direction, which would wait for more of a request that has its answer.
    client.shutdown(Shutdown::Both)?;
    let _ = rest.join();
    answered.map(drop)
}
