//! The two threads of a writer's program that nothing in the writer's code can block (promises P1 and P3): one sees
//! the end of the requester, one the end of the hold's time. Both end the process, and the kernel releases.

use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc as channel;

use super::codec::{self, Decoder, FrameError};
use super::wire::Request;

/// What a process that ended itself to release a hold exits with: at its deadline …
const EXIT_DEADLINE: i32 = 70;
/// … and when its requester was gone.
const EXIT_ORPHANED: i32 = 71;

/// How long the writer's code gets to release by itself once the requester is gone. Then the process
/// ends, and the kernel releases.
const GRACE: Duration = Duration::from_millis(50);

/// Reads in a thread of its own, so that the socket's end is seen whatever the writer's code does.
pub fn read_calls(mut socket: UnixStream) -> channel::UnboundedReceiver<Result<Request, FrameError>> {
    let (send, receive) = channel::unbounded_channel();
    std::thread::spawn(move || {
        let mut decoder = Decoder::default();
        loop {
            let call = codec::read(&mut socket, &mut decoder);
            // What follows nonsense cannot be told from it: say so, and end.
            let last = call.is_err();
            if matches!(call, Err(FrameError::Closed)) || send.send(call).is_err() || last {
                break;
            }
        }
        drop(send);
        std::thread::sleep(GRACE);
        // SAFETY: ends the process without running anything: that is what is wanted of it here.
        unsafe { libc::_exit(EXIT_ORPHANED) }
    });
    receive
}

/// Ends the process at the hold's deadline.
pub struct Watchdog {
    send: mpsc::Sender<Option<Instant>>,
}

impl Watchdog {
    pub fn start() -> Self {
        let (send, receive) = mpsc::channel::<Option<Instant>>();
        std::thread::spawn(move || {
            let mut armed: Option<Instant> = None;
            loop {
                let news = match armed {
                    None => receive.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                    Some(at) => receive.recv_timeout(at.saturating_duration_since(Instant::now())),
                };
                match news {
                    Ok(next) => armed = next,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    // SAFETY: as in `read_calls`; the kernel releases what was held.
                    Err(mpsc::RecvTimeoutError::Timeout) => unsafe { libc::_exit(EXIT_DEADLINE) },
                }
            }
        });
        Self { send }
    }

    /// Sets the deadline, or takes it away.
    pub fn arm(&self, at: Option<Instant>) {
        // The thread lives as long as `self.send`.
        let _ = self.send.send(at);
    }
}
