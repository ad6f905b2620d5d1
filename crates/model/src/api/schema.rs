//! How identities look in the OpenAPI document: strings, each with its shape.

use crate::ids::{BootId, Epoch, Hash, HostName, MoveId, WorkloadId};
use std::borrow::Cow;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! text {
    ($type:ty, $name:literal, $pattern:literal, $about:literal) => {
        impl PartialSchema for $type {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text.pattern(Some($pattern)).description(Some($about)).build().into()
            }
        }
        impl ToSchema for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        }
    };
}

text!(WorkloadId, "WorkloadId", "^w-[0-9a-f]{32}$", "A workload, for as long as it lives, on whatever host.");
text!(MoveId, "MoveId", "^m-[0-9a-f]{32}$", "One attempt to move one workload.");
text!(BootId, "BootId", "^b-[0-9a-f]{32}$", "One boot of one host.");
text!(HostName, "HostName", "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$", "A host's name.");
text!(Hash, "Hash", "^[0-9a-f]{64}$", "A BLAKE3 hash.");

impl PartialSchema for Epoch {
    fn schema() -> RefOr<Schema> {
        let about = "How often a workload has changed hands.";
        ObjectBuilder::new().schema_type(Type::Integer).description(Some(about)).build().into()
    }
}

impl ToSchema for Epoch {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Epoch")
    }
}
