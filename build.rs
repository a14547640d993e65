//! Compiles the .proto files, without protoc: protox parses them, tonic's generator writes the code.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Type;

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

    let mut typed = FileDescriptorSet::decode(&descriptors[..])?;
    keep_contexts_encoded(&mut typed);
    tonic_prost_build::configure().codec_path("crate::api::codec::BoundedCodec").compile_fds(typed)?;
    Ok(())
}

/// Generates the evaluation contexts in flagd's requests as bytes, which look the same on the wire. No flag depends on them, and decoded they
/// take up to two hundred times the memory.
fn keep_contexts_encoded(descriptors: &mut FileDescriptorSet) {
    let messages = descriptors.file.iter_mut().flat_map(|file| &mut file.message_type);
    for request in messages.filter(|message| message.name().ends_with("Request")) {
        for field in request.field.iter_mut().filter(|field| field.type_name() == ".google.protobuf.Struct") {
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
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
