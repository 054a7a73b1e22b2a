//! placeholder
use super::args::{IdentityArgs, RestoreCommand};
use super::context::Context;
use holdfast::config::Config;
use holdfast::failure::{Exit, Failure};
use holdfast::repository::{Repository, StoredSet};
pub async fn run(_: &Context, _: RestoreCommand) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
pub async fn recover(_: &Context, _: Option<&str>, _: &IdentityArgs, _: bool) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
pub async fn verify(_: &Context, _: &Config, _: Repository, _: StoredSet, _: bool) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
