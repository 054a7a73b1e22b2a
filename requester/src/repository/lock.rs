//! Locks in restic's form.

use std::fmt;

use jiff::Timestamp;

/// Who holds a lock, as written in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// Host name.
    pub host: String,
    /// User name.
    pub user: String,
    /// Process on that host.
    pub pid: u32,
    /// When the lock was taken or last refreshed.
    pub since: Timestamp,
    /// Whether it excludes readers too.
    pub exclusive: bool,
}

impl fmt::Display for LockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, user, pid, since, exclusive } = self;
        let kind = if *exclusive { "exclusively " } else { "" };
        write!(f, "{user}@{host}, process {pid}, {kind}since {since}")
    }
}
