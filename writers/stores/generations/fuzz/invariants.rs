//! What must hold for any bytes taken for a log generation: no panic, an error of the file and not of the caller, and
//! nothing delivered that the header did not announce. Shared by the fuzzer and `tests/hostile.rs`.

use std::path::Path;

use holdfast_store_generations::{LogError, MAX_DATABASES, MAX_PATH_BYTES, Place, Reader};

/// Reads `data` to its end or to its first fault.
pub fn check(data: &[u8]) {
    if let Err(error) = walk(data) {
        assert!(
            matches!(
                error,
                LogError::BadLogVersion { .. }
                    | LogError::LogTornWriteDuringHardRestore { .. }
                    | LogError::LogCorruptDuringHardRestore { .. }
            ),
            "{error:?}"
        );
    }
}

fn walk(data: &[u8]) -> Result<(), LogError> {
    let mut reader = Reader::new(data, Path::new("memory"), Place::Backup)?;
    let header = reader.header().clone();
    assert!((1..=MAX_DATABASES).contains(&header.databases.len()));
    assert!(header.databases.iter().all(|database| database.path.as_os_str().len() <= MAX_PATH_BYTES));
    let (mut commit, mut time, mut delivered) = (header.commit_before, header.created_ms, 0);
    while let Some(head) = reader.next_record()? {
        assert_eq!(head.commit, commit + 1);
        assert!(head.time_ms >= time);
        (commit, time) = (head.commit, head.time_ms);
        let page_size = header.databases[head.database as usize].page_size as usize;
        while let Some(page) = reader.next_page()? {
            assert_eq!(page.bytes.len(), page_size);
            assert!((1..=head.page_count).contains(&page.number));
            delivered += page_size;
        }
    }
    assert!(delivered < data.len());
    Ok(())
}
