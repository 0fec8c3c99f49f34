//! The `tracker` command; everything is in the library.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shoal_tracker::cli::main()
}
