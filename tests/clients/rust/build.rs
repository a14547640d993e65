//! Generates the client with which the tests change flags.

use std::error::Error;

const ROOT: &str = "../../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let typed = protox::compile(["toggled/v1/toggle_service.proto"], [ROOT])?;
    tonic_prost_build::configure().build_server(false).compile_fds(typed)?;
    Ok(())
}
