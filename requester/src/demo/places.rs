//! Where everything of the demonstration lies: one folder, known to the applications, the scene and the count alike.

use std::path::{Path, PathBuf};

/// The certificate authority: SQLite in WAL mode, a private key, a CRL.
pub const CA: &str = "ca";
/// The directory: SQLite in rollback-journal mode.
pub const DIRECTORY: &str = "directory";
/// The orchestrator: files under a lock, secrets encrypted with a key file.
pub const ORCHESTRATOR: &str = "orchestrator";
/// All of them; these are also the ids of their writers.
pub const APPLICATIONS: [&str; 3] = [CA, DIRECTORY, ORCHESTRATOR];

/// The scratch folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Below `root`, which nothing is checked about here.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of one application, which `destroy` removes whole.
    pub fn application(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The CA's database.
    pub fn ca_database(&self) -> PathBuf {
        self.root.join("ca/certs.db")
    }

    /// Its private key.
    pub fn ca_key(&self) -> PathBuf {
        self.root.join("ca/ca-key.pem")
    }

    /// Its own certificate.
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca/ca.pem")
    }

    /// The revocation list that it publishes.
    pub fn ca_crl(&self) -> PathBuf {
        self.root.join("ca/crl.pem")
    }

    /// Its configuration, without which it does not start.
    pub fn ca_configuration(&self) -> PathBuf {
        self.root.join("ca/config.toml")
    }

    /// The directory's database.
    pub fn directory_database(&self) -> PathBuf {
        self.root.join("directory/directory.db")
    }

    /// The orchestrator's encrypted secrets, one a file.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("orchestrator/secrets")
    }

    /// Its workflows, which name secrets.
    pub fn workflows(&self) -> PathBuf {
        self.root.join("orchestrator/workflows")
    }

    /// The key that its secrets are encrypted with.
    pub fn encryption_key(&self) -> PathBuf {
        self.root.join("orchestrator/encryption.key")
    }

    /// The lock under which it makes every write.
    pub fn orchestrator_lock(&self) -> PathBuf {
        self.root.join("orchestrator/.lock")
    }

    /// What each application told its clients. Not part of any backup.
    pub fn acks(&self) -> PathBuf {
        self.root.join("acks")
    }

    /// What an application said on standard error.
    pub fn output(&self, name: &str) -> PathBuf {
        self.root.join("acks").join(format!("{name}.stderr"))
    }

    /// Holdfast's configuration.
    pub fn configuration(&self) -> PathBuf {
        self.root.join("holdfast.toml")
    }

    /// The repository.
    pub fn repository(&self) -> PathBuf {
        self.root.join("repository")
    }

    /// Its password.
    pub fn repository_password(&self) -> PathBuf {
        self.root.join("repository.key")
    }

    /// The recovery identity, an `age` file encrypted with a passphrase.
    pub fn recovery_identity(&self) -> PathBuf {
        self.root.join("recovery/identity.age")
    }

    /// The passphrase. It lies here because this is a demonstration, and would lie on no machine otherwise.
    pub fn recovery_passphrase(&self) -> PathBuf {
        self.root.join("recovery/passphrase.txt")
    }
}
