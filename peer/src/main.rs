//! The `peer` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    shoal_peer::cli::main()
}
