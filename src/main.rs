//! Arguments in, exit code out.

fn main() -> std::process::ExitCode {
    lidfs::cli::main(std::env::args_os())
}
