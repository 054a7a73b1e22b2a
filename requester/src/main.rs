//! The `holdfast` command: the library's command line, linked with the built-in writers.

// Without these lines they are not linked and the list is empty, silently.
use holdfast_writer_certificate_authority as _;
use holdfast_writer_plain as _;

fn main() -> std::process::ExitCode {
    holdfast::cli::run()
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::Registry;

    #[test]
    fn the_built_in_writers_are_linked() {
        assert_eq!(Registry::linked().unwrap().names(), ["certificate-authority", "files", "sqlite"]);
    }
}
