//! Which writers there are: `const` descriptors, collected by `inventory` or registered by hand.

use std::collections::BTreeMap;

use crate::Writer;

/// A writer as it is registered: names and function pointers. Registering touches nothing.
///
/// ```
/// use holdfast_writer_api::{Registry, SettingsError, Writer, WriterConfig, WriterDescriptor};
/// fn build(_: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> { unimplemented!() }
/// static NULL: WriterDescriptor =
///     WriterDescriptor { name: "null", summary: "holds nothing", build };
/// let mut registry = Registry::empty();
/// registry.register(&NULL).unwrap();
/// assert_eq!(registry.names(), ["null"]);
/// ```
#[derive(Debug)]
pub struct WriterDescriptor {
    /// What `type = "…"` in the configuration says.
    pub name: &'static str,
    /// One line for `list writers`.
    pub summary: &'static str,
    /// Checks the settings and makes a writer. Touches no file: a wrong path is found by `identify`.
    pub build: fn(WriterConfig) -> Result<Box<dyn Writer>, SettingsError>,
}

inventory::collect!(WriterDescriptor);

/// One `[[writer]]` table of the configuration, less what the requester keeps for itself.
#[derive(Debug, Clone, PartialEq)]
pub struct WriterConfig {
    /// Unique on this machine.
    pub id: String,
    /// The writer's own settings, an object.
    pub settings: serde_json::Value,
}

impl WriterConfig {
    /// The settings as the writer's own type, which should `deny_unknown_fields`.
    ///
    /// # Errors
    /// [`SettingsError`] with the key.
    pub fn settings<T: serde::de::DeserializeOwned>(&self) -> Result<T, SettingsError> {
        serde_json::from_value(self.settings.clone()).map_err(|error| {
            let problem = error.to_string();
            match self.culprit::<T>(&problem) {
                Some(key) => SettingsError { key: Some(key.to_owned()), problem },
                None => SettingsError::from_message(&problem),
            }
        })
    }

    /// The key that `problem` is about, which serde does not say for a wrong type: the one without which something else
    /// happens. None if `problem` is that a key is missing.
    fn culprit<T: serde::de::DeserializeOwned>(&self, problem: &str) -> Option<&str> {
        let table = self.settings.as_object()?;
        let is_missing = |key: &str, problem: &str| problem == format!("missing field `{key}`");
        let culprit = table.keys().find(|key| {
            let mut without = table.clone();
            without.remove(*key);
            match serde_json::from_value::<T>(without.into()) {
                Ok(_) => true,
                Err(other) => {
                    let other = other.to_string();
                    // Without a key that must be there, a complaint about another that is missing can change as well.
                    other != problem && !(problem.starts_with("missing field") && is_missing(key, &other))
                }
            }
        });
        culprit.map(String::as_str)
    }
}

/// A setting that cannot be used. The requester adds file and line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct SettingsError {
    /// The key it is about, if one can be named.
    pub key: Option<String>,
    /// What is wrong and what was expected.
    pub problem: String,
}

impl SettingsError {
    /// About one key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: Some(key.into()), problem: problem.into() }
    }

    /// From serde's words: the key is what stands in the first pair of backquotes.
    pub fn from_message(message: &str) -> Self {
        let key = message.split('`').nth(1).map(str::to_owned);
        Self { key, problem: message.to_owned() }
    }
}

/// Two writers of one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("two writers are registered as `{name}`")]
pub struct RegistryError {
    /// The name.
    pub name: &'static str,
}

/// The writers of this program, by name.
#[derive(Debug, Default)]
pub struct Registry {
    writers: BTreeMap<&'static str, &'static WriterDescriptor>,
}

impl Registry {
    /// All that were linked into the program. `inventory` promises neither order nor uniqueness; this
    /// sorts, and refuses duplicates.
    ///
    /// # Errors
    /// [`RegistryError`] when two have one name.
    pub fn linked() -> Result<Self, RegistryError> {
        let mut registry = Self::empty();
        inventory::iter::<WriterDescriptor>.into_iter().try_for_each(|d| registry.register(d))?;
        Ok(registry)
    }

    /// None, for programs that register by hand.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Adds one.
    ///
    /// # Errors
    /// [`RegistryError`] when its name is taken; nothing changed then.
    pub fn register(&mut self, descriptor: &'static WriterDescriptor) -> Result<(), RegistryError> {
        if self.writers.contains_key(descriptor.name) {
            return Err(RegistryError { name: descriptor.name });
        }
        self.writers.insert(descriptor.name, descriptor);
        Ok(())
    }

    /// The writer of that name.
    pub fn get(&self, name: &str) -> Option<&'static WriterDescriptor> {
        self.writers.get(name).copied()
    }

    /// All, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static WriterDescriptor> + '_ {
        self.writers.values().copied()
    }

    /// All names, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        self.writers.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(_: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
        Err(SettingsError::new("x", "a test writer"))
    }
    static B: WriterDescriptor = WriterDescriptor { name: "b", summary: "", build };
    static A: WriterDescriptor = WriterDescriptor { name: "a", summary: "", build };
    inventory::submit! { WriterDescriptor { name: "linked-test", summary: "", build } }

    #[test]
    fn names_are_sorted_and_a_duplicate_is_refused() {
        let mut registry = Registry::empty();
        registry.register(&B).unwrap();
        registry.register(&A).unwrap();
        assert_eq!(registry.names(), ["a", "b"]);
        assert_eq!(registry.register(&B), Err(RegistryError { name: "b" }));
        assert_eq!(registry.names(), ["a", "b"]);
    }

    #[test]
    fn linked_writers_are_found() {
        assert_eq!(Registry::linked().unwrap().names(), ["linked-test"]);
    }

    #[test]
    fn a_settings_error_names_its_key_whatever_is_wrong_with_it() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only the parse is of interest")]
        struct Settings {
            database: String,
            size: u8,
            list: Option<Vec<Inner>>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only the parse is of interest")]
        struct Inner {
            name: String,
        }
        let cases = [
            (serde_json::json!({"databse": "/x"}), "databse", "expected one of `database`"),
            (serde_json::json!({"database": "/x", "size": 1, "lst": []}), "lst", "unknown field"),
            (serde_json::json!({"database": 5, "size": 1}), "database", "expected a string"),
            (serde_json::json!({"database": "/x", "size": 300}), "size", "expected u8"),
            (serde_json::json!({"database": "/x", "size": 1, "list": "y"}), "list", "expected a sequence"),
            (serde_json::json!({"database": "/x", "size": 1, "list": [{}]}), "list", "missing field `name`"),
            (serde_json::json!({"database": "/x", "size": 1, "list": [{"nme": 1}]}), "list", "`nme`"),
            (serde_json::json!({"size": 1}), "database", "missing field"),
            (serde_json::json!({"database": "/x"}), "size", "missing field"),
            (serde_json::json!({}), "database", "missing field"),
        ];
        for (settings, key, problem) in cases {
            let config = WriterConfig { id: "ca".into(), settings };
            let error = config.settings::<Settings>().unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{config:?}: {error}");
            assert!(error.problem.contains(problem), "{config:?}: {error}");
        }
    }
}
