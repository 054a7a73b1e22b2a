//! What must be true of the decoder whatever a stranger sends. Run by the fuzzer, and by `tests/decoder.rs`.

use holdfast_writer_api::protocol::message::{
    Done, Frozen, HelloReply, Identified, Logs, Opened, Released, Sealed, StepDone, Steps, Streams,
};
use holdfast_writer_api::protocol::wire::{Answer, Request, Understood};
use holdfast_writer_api::protocol::{Decoder, FrameError};
use holdfast_writer_api::{CheckReport, OnlineState, PostSnapshot, Prepared, Recovered, Truncated};
use serde::de::DeserializeOwned;

/// The first byte says in what steps the rest arrives.
pub fn check(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let step = usize::from(*step).max(1);
    let whole = messages::<serde_json::Value>(stream, stream.len().max(1));
    let stepwise = messages::<serde_json::Value>(stream, step);
    assert_eq!(whole, stepwise, "how the bytes arrive changes what they say");
    for request in messages::<Request>(stream, step).into_iter().flatten() {
        if let Ok(Understood::Writer(call)) = request.understand() {
            // What was understood is understood again in our own words.
            assert_eq!(Request::new(&call).understand(), Ok(Understood::Writer(call)));
        }
    }
    for answer in messages::<Answer>(stream, step).into_iter().flatten() {
        understand(&answer);
    }
}

/// Every message, or what is wrong with it; and what the end means.
fn messages<T: DeserializeOwned>(stream: &[u8], step: usize) -> Vec<Result<T, String>> {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for chunk in stream.chunks(step) {
        decoder.push(chunk);
        loop {
            match decoder.message() {
                Ok(Some(message)) => messages.push(Ok(message)),
                Ok(None) => break,
                Err(error @ FrameError::Malformed(_)) => messages.push(Err(error.to_string())),
                Err(error) => {
                    messages.push(Err(error.to_string()));
                    return messages;
                }
            }
        }
    }
    let cut_off = stream.last().is_some_and(|last| *last != 0);
    assert_eq!(matches!(decoder.end(), FrameError::Truncated), cut_off);
    messages
}

/// No answer, taken for whatever was asked, does more than be refused.
fn understand(answer: &Answer) {
    fn as_a<T: DeserializeOwned>(answer: &Answer) {
        if let Err(refusal) = answer.clone().understand::<T>("writer") {
            let shown = format!("{refusal:?}");
            assert!(shown.len() < 1 << 20, "an error that nobody can read");
        }
    }
    as_a::<HelloReply>(answer);
    as_a::<Identified>(answer);
    as_a::<Prepared>(answer);
    as_a::<Sealed>(answer);
    as_a::<Frozen>(answer);
    as_a::<Released>(answer);
    as_a::<PostSnapshot>(answer);
    as_a::<Truncated>(answer);
    as_a::<Streams>(answer);
    as_a::<Opened>(answer);
    as_a::<Logs>(answer);
    as_a::<OnlineState>(answer);
    as_a::<CheckReport>(answer);
    as_a::<Recovered>(answer);
    as_a::<Steps>(answer);
    as_a::<StepDone>(answer);
    as_a::<Done>(answer);
}
