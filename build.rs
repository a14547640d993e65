//! Compiles the .proto files, without protoc: protox parses them, tonic's generator writes the code.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;

const ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    // The generator does not say what it depends on.
    println!("cargo:rerun-if-changed={ROOT}");
    println!("cargo:rerun-if-changed=migrations");

    let mut files = Vec::new();
    collect(Path::new(ROOT), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler.include_source_info(true).include_imports(true).open_files(&files)?;
    // The encoded form keeps custom options, which the typed one drops: policies are read from it, and reflection
    // serves it.
    let descriptors = compiler.encode_file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), &descriptors)?;

    let typed = prost_types::FileDescriptorSet::decode(&descriptors[..])?;
    tonic_prost_build::configure().build_client(true).compile_fds(typed)?;
    Ok(())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
