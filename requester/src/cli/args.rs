//! The command line. Stable: scripts rely on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use holdfast_writer_api::BackupType;
use holdfast_writer_api::duration;
use holdfast_writer_api::testkit::{self, Level, Rule};

use super::new::WriterNewArgs;

/// Backs up what has to hold still together, and brings it back.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  holdfast demo                                  see a whole disaster and its recovery, in a scratch folder
  holdfast backup                                back up all configured writers at one instant
  holdfast list backups                          what there is
  holdfast restore plan latest --writer ca       what a restore would do, and whether it could
  holdfast thaw --all                            something is stuck: release everything, now

Exit codes: 0 ok, 1 failed, 2 usage, 3 stored with allowed exceptions, 4 refused, 5 freeze aborted (all thawed),
6 THAW NOT CONFIRMED, 7 verify failed, 8 key, 9 chain, 10 no repository, 11 locked, 12 wrong password, 130 interrupted";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The configuration file [default: /etc/holdfast/holdfast.toml, for users XDG's]
    #[arg(long, short, global = true, env = "HOLDFAST_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where event logs, shadow records and registered restores are kept [default: /var/lib/holdfast]
    #[arg(long, global = true, env = "HOLDFAST_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where the session lock and the recorded holders are kept [default: /run/holdfast]
    #[arg(long, global = true, env = "HOLDFAST_RUNTIME_DIR", value_name = "DIR")]
    pub runtime_dir: Option<PathBuf>,
    /// The repository: a folder, or s3:URL/BUCKET with the feature `s3`
    #[arg(long, short, global = true, env = "HOLDFAST_REPO", value_name = "LOCATION")]
    pub repo: Option<String>,
    /// A file whose first line is the repository's password
    #[arg(
        long,
        global = true,
        env = "HOLDFAST_PASSWORD_FILE",
        value_name = "FILE",
        conflicts_with = "password_command"
    )]
    pub password_file: Option<PathBuf>,
    /// A command that prints the password; split at spaces, run without a shell
    #[arg(long, global = true, env = "HOLDFAST_PASSWORD_COMMAND", value_name = "COMMAND")]
    pub password_command: Option<String>,
    /// One JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for the repository library's own log
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows the main job in a scratch folder: live applications, backup, destruction, restore, proof
    Demo(DemoArgs),
    /// Lists writers, providers, shadow copies or backups
    #[command(subcommand)]
    List(List),
    /// Makes a backup of the configured writers at one instant
    #[command(after_help = "Example:\n  holdfast backup --writer ca --writer directory --tag nightly")]
    Backup(BackupArgs),
    /// Brings a set, or parts of it, back; `restore plan` only says what would happen
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Example:\n  holdfast restore plan latest --writer ca\n  holdfast restore latest --writer ca --stop\n  holdfast restore latest --to /srv/copy"
    )]
    Restore(RestoreCommand),
    /// What a start gate runs: finishes a registered restore, or fails and so keeps the application down
    #[command(
        after_help = "Example, in a systemd drop-in:\n  ExecStartPre=/usr/bin/holdfast recover --writer ca"
    )]
    Recover {
        /// Only this writer's
        #[arg(long, value_name = "ID")]
        writer: Option<String>,
        /// Give a registered restore up and put the old files back, where they still are
        #[arg(long)]
        roll_back: bool,
        /// The application is down, though that cannot be seen from here: your word for it
        #[arg(long)]
        assume_stopped: bool,
    },
    /// Checks a set: every byte, every document, and each component by its engine
    Verify {
        /// A set's id, the beginning of one, or `latest`
        set: String,
        /// Do not read the repository's data again, only the set's files
        #[arg(long)]
        quick: bool,
    },
    /// Forgets sets, by rules or by name; `prune` then frees the space
    #[command(
        after_help = "Example:\n  holdfast forget --keep-last 3 --keep-daily 14 --dry-run\n  holdfast forget 01a1fd2b --dry-run"
    )]
    Forget(ForgetArgs),
    /// Frees the space of what was forgotten
    Prune {
        /// Only say what would be freed
        #[arg(long, short = 'n')]
        dry_run: bool,
    },
    /// Ends every recorded holder: the panic button. Needs no configuration and no repository
    Thaw {
        /// All of them
        #[arg(long, required = true)]
        all: bool,
    },
    /// Removes what dead sessions left: shadow copies, partial sets
    Gc,
    /// Prints or checks a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// For writers in processes of their own
    #[command(subcommand)]
    Writer(WriterCommand),
    /// Recovery identities, to which keys are sealed
    #[command(subcommand)]
    Key(KeyCommand),
    #[command(hide = true, name = "demo-application")]
    DemoApp { name: String, dir: PathBuf },
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The scratch folder; must not exist or be empty [default: a new one under the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum List {
    /// The configured writers, their components and their state
    Writers,
    /// The providers, and what each makes of an instant
    Providers,
    /// Shadow copies on record
    Shadows,
    /// The sets of the repository
    Backups,
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The kind of backup; a writer that lacks it makes a full
    #[arg(long = "type", value_enum, default_value = "full", value_name = "TYPE")]
    pub backup_type: Type,
    /// Only these writers
    #[arg(long = "writer", value_name = "ID")]
    pub writers: Vec<String>,
    /// Only these components: WRITER/COMPONENT
    #[arg(long = "component", value_name = "ID/NAME")]
    pub components: Vec<String>,
    /// The longest hold, such as 800ms
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub freeze_budget: Option<Duration>,
    /// Store the set even if this writer fails (exit 3)
    #[arg(long = "allow-incomplete", value_name = "ID")]
    pub allow_incomplete: Vec<String>,
    /// Tags of the set
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Type {
    Full,
    Incremental,
    Differential,
    Log,
    Copy,
}

impl From<Type> for BackupType {
    fn from(value: Type) -> Self {
        match value {
            Type::Full => Self::Full,
            Type::Incremental => Self::Incremental,
            Type::Differential => Self::Differential,
            Type::Log => Self::Log,
            Type::Copy => Self::Copy,
        }
    }
}

#[derive(Debug, Args)]
pub struct RestoreCommand {
    #[command(subcommand)]
    pub plan: Option<RestorePlan>,
    #[command(flatten)]
    pub args: RestoreArgs,
}

#[derive(Debug, Subcommand)]
pub enum RestorePlan {
    /// Prints what a restore would do, in order, with every check and its result
    Plan(RestoreArgs),
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// A set's id, the beginning of one, or `latest`
    pub set: Option<String>,
    /// Only these writers
    #[arg(long = "writer", value_name = "ID")]
    pub writers: Vec<String>,
    /// Only these components: WRITER/COMPONENT
    #[arg(long = "component", value_name = "ID/NAME")]
    pub components: Vec<String>,
    /// Everything below this folder, at its original path
    #[arg(long, value_name = "DIR", conflicts_with = "map")]
    pub to: Option<PathBuf>,
    /// What was below OLD goes below NEW; the longest OLD counts
    #[arg(long, value_name = "OLD=NEW", value_parser = parse_map)]
    pub map: Vec<(PathBuf, PathBuf)>,
    /// Run the configured stop commands first
    #[arg(long)]
    pub stop: bool,
    /// The application is down, though that cannot be seen from here: your word for it
    #[arg(long)]
    pub assume_stopped: bool,
    /// Go on without the keys of the set
    #[arg(long)]
    pub without_keys: bool,
    /// Keep the old files beside the new ones
    #[arg(long)]
    pub keep_old: bool,
    #[command(flatten)]
    pub identity: IdentityArgs,
}

#[derive(Debug, Clone, Args)]
pub struct IdentityArgs {
    /// The recovery identity, to open sealed keys
    #[arg(long, value_name = "FILE", requires = "identity_passphrase_file")]
    pub identity: Option<PathBuf>,
    /// A file whose first line is its passphrase
    #[arg(long, value_name = "FILE")]
    pub identity_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("rules").multiple(true).args([
    "keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_tags",
]))]
pub struct ForgetArgs {
    /// Forget these and no others: each a set's id, or the beginning of one
    #[arg(value_name = "SET", conflicts_with = "rules")]
    pub sets: Vec<String>,
    /// Also the last set with a sealed key or a component, and one that cannot be read, so that nobody knows what it has
    #[arg(long, requires = "sets", conflicts_with = "rules")]
    pub even_last_copy: bool,
    /// Keep the newest N sets
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,
    /// Keep one set an hour, for the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,
    /// Keep one set a day
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,
    /// Keep one set a week
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,
    /// Keep one set a month
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,
    /// Keep one set a year
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,
    /// Keep all sets with this tag
    #[arg(long = "keep-tag", value_name = "TAG")]
    pub keep_tags: Vec<String>,
    /// Only say what would be forgotten, and why
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Free the space as well
    #[arg(long)]
    pub prune: bool,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Prints a configuration to begin with
    Generate,
    /// Checks the configuration, and asks each writer to identify itself
    Check,
}

#[derive(Debug, Subcommand)]
pub enum WriterCommand {
    /// Runs a linked writer on the socket it has as standard input
    Serve {
        /// Its registered name
        r#type: String,
    },
    /// Checks a writer by the rules for writers, on a sample application that is watched
    #[command(after_help = WRITER_TEST_HELP)]
    Test(WriterTestArgs),
    /// Makes a writer of a script, which is called with one word: describe, freeze, thaw, online
    #[command(after_help = SHELL)]
    Shell {
        /// The script
        script: PathBuf,
    },
    #[command(hide = true)]
    Guard { script: PathBuf },
    /// Makes a folder with a writer that works, and a sample application to try it on
    #[command(after_help = WRITER_NEW_HELP)]
    New(WriterNewArgs),
}

const WRITER_NEW_HELP: &str = "\
Example:
  holdfast writer new cache --lang python
  cd cache
  holdfast writer test ./cache --fixture ./fixture

The folder's README.md has what to type, in the language; docs/writing-a-writer.md has the rest.

Exit codes: 0 made, 2 no such name or language, 4 the folder is not empty, 1 it cannot be made; then nothing was changed";

const WRITER_TEST_HELP: &str = "\
Example:
  holdfast writer test ./my-writer --fixture ./fixture
  holdfast writer test sqlite --fixture ./fixture --level freeze

FIXTURE is a program that runs a sample application, called with a command and DIR, an empty folder of its own:
  start DIR          starts it in the background; prints {\"settings\": {...}}, the writer's
  poke DIR MS        one write past the writer, within MS milliseconds; prints its id, or exit status 75: held
  contents DIR       prints the ids that the application has
  contents-of DIR ROOT   the same of a restored copy below ROOT
  stop DIR, restart DIR, logs DIR
docs/writer-rules.md has the rest, and every rule with its reason.

Exit codes: 0 all rules are kept, 7 one is not, 2 the command line is wrong";

#[derive(Debug, Args)]
pub struct WriterTestArgs {
    /// The writer's program, or the type of a built-in writer
    pub program: PathBuf,
    /// What runs the sample application; without it only what the writer says can be checked
    #[arg(long, value_name = "PROGRAM")]
    pub fixture: Option<PathBuf>,
    /// The writer's settings, TOML or JSON; they win over those of the fixture
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// The writer's type [default: the program's file name]
    #[arg(long = "type", value_name = "TYPE")]
    pub writer_type: Option<String>,
    /// Only rules of these levels: freeze, log, restore, key
    #[arg(long = "level", value_name = "LEVEL", value_delimiter = ',', value_parser = parse_level)]
    pub levels: Vec<Level>,
    /// Only these rules: W3
    #[arg(long = "rule", value_name = "RULE", value_delimiter = ',', value_parser = parse_rule)]
    pub rules: Vec<&'static Rule>,
    /// Arguments of the writer's program
    #[arg(last = true, value_name = "ARGUMENT")]
    pub arguments: Vec<String>,
}

fn parse_level(text: &str) -> Result<Level, String> {
    text.parse()
}

fn parse_rule(text: &str) -> Result<&'static Rule, String> {
    testkit::rule(text)
        .ok_or_else(|| format!("there is no such rule; there are W1 to W{}", testkit::RULES.len()))
}

const SHELL: &str = "\
Started by a requester, most simply as the first line of the script itself:
  #!/usr/bin/env -S holdfast writer shell

The script is called with one word. Exit status 0 is done, 75 that it takes no part, anything else: no set is made.
  describe   prints TOML: paths = ['/srv/app'], and if wanted name, version, exclude, level, budget, service
  freeze     holds the application
  thaw       releases it; run after every freeze, whoever was killed, and again until it succeeds
  online     0 the application is up, 3 it is down
docs/writing-a-writer.md has the rest.";

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Makes a recovery identity: prints its public half, writes the private one to an encrypted age file
    #[command(
        after_help = "Example:\n  holdfast key identity --output /media/usb/recovery.age --passphrase-file /dev/stdin\n\nWho loses the file or its passphrase loses every key that was sealed to it. Keep it off this machine."
    )]
    Identity {
        /// The new file
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        /// A file whose first line is the passphrase
        #[arg(long, value_name = "FILE")]
        passphrase_file: PathBuf,
    },
}

fn parse_map(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (old, new) = text.split_once('=').ok_or("expected OLD=NEW")?;
    for path in [old, new] {
        if !Path::new(path).is_absolute() {
            return Err(format!("`{path}` must be an absolute path"));
        }
    }
    Ok((old.into(), new.into()))
}

/// root's place, or the user's own.
pub fn default_config() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/etc/holdfast/holdfast.toml".into();
    }
    user_dir("XDG_CONFIG_HOME", ".config").join("holdfast.toml")
}

/// root's place, or the user's own.
pub fn default_state() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/var/lib/holdfast".into();
    }
    user_dir("XDG_STATE_HOME", ".local/state")
}

/// root's place, or the user's own.
pub fn default_runtime() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return "/run/holdfast".into();
    }
    std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(|| default_state().join("run"), |base| Path::new(&base).join("holdfast"))
}

fn user_dir(variable: &str, below_home: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(below_home)))
        // Without a home there is no place of one's own; a fixed name under /tmp would be anybody's.
        .unwrap_or_else(|| "/var/lib".into())
        .join("holdfast")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_put_together_rightly() {
        Cli::command().debug_assert();
    }

    #[test]
    fn plan_and_restore_take_the_same_words() {
        let plan = Cli::try_parse_from(["holdfast", "restore", "plan", "latest", "--writer", "ca"]).unwrap();
        let go = Cli::try_parse_from(["holdfast", "restore", "latest", "--writer", "ca"]).unwrap();
        let (Command::Restore(plan), Command::Restore(go)) = (plan.command, go.command) else { panic!() };
        let Some(RestorePlan::Plan(planned)) = plan.plan else { panic!() };
        assert!(go.plan.is_none());
        assert_eq!((planned.set, planned.writers), (go.args.set, go.args.writers));
    }

    #[test]
    fn a_map_needs_absolute_paths_on_both_sides() {
        assert!(parse_map("/a=/b").is_ok());
        for bad in ["/a", "a=/b", "/a=b", "="] {
            assert!(parse_map(bad).is_err(), "{bad}");
        }
    }
}
