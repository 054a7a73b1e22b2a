//! Reads as much of a systemd unit as is needed to know what it runs, and where.
//! Owns: finding the unit and its drop-ins, continuation lines, resets, quoting. Not: specifiers and variables, whose
//! values only systemd knows; where one stands in a value that is needed, that is an error of the reader.

use std::path::{Path, PathBuf};

use super::{DiscoverError, read_configuration};

/// Where units lie, the strongest first.
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const MAX_DROP_INS: usize = 64;

/// What a unit says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Unit {
    /// Its file and its drop-ins.
    pub(crate) files: Vec<PathBuf>,
    /// The command lines of `ExecStart`, in words.
    pub(crate) commands: Vec<Vec<String>>,
    /// `WorkingDirectory`, if it is a plain path.
    pub(crate) working_directory: Option<PathBuf>,
}

/// Reads a unit by name or absolute path, with its drop-ins.
pub(crate) fn read(name: &str) -> Result<Unit, DiscoverError> {
    if name.starts_with('/') {
        return read_at(Path::new(name), &[]);
    }
    let name = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    let folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    let found = folders.iter().map(|folder| folder.join(&name)).find(|path| path.is_file());
    match found {
        Some(path) => read_at(&path, &folders),
        None => {
            Err(DiscoverError::content(Path::new(&name), format!("no such unit in {}", FOLDERS.join(", "))))
        }
    }
}

fn read_at(path: &Path, folders: &[PathBuf]) -> Result<Unit, DiscoverError> {
    // A unit is often a link into /usr/lib; what counts is what it leads to.
    let real = path.canonicalize().map_err(|source| DiscoverError::Read { path: path.to_owned(), source })?;
    let mut unit = Unit { files: vec![real.clone()], ..Unit::default() };
    unit.add(&real, &read_configuration(&real)?)?;
    let mut drop_ins: Vec<PathBuf> = Vec::new();
    let own = [path.parent().unwrap_or(Path::new("/")).to_owned()];
    for folder in if folders.is_empty() { &own } else { folders } {
        let mut directory = folder.join(path.file_name().unwrap_or_default()).into_os_string();
        directory.push(".d");
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        for file in entries.flatten().map(|entry| entry.path()).take(MAX_DROP_INS) {
            let known = drop_ins.iter().any(|other| other.file_name() == file.file_name());
            // The stronger folder hides a drop-in of the same name.
            if !known && file.extension().is_some_and(|extension| extension == "conf") {
                drop_ins.push(file);
            }
        }
    }
    drop_ins.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    for file in drop_ins {
        let text = read_configuration(&file)?;
        unit.add(&file, &text)?;
        unit.files.push(file);
    }
    Ok(unit)
}

impl Unit {
    fn add(&mut self, path: &Path, text: &str) -> Result<(), DiscoverError> {
        let mut service = false;
        for line in logical_lines(text) {
            if line.starts_with('[') {
                service = line == "[Service]";
            } else if let (true, Some((key, value))) = (service, line.split_once('=')) {
                match (key.trim(), value.trim()) {
                    ("ExecStart", "") => self.commands.clear(),
                    ("ExecStart", value) => {
                        let words = words(value).ok_or_else(|| {
                            DiscoverError::content(path, "ExecStart has an open quotation mark")
                        })?;
                        self.commands.push(words);
                    }
                    ("WorkingDirectory", value) => {
                        let folder = value.trim_start_matches('-');
                        self.working_directory = folder.starts_with('/').then(|| folder.into());
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// Lines without comments, those ending in a backslash joined with the next.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) || (line.is_empty() && open.is_none()) {
            continue;
        }
        let (part, goes_on) = line.strip_suffix('\\').map_or((line, false), |part| (part, true));
        let joined = open.take().map_or_else(|| part.to_owned(), |start| format!("{start} {part}"));
        if goes_on { open = Some(joined) } else { lines.push(joined) }
    }
    lines.extend(open);
    lines
}

/// Splits a command as systemd does: white space, both quotation marks, C-style escapes, the program's prefixes.
/// `None` when a quotation mark stays open.
pub(crate) fn words(line: &str) -> Option<Vec<String>> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => {
                let escaped = match letters.next()? {
                    'n' => '\n',
                    't' => '\t',
                    's' => ' ',
                    'x' => {
                        let digits: String = letters.by_ref().take(2).collect();
                        char::from(u8::from_str_radix(&digits, 16).ok()?)
                    }
                    other => other,
                };
                word.get_or_insert_default().push(escaped);
            }
            mark if quote == Some(mark) => quote = None,
            mark @ ('"' | '\'') if quote.is_none() => {
                quote = Some(mark);
                word.get_or_insert_default();
            }
            space if quote.is_none() && space.is_whitespace() => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    if let Some(program) = words.first_mut() {
        *program = program.trim_start_matches(['-', '@', ':', '+', '!']).to_owned();
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_split_as_systemd_splits_them() {
        let split = |line| words(line).unwrap();
        assert_eq!(split("-/usr/bin/cfssl serve  -ca ca.pem"), ["/usr/bin/cfssl", "serve", "-ca", "ca.pem"]);
        assert_eq!(
            split(r#"/bin/x "a b" 'c "d"' e\sf \x41 """#),
            ["/bin/x", "a b", "c \"d\"", "e f", "A", ""]
        );
        assert_eq!(split(""), Vec::<String>::new());
        for open in ["\"a", "'a", "a\\", "\\xZ1"] {
            assert_eq!(words(open), None, "{open}");
        }
    }

    #[test]
    fn drop_ins_replace_the_command_and_other_sections_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("ca.service");
        std::fs::write(
            &path,
            "[Unit]\nExecStart=/no\n[Service]\n# comment\nWorkingDirectory=/srv/old\nExecStart=/usr/bin/cfssl serve \\\n   -ca \\\n# in between\n a.pem\n",
        )
        .unwrap();
        let plain = read(path.to_str().unwrap()).unwrap();
        assert_eq!(plain.commands, [["/usr/bin/cfssl", "serve", "-ca", "a.pem"]]);
        assert_eq!(plain.working_directory.as_deref(), Some(Path::new("/srv/old")));
        std::fs::create_dir(folder.path().join("ca.service.d")).unwrap();
        let drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/cfssl serve -ca b.pem\nWorkingDirectory=~\n";
        std::fs::write(folder.path().join("ca.service.d/10.conf"), drop_in).unwrap();
        std::fs::write(folder.path().join("ca.service.d/ignored.txt"), "[Service]\nExecStart=/no\n").unwrap();
        let changed = read(path.to_str().unwrap()).unwrap();
        assert_eq!(changed.commands, [["/usr/bin/cfssl", "serve", "-ca", "b.pem"]]);
        assert_eq!((changed.working_directory, changed.files.len()), (None, 2));
    }
}
