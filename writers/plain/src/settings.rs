//! Reads the settings of both writers so that every complaint names its key.
//! Owns: the key of a wrong type, times, absolute paths.
//! Leaves to others: file and line (the requester's), whether a path exists (`identify`).

use std::path::{Component, Path};
use std::time::Duration;

use holdfast_writer_api::{SettingsError, WriterConfig};
use serde::de::DeserializeOwned;

/// The settings as `T`. Every field of `T` must be optional or have a default: then the key that a complaint is about
/// is the one without which the complaint goes away, which serde itself does not say for a wrong type.
pub(crate) fn read<T: DeserializeOwned>(config: &WriterConfig) -> Result<T, SettingsError> {
    let mut error = match config.settings::<T>() {
        Ok(settings) => return Ok(settings),
        Err(error) => error,
    };
    let Some(table) = config.settings.as_object() else { return Err(error) };
    let culprit = table.keys().find(|key| {
        let mut without = table.clone();
        without.remove(*key);
        match serde_json::from_value::<T>(without.into()) {
            Ok(_) => true,
            Err(other) => other.to_string() != error.problem,
        }
    });
    if let Some(key) = culprit {
        error.key = Some(key.clone());
    }
    Err(error)
}

/// A time as people write it: `500ms`, `5s`, `1m`.
pub(crate) fn duration(key: &str, text: &str) -> Result<Duration, SettingsError> {
    let text = text.trim();
    let expected = || {
        SettingsError::new(
            key,
            format!("`{text}` is not a time; expected a number and a unit, such as 500ms, 5s"),
        )
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(scale).map(Duration::from_millis).ok_or_else(expected)
}

/// Refuses a path that is not absolute, or has `.` or `..` in it.
pub(crate) fn absolute(key: &str, path: &Path) -> Result<(), SettingsError> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // `components` swallows a trailing slash and `/./`, which would not compare equal later.
    let canonical = path.components().collect::<std::path::PathBuf>().as_os_str() == path.as_os_str();
    if path.is_absolute() && plain && canonical && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(SettingsError::new(
        key,
        format!(
            "`{}` is not usable; expected an absolute path without `.`, `..` and a slash at its end",
            path.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[expect(dead_code, reason = "only its type is of interest")]
        text: Option<String>,
        #[expect(dead_code, reason = "only its type is of interest")]
        list: Option<Vec<String>>,
    }

    #[test]
    fn a_complaint_names_its_key_whatever_is_wrong_with_it() {
        let key =
            |settings| read::<Example>(&WriterConfig { id: "w".into(), settings }).unwrap_err().key.unwrap();
        assert_eq!(key(serde_json::json!({"text": "x", "lst": []})), "lst");
        assert_eq!(key(serde_json::json!({"text": 5})), "text");
        assert_eq!(key(serde_json::json!({"text": "x", "list": "y"})), "list");
    }

    #[test]
    fn a_time_needs_its_unit_and_a_path_its_root() {
        assert_eq!(duration("t", "500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("t", "5 s"), Ok(Duration::from_secs(5)));
        for bad in ["", "5", "-1s", "1.5s", "5 h", "18446744073709551615m"] {
            assert_eq!(duration("t", bad).unwrap_err().key.as_deref(), Some("t"), "{bad}");
        }
        absolute("p", Path::new("/srv/a b")).unwrap();
        for bad in ["", "a", "./a", "/a/../b", "/a/./b", "/a/", "//a"] {
            assert!(absolute("p", Path::new(bad)).is_err(), "{bad}");
        }
    }
}
