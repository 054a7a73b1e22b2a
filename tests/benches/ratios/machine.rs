//! What the numbers were measured on, and with which versions of the others.

use std::{env, fs, process::Command};

use holdfast_tests::process::command;

/// A markdown list.
pub fn describe() -> String {
    let cpu = value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = value_of("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory = memory.split(' ').next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let kernel = first_line(command("uname").arg("-sr"));
    let scratch = env::temp_dir();
    let filesystem = first_line(command("stat").args(["--file-system", "--format", "%T"]).arg(&scratch));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "- Machine: {cpu}, {cores} cores, {memory} GiB of memory; load average before the run: {load}\n\
         - System: {kernel}; repositories on {filesystem}, data on btrfs on a loop device on it\n\
         - Holdfast {}, release build\n- {}\n- {}\n- SQLite {} (the application's, through Python)\n",
        env!("CARGO_PKG_VERSION"),
        first_line(command("restic").arg("version")),
        first_line(command("btrfs").arg("--version")),
        first_line(command("python3").args(["-c", "import sqlite3; print(sqlite3.sqlite_version)"])),
    )
}

fn value_of(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or("not installed").to_owned()
}
