//! Arguments in, exit code out.

/// Content comes and goes in pieces from a block to a pack at the speed of the line. glibc either keeps what a pack
/// was once, or gets each piece anew from the kernel, page by page, which took a third of a mount's processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    lidfs::cli::main(std::env::args_os())
}
