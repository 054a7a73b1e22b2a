//! The `holdfast-test-writer` command.

fn main() -> std::process::ExitCode {
    holdfast_writer_test::command_line()
}
