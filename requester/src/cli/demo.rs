//! placeholder
use std::path::Path;
use holdfast::failure::{Exit, Failure};
use super::args::DemoArgs;
use super::context::Context;
pub async fn run(_: &Context, _: DemoArgs) -> Result<Exit, Failure> { Ok(Exit::Failed) }
pub fn app(_: &str, _: &Path) -> Result<Exit, Failure> { Ok(Exit::Failed) }
