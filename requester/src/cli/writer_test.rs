//! `writer test`: checks a writer by the rules for writers.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use holdfast_writer_api::protocol::Launcher;
use holdfast_writer_api::testkit::{
    Fixtures, Limits, ProgramFixtures, RULES, Report, Rule, Subject, Without, check,
};
use holdfast_writer_api::{Registry, chain};
use serde_json::{Map, Value};

use super::args::WriterTestArgs;
use super::backup::interruptible;
use super::context::{Context, own_program};
use super::orphans;

/// Longest settings file that is read.
const MAX_SETTINGS: u64 = 1 << 20;

pub async fn run(context: &Context, args: WriterTestArgs) -> Result<Exit, Failure> {
    let rules = chosen(&args)?;
    let fixtures = fixtures(&args)?;
    let testing = async { Ok(test(context, &args.program, &rules, &*fixtures).await) };
    let state = "the application is stopped, and the writer's processes are ended";
    let report = interruptible(testing, context, state, &AtomicBool::new(false)).await?;
    context.output.line(report.summary().trim_end());
    context.output.document(&report);
    Ok(if report.is_bad() { Exit::VerifyFailed } else { Exit::Ok })
}

async fn test(context: &Context, tested: &Path, rules: &[&'static Rule], fixtures: &dyn Fixtures) -> Report {
    let mut checked = Vec::with_capacity(rules.len());
    for rule in rules {
        let result = check(rule, fixtures, Limits::default()).await;
        context.output.line(result.text().trim_end());
        let left = orphans::end_all();
        if !left.is_empty() {
            let names = left.join("`, `");
            context.output.note(format!("{} left processes behind, which were ended: `{names}`", rule.id));
        }
        checked.push(result);
    }
    Report::new(tested.display().to_string(), checked)
}

/// The rules of the levels and numbers that were named; all, if none was.
fn chosen(args: &WriterTestArgs) -> Result<Vec<&'static Rule>, Failure> {
    let all = args.levels.is_empty() && args.rules.is_empty();
    let named = |rule: &Rule| args.rules.iter().any(|named| named.id == rule.id);
    Ok(RULES.iter().filter(|rule| all || args.levels.contains(&rule.level) || named(rule)).collect())
}

fn fixtures(args: &WriterTestArgs) -> Result<Box<dyn Fixtures>, Failure> {
    let settings = settings(args.settings.as_deref())?;
    let (writer, writer_type) = writer(args)?;
    let id = "test".to_owned();
    let Some(fixture) = &args.fixture else {
        let writer = Subject::program(writer, writer_type, Value::Object(settings)).with_id(id);
        return Ok(Box::new(Without { writer }));
    };
    let program = executable(fixture, "fixture")?;
    Ok(Box::new(ProgramFixtures { program, writer, writer_type, id, settings }))
}

/// How the writer is started, and its type: a built-in one by its name, any other as the program that it is.
fn writer(args: &WriterTestArgs) -> Result<(Launcher, String), Failure> {
    let name = args.program.to_string_lossy();
    if Registry::linked()?.get(&name).is_some() {
        let launcher = Launcher::new(own_program()?, ["writer", "serve", &*name]);
        return Ok((launcher, name.into_owned()));
    }
    let program = executable(&args.program, "writer")?;
    let of_file = args.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((Launcher::new(program, &args.arguments), args.writer_type.clone().unwrap_or(of_file)))
}

/// The program's absolute path.
fn executable(path: &Path, what: &str) -> Result<PathBuf, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let refused = |why: String| {
        let what = format!("the {what} {} cannot be started", path.display());
        Failure::new(Exit::Usage, what, why, NOTHING_CHANGED)
    };
    // Not its real path: a program may look at the name it was called by.
    let whole = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
    match std::fs::metadata(&whole) {
        Err(error) => Err(refused(error.to_string())),
        Ok(meta) if !meta.is_file() => Err(refused("it is no file".into())),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
            Err(refused("it is not executable".into()).help(format!("run `chmod +x {}`", path.display())))
        }
        Ok(_) => Ok(whole),
    }
}

/// The writer's settings of a file, TOML or JSON; without a file none.
fn settings(path: Option<&Path>) -> Result<Map<String, Value>, Failure> {
    let Some(path) = path else { return Ok(Map::new()) };
    let failed = |why: String| {
        let what = format!("the settings {} cannot be used", path.display());
        Failure::new(Exit::Usage, what, why, NOTHING_CHANGED)
            .help("it is the writer's table of the configuration, without `id` and `type`; TOML or JSON")
    };
    let text = read(path).map_err(|error| failed(error.to_string()))?;
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(&text).map_err(|error| failed(chain(&error)));
    }
    toml::from_str(&text).map_err(|error| failed(chain(&error)))
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_SETTINGS).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_toml_or_json_and_a_mistake_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |text: &str| {
            let path = folder.path().join("settings");
            std::fs::write(&path, text).unwrap();
            settings(Some(&path))
        };
        let expected = serde_json::json!({"database": "/srv/shop.db", "list": [1, 2]});
        for text in ["database = \"/srv/shop.db\"\nlist = [1, 2]\n", &expected.to_string()] {
            assert_eq!(Value::Object(file(text).unwrap()), expected);
        }
        let error = file("database = /srv").unwrap_err();
        assert_eq!(error.exit, Exit::Usage);
        assert!(error.what.contains("settings"), "{error}");
    }
}
