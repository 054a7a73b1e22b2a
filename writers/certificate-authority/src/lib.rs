//! The writer for certificate authorities on SQLite: database, private keys, configuration, CRLs.
//!
//! Owns: what a CA consists of (from settings, or discovered from cfssl's and django-ca's own configuration), its hold,
//! the proof and the sealing of its keys, the checks of a restored copy.
//! Leaves to others: SQLite's files and locks (`holdfast-store-sqlite`), keys and seals (`holdfast-store-keys`), the
//! order of a run (the requester).
//!
//! ```toml
//! [[writer]]
//! id = "ca"
//! type = "certificate-authority"
//! database = "/srv/ca/db.sqlite3"
//! certificate = "/srv/ca/ca.pem"                # or a list
//! private-keys = ["/srv/ca/ca-key.pem"]         # or { path, purpose, certificate, passphrase-file, opaque }
//! configuration = ["/etc/ca"]                   # files and folders
//! dynamic-files = ["/srv/ca/crl"]
//!
//! [[writer]]
//! id = "cfssl"
//! type = "certificate-authority"
//! discover = { cfssl = "/srv/cfssl/db.json", unit = "cfssl.service" }   # or ca, ca-key, config
//!
//! [[writer]]
//! id = "django-ca"
//! type = "certificate-authority"
//! discover = { django-ca = "/srv/pki", python = "/srv/pki/venv/bin/python" }
//! ```
//!
//! Private keys are a component of their own kind. They leave this writer sealed or not at all, and are in no other file
//! set: a folder of the configuration that turns out to hold one refuses the backup, naming it.

mod backup;
mod components;
mod discover;
mod hold;
mod installation;
mod issued;
mod keys;
mod restore;
mod settings;
mod walk;
mod writer;

pub use discover::DiscoverError;
pub use settings::{Discover, KeySetting, Settings};
pub use writer::{CertificateAuthority, DESCRIPTOR, TYPE};
