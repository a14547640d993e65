//! Generates the clients.

use std::error::Error;

const ROOT: &str = "../../proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={ROOT}");
    let files = protox::compile(["toggled/v1/toggle_service.proto", "toggled/v1/audit_service.proto"], [ROOT])?;
    tonic_prost_build::configure().build_server(false).compile_fds(files)?;
    Ok(())
}
