//! The requester against writers that misbehave in every phase and in every way. After each run: the exit code and what
//! is said are as documented, the application beside them writes on, no process and nothing of the session is left, and
//! the writers' journal breaks no rule of `docs/test-writer.md`.

#[path = "scripted/backup.rs"]
mod backup;
#[path = "scripted/lies.rs"]
mod lies;
#[path = "scripted/manual.rs"]
mod manual;
#[path = "scripted/restore.rs"]
mod restore;
#[path = "scripted/scene.rs"]
mod scene;
#[path = "scripted/table.rs"]
mod table;
#[path = "scripted/together.rs"]
mod together;
