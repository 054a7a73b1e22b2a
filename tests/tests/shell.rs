//! Scripts as writers, in whole runs of the command: `holdfast writer shell`, with the example and with scripts that do
//! wrong. Whoever dies, and whatever the script does, its application is released.

#[path = "shell/site.rs"]
mod site;

#[path = "shell/faults.rs"]
mod faults;
#[path = "shell/killed.rs"]
mod killed;
#[path = "shell/runs.rs"]
mod runs;
