//! What a new writer's folder consists of, by language: the files in `requester/templates`.

use super::Language;

/// A file of a new writer.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Where it goes, below the folder.
    pub path: &'static str,
    pub text: &'static str,
    pub executable: bool,
}

/// Stands for the writer's name in paths and texts.
pub const NAME: &str = "@NAME@";
/// Stands for the place of the crate `holdfast-writer-api` in texts.
pub const API: &str = "@API@";

const fn file(path: &'static str, text: &'static str) -> Template {
    Template { path, text, executable: false }
}

const fn program(path: &'static str, text: &'static str) -> Template {
    Template { path, text, executable: true }
}

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../templates/", $path))
    };
}

const FIXTURE: Template = program("fixture", template!("sample/fixture"));

const RUST: &[Template] = &[
    file("README.md", template!("rust/README.md")),
    file("Cargo.toml", template!("rust/Cargo.toml")),
    file(".gitignore", template!("rust/gitignore")),
    FIXTURE,
    file("src/main.rs", template!("rust/src/main.rs")),
    file("src/backup.rs", template!("rust/src/backup.rs")),
    file("src/restore.rs", template!("rust/src/restore.rs")),
];

const PYTHON: &[Template] = &[
    file("README.md", template!("python/README.md")),
    FIXTURE,
    program(NAME, template!("python/NAME")),
    file("holdfast_writer.py", include_str!("../../../../writer-api/python/holdfast_writer.py")),
];

const SHELL: &[Template] =
    &[file("README.md", template!("shell/README.md")), FIXTURE, program(NAME, template!("shell/NAME"))];

/// The files of a writer in `language`.
pub const fn of(language: Language) -> &'static [Template] {
    match language {
        Language::Rust => RUST,
        Language::Python => PYTHON,
        Language::Shell => SHELL,
    }
}

/// What the README tells to type first, line by line.
pub fn first_commands(readme: &str) -> Vec<String> {
    let block = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.unwrap_or_default().lines().map(str::to_owned).collect()
}
