//! The program: see [`toggled::cli`].

fn main() -> std::process::ExitCode {
    toggled::cli::main(std::env::args_os())
}
