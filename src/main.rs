//! The program: see [`toggled::cli`].

use mimalloc::MiMalloc;

/// The C library's allocator keeps the memory of a peak load; mimalloc returns it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    toggled::cli::main(std::env::args_os())
}
