//! The record files of a process image: one for each kind of kernel object, so that a person finds them in the folder.

use super::facts::Moment;
use ferry_image::{Verified, Writer};
use ferry_model::error::{Error, Kind, Result};
use ferry_process::records::{State, VERSION};
use minicbor::{Decode, Encode};

const VERSION_FILE: &str = "version.cbor";
const TASKS: &str = "tasks.cbor";
const SPACES: &str = "spaces.cbor";
const OBJECTS: &str = "objects.cbor";
const FILES: &str = "files.cbor";
const CAPSULE: &str = "capsule.cbor";
const MOMENT: &str = "moment.cbor";

/// Writes every part of `state` and the moment of the freeze.
pub fn write(writer: &mut Writer, state: &State, moment: &Moment) -> Result<()> {
    writer.record(VERSION_FILE, &encode(&state.version))?;
    writer.record(TASKS, &encode(&state.tasks))?;
    writer.record(SPACES, &encode(&state.spaces))?;
    writer.record(OBJECTS, &encode(&state.objects))?;
    writer.record(FILES, &encode(&state.files))?;
    if let Some(capsule) = &state.capsule {
        writer.record(CAPSULE, &encode(capsule))?;
    }
    writer.record(MOMENT, &encode(moment))?;
    Ok(())
}

/// Reads them back.
pub fn read(image: &Verified) -> Result<(State, Moment)> {
    let version: u32 = decode(image, VERSION_FILE)?;
    if version > VERSION {
        let text = format!(
            "The records of the image have version {version}; this version of Ferry reads up to {VERSION}"
        );
        return Err(Error::new(Kind::Refused, text)
            .hint("Restore it with the version of Ferry that wrote it, or a later one"));
    }
    let state = State {
        version,
        tasks: decode(image, TASKS)?,
        spaces: decode(image, SPACES)?,
        objects: decode(image, OBJECTS)?,
        files: decode(image, FILES)?,
        capsule: image.record(CAPSULE).map(|bytes| parse(bytes, CAPSULE)).transpose()?,
    };
    Ok((state, decode(image, MOMENT)?))
}

fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("writing to a vector cannot fail")
}

fn decode<'a, T: Decode<'a, ()>>(image: &'a Verified, name: &str) -> Result<T> {
    let bytes = image.record(name).ok_or_else(|| malformed(name, "it is not there"))?;
    parse(bytes, name)
}

fn parse<'a, T: Decode<'a, ()>>(bytes: &'a [u8], name: &str) -> Result<T> {
    minicbor::decode(bytes).map_err(|e| malformed(name, &e.to_string()))
}

fn malformed(name: &str, why: &str) -> Error {
    Error::new(Kind::Refused, format!("The record {name} of the image cannot be read: {why}"))
        .hint("It is signed, so the host that wrote it wrote it so: make the checkpoint again")
}
