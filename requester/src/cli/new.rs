//! `writer new`: a folder with a writer that works, to begin with.
//!
//! Owns: that the folder is there whole or not at all, and that nothing of anybody's is overwritten.

mod templates;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use clap::{Args, ValueEnum};
use holdfast_writer_api::Registry;
use serde::Serialize;

use super::context::Context;
use templates::{API, NAME, Template};

/// Longest name; the configuration takes no longer type.
const MAX_NAME: usize = 64;
/// Cargo builds into folders of these names.
const CARGOS_OWN: [&str; 4] = ["build", "deps", "examples", "incremental"];
const CRATE: &str = "holdfast-writer-api";
/// Where this program was built: whoever builds Holdfast from a checkout has the crate there.
const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../writer-api");

#[derive(Debug, Args)]
pub struct WriterNewArgs {
    /// The writer's type: what `type = "…"` in the configuration will say, and what its program is called
    #[arg(value_parser = parse_name)]
    pub name: String,
    /// What it is written in
    #[arg(long, value_enum, default_value = "rust", value_name = "LANGUAGE")]
    pub lang: Language,
    /// The folder; must not exist or be empty [default: NAME]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// For Rust: the crate holdfast-writer-api, a folder or the URL of a Git repository [default: the checkout that this
    /// program was built from]
    #[arg(long, value_name = "PLACE")]
    pub api: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    Rust,
    Python,
    Shell,
}

#[derive(Serialize)]
struct Made<'m> {
    schema: &'static str,
    name: &'m str,
    language: Language,
    folder: &'m Path,
    files: Vec<String>,
    /// What to type next, in the folder.
    next: Vec<String>,
}

/// A writer's type that is a name in every language as well.
fn parse_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    if begins && text.len() <= MAX_NAME && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("a letter, then letters, digits, `-` and `_`; {MAX_NAME} at most"))
}

pub fn run(context: &Context, args: &WriterNewArgs) -> Result<Exit, Failure> {
    let WriterNewArgs { name, lang: language, .. } = args;
    is_free(name, *language)?;
    let api = match language {
        Language::Rust => dependency(args.api.as_deref(), Path::new(BUILT_FROM))?,
        Language::Python | Language::Shell if args.api.is_some() => {
            return Err(Failure::refused(Exit::Usage, "`--api` is for writers in Rust"));
        }
        Language::Python | Language::Shell => String::new(),
    };
    let fill = |text: &str| text.replace(NAME, name).replace(API, &api);
    let files = templates::of(*language);
    let given = args.dir.clone().unwrap_or_else(|| name.into());
    let folder = std::path::absolute(&given).map_err(|error| failed(&given, error))?;
    make(&folder, files, &fill).map_err(|error| failed(&folder, error))?;

    let paths: Vec<_> = files.iter().map(|file| fill(file.path)).collect();
    let mut next = vec![format!("cd {}", as_typed(&given.to_string_lossy()))];
    next.extend(templates::first_commands(&fill(files[0].text)));
    let output = context.output;
    output.line(format!("made {}: a writer, and a sample application to try it on", given.display()));
    output.line(format!("  {}", paths.join("  ")));
    output.line("next:");
    next.iter().for_each(|command| output.line(format!("  {command}")));
    output.line("README.md says how it is made yours, and installed");
    output.document(&Made {
        schema: "holdfast.writer-new/1",
        name,
        language: *language,
        folder: &folder,
        files: paths,
        next: next.split_off(1),
    });
    Ok(Exit::Ok)
}

/// Refuses a name that could never be this writer's.
fn is_free(name: &str, language: Language) -> Result<(), Failure> {
    if Registry::linked()?.get(name).is_some() {
        let what = format!("`{name}` is the type of a built-in writer, which would be found first");
        return Err(Failure::refused(Exit::Usage, what).help("choose another name"));
    }
    let is_taken = templates::of(language).iter().any(|file| file.path.split('/').next() == Some(name));
    if is_taken || (language == Language::Rust && CARGOS_OWN.contains(&name)) {
        let what = format!("`{name}` is the name of something else in the folder");
        return Err(Failure::refused(Exit::Usage, what).help("choose another name"));
    }
    Ok(())
}

/// How `Cargo.toml` names the crate.
fn dependency(given: Option<&str>, built_from: &Path) -> Result<String, Failure> {
    const HELP: &str =
        "it is in no registry yet: give `--api CHECKOUT/writer-api`, or the URL of Holdfast's Git repository";
    let refused = |what: String| Err(Failure::refused(Exit::Usage, what).help(HELP));
    if let Some(url) = given.filter(|given| given.contains("://")) {
        let Some(url) = quoted(url) else { return refused(format!("`{url}` cannot stand in Cargo.toml")) };
        return Ok(format!("{{ git = {url} }}"));
    }
    let folder = given.map_or(built_from, Path::new);
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    if !manifest.contains(&format!("name = \"{CRATE}\"")) {
        return refused(match given {
            Some(given) => format!("the crate {CRATE} is not in {given}"),
            None => format!("a writer in Rust needs the crate {CRATE}, and it is not known where that is"),
        });
    }
    match folder.canonicalize().ok().as_deref().and_then(Path::to_str).and_then(quoted) {
        Some(path) => Ok(format!("{{ path = {path} }}")),
        None => refused(format!("the path of {} cannot stand in Cargo.toml", folder.display())),
    }
}

/// As TOML takes it literally.
fn quoted(text: &str) -> Option<String> {
    let plain = |c: char| c != '\'' && !c.is_control();
    text.chars().all(plain).then(|| format!("'{text}'"))
}

/// As a shell takes it literally.
fn as_typed(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./+".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Makes the folder beside its place, and moves it there once it is whole.
fn make(folder: &Path, files: &[Template], fill: &dyn Fn(&str) -> String) -> io::Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(io::ErrorKind::DirectoryNotEmpty.into());
    };
    // Found first where it can be; the move finds it again if somebody else was quicker.
    match std::fs::symlink_metadata(folder) {
        Ok(found) if !found.is_dir() => return Err(io::ErrorKind::NotADirectory.into()),
        Ok(_) if std::fs::read_dir(folder)?.next().is_some() => {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let prefix = format!(".{}.", name.to_string_lossy());
    // As the user's mask has it, not closed to others as temporary folders are.
    let open = std::fs::Permissions::from_mode(0o777);
    let making = tempfile::Builder::new().prefix(&prefix).permissions(open).tempdir_in(parent)?;
    for file in files {
        let path = making.path().join(fill(file.path));
        if let Some(above) = path.parent() {
            std::fs::create_dir_all(above)?;
        }
        let mode = if file.executable { 0o777 } else { 0o666 };
        let mut made = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        made.write_all(fill(file.text).as_bytes())?;
    }
    // Takes the place of an empty folder, and of nothing else.
    std::fs::rename(making.path(), folder)?;
    let _ = making.keep();
    Ok(())
}

fn failed(folder: &Path, error: io::Error) -> Failure {
    let shown = folder.display();
    if error.kind() == io::ErrorKind::DirectoryNotEmpty {
        let what = format!("{shown} is there and not empty; nothing is overwritten");
        return Failure::refused(Exit::Refused, what)
            .help("name another folder with `--dir`, which must not exist or be empty");
    }
    Failure::new(Exit::Failed, format!("{shown} cannot be made"), error, NOTHING_CHANGED)
        .help("name a folder whose parent is there and yours to write with `--dir`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_in_every_language() {
        for good in ["redis", "My_App-2", "x"] {
            assert_eq!(parse_name(good).as_deref(), Ok(good));
        }
        for bad in ["", "2nd", "-x", ".x", "a.b", "a/b", "ü", "a b", "a\n", &"x".repeat(65)] {
            parse_name(bad).unwrap_err();
        }
    }

    #[test]
    fn the_crate_is_in_the_checkout_or_where_it_was_said() {
        let own = dependency(None, Path::new(BUILT_FROM)).unwrap();
        assert!(own.starts_with("{ path = '/") && own.ends_with("/writer-api' }"), "{own}");
        assert_eq!(
            dependency(Some("https://example.org/h"), Path::new("/")).unwrap(),
            "{ git = 'https://example.org/h' }"
        );
        for (given, built_from, why) in [
            (None, "/not/there", "it is not known where that is"),
            (Some("/not/there"), BUILT_FROM, "is not in /not/there"),
            (Some("ssh://it's"), BUILT_FROM, "cannot stand in Cargo.toml"),
        ] {
            let error = dependency(given, Path::new(built_from)).unwrap_err();
            assert!(error.exit == Exit::Usage && error.what.contains(why), "{error}");
        }
    }

    #[test]
    fn a_path_is_typed_so_that_a_shell_takes_it() {
        assert_eq!(as_typed("../my-cache"), "../my-cache");
        assert_eq!(as_typed("it's here"), r"'it'\''s here'");
    }

    #[test]
    fn a_folder_that_cannot_be_finished_is_not_begun() {
        let place = tempfile::tempdir().unwrap();
        let twice = [templates::of(Language::Python)[0]; 2];
        let error = make(&place.path().join("x"), &twice, &str::to_owned).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "something was left");
    }
}
