//! The contract between Holdfast's requester and its writers.
//!
//! A *writer* speaks for one application: it says which files are its data, holds them still while
//! the requester cuts a shadow copy, and checks and recovers them when they come back. This crate is
//! all that a writer depends on. It contains the traits, the documents both sides exchange, the rules
//! both sides follow, and the protocol that carries them to a writer in a process of its own. It does
//! no I/O but that protocol's.
//!
//! Start reading at [`Writer`]; `docs/ARCHITECTURE.md` shows a whole run.

pub mod budget;
pub mod document;
pub mod duration;
mod error;
mod metadata;
pub mod pattern;
pub mod protocol;
mod registry;
pub mod schema;
pub mod selection;
pub mod state;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(feature = "testkit")]
pub mod testkit;
mod writer;

pub use error::{Cause, Reaction, Retry, WriterError, chain};
pub use metadata::{
    BackupTypes, Capabilities, Component, ComponentKind, ComponentRef, DataSource, Dependency, FileRole,
    FileSet, FreezeLevel, KeyFile, METADATA_SCHEMA, RestoreMethod, RestorePolicy, RestoreRank, Usage,
    WriterMetadata,
};
pub use registry::{Registry, RegistryError, SettingsError, WriterConfig, WriterDescriptor};
pub use writer::{
    BackupOutcome, BackupParticipant, BackupRequest, BackupType, CheckReport, Finding, FreezeContext,
    HookOutcome, HookStep, KeySeal, LogFile, Mark, OnFailure, OnlineState, PhaseContext, PostSnapshot,
    Prepared, RecoverContext, Recovered, Registration, RestoreParticipant, RestoreRequest, SealedKey,
    ShadowContext, StagedFiles, Stream, StreamFile, Thawed, Truncated, Writer,
};

// What a writer's own crate needs besides, so that it needs no other.
pub use async_trait::async_trait;
pub use inventory;
