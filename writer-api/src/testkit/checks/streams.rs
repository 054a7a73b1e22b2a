//! W18: what a writer streams.

use std::collections::BTreeSet;

use crate::testkit::bench::Bench;
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;
use crate::testkit::talk::{OrElsewhere, Talk};
use crate::{BackupType, StreamFile};

/// W18.
pub async fn are_whole(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Stream).await?;
    bench.application().await?;
    let mut talk = bench.ready(BackupType::Full).await?;
    let budget = bench.budget().await?;
    talk.freeze(budget).await.or_see("W3", "Freeze")?;
    let streams = talk.list_streams().await.or_see("W16", "ListStreams")?;
    let mut names = BTreeSet::new();
    if let Some(twice) = streams.iter().find(|stream| !names.insert(stream.name.clone())) {
        return Err(Stop::Broken(format!("`ListStreams` names `{}` twice", twice.name)));
    }
    let known = bench.metadata().await?;
    if let Some(stray) = streams.iter().find(|stream| known.component(&stream.component).is_none()) {
        let (name, component) = (&stray.name, &stray.component);
        return Err(Stop::Broken(format!(
            "the stream `{name}` belongs to `{component}`, which is no component"
        )));
    }
    let mut bytes = 0;
    for stream in &streams {
        bytes += is_whole(bench, &mut talk, stream).await?;
    }
    for stream in &streams {
        refuses_a_wrong_count(&mut talk, stream).await?;
    }
    Ok(Some(format!("{} streams, {bytes} bytes", streams.len())))
}

/// Read twice: to its end, and again.
async fn is_whole(bench: &mut Bench, talk: &mut Talk, stream: &StreamFile) -> Result<usize, Stop> {
    let name = &stream.name;
    let mut first = None;
    for nth in ["first", "second"] {
        let before = bench.app.streamed(stream).await?;
        let read = talk.read_stream(name, None).await.or_broken("OpenStream")?;
        let after = bench.app.streamed(stream).await?;
        let count = u64::try_from(read.len()).unwrap_or(u64::MAX);
        talk.close_stream(name, count).await.or_broken("CloseStream, with the right count,")?;
        // A file that changed meanwhile shows nothing.
        match before {
            Some(file) if Some(&file) == after.as_ref() && file != read => {
                return Err(Stop::Broken(format!(
                    "the {nth} time, the stream `{name}` was {} bytes; the file `{}` has {}, and {}",
                    read.len(),
                    stream.path.display(),
                    file.len(),
                    differs(&file, &read)
                )));
            }
            Some(_) | None => {}
        }
        first.get_or_insert(read.len());
    }
    Ok(first.unwrap_or_default())
}

fn differs(file: &[u8], stream: &[u8]) -> String {
    let at = file.iter().zip(stream).position(|(file, stream)| file != stream);
    at.map_or_else(
        || "one is the beginning of the other".to_owned(),
        |at| format!("they differ at byte {at}"),
    )
}

/// A reader that stopped half-way says so by its count, and must not get an `Ok`.
async fn refuses_a_wrong_count(talk: &mut Talk, stream: &StreamFile) -> Result<(), Stop> {
    let name = &stream.name;
    let whole = talk.read_stream(name, None).await.or_broken("OpenStream")?.len() as u64;
    if talk.close_stream(name, whole + 1).await.is_ok() {
        return Err(Stop::Broken(format!(
            "the stream `{name}` was {whole} bytes, and `CloseStream` took a count of {} for right",
            whole + 1
        )));
    }
    if whole < 2 {
        return Ok(());
    }
    let half =
        talk.read_stream(name, Some(whole / 2)).await.or_broken("OpenStream, after a wrong count,")?.len()
            as u64;
    if talk.close_stream(name, half).await.is_ok() {
        return Err(Stop::Broken(format!(
            "only {half} of the {whole} bytes of the stream `{name}` were read, and `CloseStream` took that for all"
        )));
    }
    Ok(())
}
