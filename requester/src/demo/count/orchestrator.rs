//! Reads the orchestrator's files; every secret must decrypt, every workflow's secret and account must exist.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use serde_json::Value;

use super::{Check, CountError, Found, Item};
use crate::demo::ack::digest;
use crate::demo::app::{open_secret, read_key, workflow_for};
use crate::demo::places::Places;

pub(super) fn read(places: &Places, people: &HashSet<String>) -> Result<Found, CountError> {
    let key = read_key(&places.encryption_key())?;
    let secrets = files(&places.secrets())?;
    let workflows = files(&places.workflows())?;
    let mut decrypt = Check::new("secrets decrypt under the key");
    let mut items = Vec::new();
    for (name, bytes) in &secrets {
        let opened = open_secret(&key, name, bytes);
        decrypt.note(opened.is_some(), || name.clone());
        let workflow = opened.filter(|(n, _)| workflow_for(*n)).and_then(|_| workflows.get(name));
        // A secret that does not decrypt is there nevertheless; when it was begun is not known then.
        items.push(Item {
            id: name.clone(),
            digest: digest(&[bytes, workflow.map_or(b"", Vec::as_slice)]),
            begun_ns: opened.map_or(0, |(_, begun_ns)| begun_ns),
        });
    }
    let mut named = Check::new("secrets named by a workflow exist");
    let mut accounts = Check::new("accounts that a workflow runs as are in the directory");
    for (name, bytes) in &workflows {
        let workflow: Value = serde_json::from_slice(bytes).unwrap_or_default();
        let exists = workflow["secret"].as_str().is_some_and(|secret| secrets.contains_key(secret));
        named.note(exists, || name.clone());
        if let Some(account) = workflow["runs-as"].as_str() {
            accounts.note(people.contains(account), || format!("{name}: {account}"));
        }
    }
    Ok(Found { items, checks: vec![decrypt, named, accounts] })
}

/// The finished files of a folder, by name.
fn files(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, CountError> {
    let failed = CountError::unreadable::<io::Error>(folder);
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(&failed)? {
        let path = entry.map_err(&failed)?.path();
        if path.extension().is_some_and(|ending| ending == "json")
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
            && !name.starts_with(crate::demo::durable::UNFINISHED)
        {
            files.insert(name.to_owned(), std::fs::read(&path).map_err(CountError::unreadable(&path))?);
        }
    }
    Ok(files)
}
