//! W1 and W2: what a writer says of its application.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::testkit::bench::{Bench, listed};
use crate::testkit::declared;
use crate::testkit::fixture::Poke;
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::talk::OrElsewhere;
use crate::{ComponentKind, METADATA_SCHEMA, WriterMetadata};

/// How often an application that writes by itself is looked at, for one quiet moment.
const LOOKS: usize = 3;

/// W1.
pub async fn is_pure_and_repeatable(bench: &mut Bench) -> Verdict {
    let first = bench.metadata().await?;
    for _ in 0..2 {
        let again = bench.identify().await.or_broken("Identify")?;
        if let Some(difference) = difference("", &as_value(&first), &as_value(&again)) {
            return Err(Stop::Broken(format!("asked again, it says something else: {difference}")));
        }
    }
    changes_nothing(bench, &first).await?;
    releases_nothing(bench, &first).await
}

/// The application's files and entries are the same afterwards.
async fn changes_nothing(bench: &mut Bench, metadata: &WriterMetadata) -> Result<(), Stop> {
    let mut changed = String::new();
    for _ in 0..LOOKS {
        let before = (look(metadata), contents(bench).await?);
        bench.identify().await.or_broken("Identify")?;
        let after = (look(metadata), contents(bench).await?);
        if before == after {
            return Ok(());
        }
        let file =
            before.0.iter().find(|(path, seen)| after.0.get(*path) != Some(*seen)).map(|(path, _)| path);
        let file = file.or_else(|| after.0.keys().find(|path| !before.0.contains_key(*path)));
        changed = file.map_or_else(|| "its entries".to_owned(), |path| format!("`{}`", path.display()));
    }
    Err(Stop::Broken(format!("{changed} changed each time `Identify` was called, {LOOKS} times in a row")))
}

/// A hold that stands, stands on.
async fn releases_nothing(bench: &mut Bench, metadata: &WriterMetadata) -> Verdict {
    if !metadata.capabilities.freeze {
        return Ok(None);
    }
    let budget = bench.budget().await?;
    // Whether it can be held at all is the matter of W3.
    let Ok((_held, called)) = bench.held(budget).await else { return Ok(None) };
    bench.identify().await.or_broken("Identify")?;
    let patience = bench.patience_within(budget);
    match bench.poke(patience).await? {
        Poke::Written(id) if called.elapsed() < budget => Err(Stop::Broken(format!(
            "the application was held, `Identify` was called in another process, and the write `{id}` came through"
        ))),
        Poke::Written(_) | Poke::Held => Ok(None),
    }
}

/// Size, change and place of every declared file; what cannot be found is the matter of W2.
fn look(metadata: &WriterMetadata) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
    let found = metadata.components.iter().filter_map(|component| declared::find(component).ok()).flatten();
    let seen = found.filter_map(|path| {
        let meta = std::fs::symlink_metadata(&path).ok()?;
        Some((path, (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino())))
    });
    seen.collect()
}

/// The entries, or none where the fixture cannot tell: the files are looked at in any case.
async fn contents(bench: &mut Bench) -> Result<Vec<String>, Stop> {
    match bench.contents().await {
        Ok(mut contents) => {
            contents.sort();
            Ok(contents)
        }
        Err(Stop::Unable(_)) => Ok(Vec::new()),
        Err(other) => Err(other),
    }
}

fn as_value(metadata: &WriterMetadata) -> Value {
    serde_json::to_value(metadata).unwrap_or_default()
}

/// The first place where two documents differ, with both sides.
fn difference(at: &str, one: &Value, two: &Value) -> Option<String> {
    match (one, two) {
        (Value::Object(one), Value::Object(two)) => {
            let keys = one.keys().chain(two.keys());
            keys.into_iter().find_map(|key| {
                let side = |of: &serde_json::Map<String, Value>| of.get(key).cloned().unwrap_or_default();
                difference(&format!("{at}/{key}"), &side(one), &side(two))
            })
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            let pairs = one.iter().zip(two).enumerate();
            pairs.into_iter().find_map(|(n, (one, two))| difference(&format!("{at}/{n}"), one, two))
        }
        (one, two) if one == two => None,
        (one, two) => Some(format!("`{at}` was {one}, and then {two}")),
    }
}

/// W2.
pub async fn metadata_keep_the_rules(bench: &mut Bench) -> Verdict {
    let metadata = bench.metadata().await?;
    let broken = |why: String| Err(Stop::Broken(why));
    if metadata.schema != METADATA_SCHEMA {
        return broken(format!("`schema` is `{}`, and must be `{METADATA_SCHEMA}`", metadata.schema));
    }
    let (id, writer_type) = bench.writer.asked();
    if (metadata.id.as_str(), metadata.writer_type.as_str()) != (id, writer_type) {
        return broken(format!(
            "`Hello` was said to `{id}` of type `{writer_type}`, and `{}` of type `{}` described itself",
            metadata.id, metadata.writer_type
        ));
    }
    if let Err(error) = metadata.check() {
        let why = std::error::Error::source(&error).map(|cause| cause.to_string());
        return broken(why.unwrap_or_else(|| error.to_string()));
    }
    if metadata.freeze_budget_ms == Some(0) || metadata.busy_timeout_ms == Some(0) {
        return broken(
            "`freeze_budget_ms` or `busy_timeout_ms` is 0: nothing could be held for no time".into(),
        );
    }
    let held: Vec<_> = metadata.components.iter().filter(|c| c.held).map(|c| c.reference()).collect();
    if !metadata.capabilities.freeze && !held.is_empty() {
        let names = listed(held);
        return broken(format!("{names} are `held`, and the capability `freeze` is not declared"));
    }
    // A server that commits nothing may still write to its files.
    let unheld = metadata.capabilities.freeze && held.is_empty();
    let keys = metadata.components.iter().any(|c| c.kind == ComponentKind::Keys && !c.keys.is_empty());
    if keys != metadata.capabilities.keys {
        let (declared, not) =
            if keys { ("keys are declared", "`keys` is not") } else { ("`keys` is declared", "no key is") };
        return broken(format!("{declared}, and {not}: the capability and the key components go together"));
    }
    for component in &metadata.components {
        if let Err(why) = declared::find(component) {
            return broken(format!("component `{}`: {why}", component.reference()));
        }
        let missing = component.keys.iter().find(|key| std::fs::symlink_metadata(&key.path).is_err());
        if let Some(key) = missing {
            return broken(format!("the key `{}` is declared, and is not there", key.path.display()));
        }
    }
    Ok(unheld.then(|| "the freeze holds no component's files still, so they are cut as one instant".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named_with_its_place_and_both_sides() {
        let (one, two) = (serde_json::json!({"a": [1, {"b": 2}]}), serde_json::json!({"a": [1, {"b": 3}]}));
        assert_eq!(difference("", &one, &two).unwrap(), "`/a/1/b` was 2, and then 3");
        assert_eq!(difference("", &one, &one), None);
        let more = serde_json::json!({"a": [1, {"b": 2}], "c": true});
        assert_eq!(difference("", &one, &more).unwrap(), "`/c` was null, and then true");
    }
}
