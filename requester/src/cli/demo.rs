//! placeholder
use super::args::DemoArgs;
use super::context::Context;
use holdfast::failure::{Exit, Failure};
use std::path::Path;
pub async fn run(_: &Context, _: DemoArgs) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
pub fn app(_: &str, _: &Path) -> Result<Exit, Failure> {
    Ok(Exit::Failed)
}
