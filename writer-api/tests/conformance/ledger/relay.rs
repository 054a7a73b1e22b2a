//! A server that is wrong itself: between the requester and a good writer stands somebody who passes calls on, and makes
//! a mistake. It is in the writer's own process, as the bugs of a home-made server are.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use holdfast_writer_api::Registry;
use holdfast_writer_api::protocol::{Decoder, Program, read, serve, write};
use serde_json::Value;

use super::defect::Defect;

/// By how much one is wrong who takes milliseconds for seconds.
pub const SECONDS: u32 = 1000;

/// Whether the writer with this defect is served through a relay.
pub fn relayed(defect: Option<Defect>) -> bool {
    matches!(
        defect,
        Some(Defect::DoesNotHearTheEnd | Defect::TakesMillisecondsForSeconds | Defect::KeepsQuietWhenLate)
    )
}

/// Serves the ledger on standard input through the relay.
pub fn serve_relayed() {
    let requester = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (to_writer, from_writer) = (ours.try_clone().unwrap(), ours);
    let (from_requester, to_requester) = (requester.try_clone().unwrap(), requester);
    std::thread::spawn(move || pass_calls_on(from_requester, to_writer));
    std::thread::spawn(move || pass_answers_on(from_writer, to_requester));
    let _ = serve(&Registry::linked().unwrap(), Program::new("relay", "1"), "ledger", OwnedFd::from(theirs));
}

fn pass_calls_on(mut from: UnixStream, mut to: UnixStream) {
    let mut decoder = Decoder::default();
    let mut hears_the_end = true;
    while let Ok(mut call) = read::<Value>(&mut from, &mut decoder) {
        let settings = call["parameters"]["settings"].clone();
        if settings["defect"] == "DoesNotHearTheEnd" {
            hears_the_end = false;
        }
        if call["method"] == "io.holdfast.Writer.Freeze" && hears_the_end {
            let budget = call["parameters"]["budget_ms"].as_u64().unwrap();
            call["parameters"]["budget_ms"] = (budget * u64::from(SECONDS)).into();
        }
        if write(&mut to, &call).is_err() {
            break;
        }
    }
    if hears_the_end {
        let _ = to.shutdown(Shutdown::Write);
    } else {
        loop {
            std::thread::park();
        }
    }
}

fn pass_answers_on(mut from: UnixStream, mut to: UnixStream) {
    let mut chunk = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..bytes]).is_err() {
            break;
        }
    }
}
