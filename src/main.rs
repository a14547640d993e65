//! The program: see [`toggled::cli`].

use mimalloc::MiMalloc;

/// The C library's allocator keeps what a thousand slow readers once took; this one gives it back.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> std::process::ExitCode {
    toggled::cli::main(std::env::args_os())
}
