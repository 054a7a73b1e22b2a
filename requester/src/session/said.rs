//! What the writers' processes say on standard error, put into the event log.

use super::events::{EventLog, What};
use crate::writers::ConfiguredWriter;

/// Records what was said since the last time. Between freeze and thaw nobody calls this: what is said then waits in
/// bounded memory.
pub fn collect(writers: &[ConfiguredWriter], log: &mut EventLog) {
    for writer in writers {
        let Some(said) = writer.said() else { continue };
        let (lines, mut dropped) = said.take();
        for line in lines {
            let writer = writer.entry.id.clone();
            let dropped = std::mem::take(&mut dropped);
            log.record_at(line.at_ns, What::WriterSaid { writer, text: line.text, dropped });
        }
    }
}
