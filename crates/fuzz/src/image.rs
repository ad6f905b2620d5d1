//! The image reader, from behind the signature: what a trusted host that went mad could make it read.

use ferry_image::manifest::{Manifest, Record, Stream};
use ferry_image::{HostFacts, PublicKey, Trust, Workload};
use ferry_model::ids::{Epoch, Hash, WorkloadId};

/// Reads a manifest. One that is accepted has chunks that cover its ranges exactly, and reads back as it is.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = ferry_image::fuzzing::check_manifest(bytes) {
        let again = minicbor::to_vec(&manifest).expect("a manifest can be written");
        let read = ferry_image::fuzzing::check_manifest(&again).expect("what was accepted is accepted again");
        assert_eq!(read, manifest);
    }
}

/// Manifests with memory, streams and records.
#[must_use]
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let empty = Manifest {
        format: 1,
        workload: Workload {
            id: WorkloadId([3; 16]),
            name: "web".into(),
            epoch: Epoch(1),
            kind: "process".into(),
        },
        created_unix_ms: 1,
        host: HostFacts { cpu_features: vec!["sse2".into(), "avx".into()], ..HostFacts::default() },
        ends: true,
        records: vec![],
        streams: vec![],
        spaces: vec![],
        pages: vec![],
    };
    let mut full = empty.clone();
    full.records = vec![Record { name: "tasks.cbor".into(), bytes: 5, hash: Hash::of(b"tasks") }];
    full.streams = vec![Stream { name: "upper".into(), bytes: 9000, chunk_bytes: 8192, hashes: vec![7; 64] }];
    full.pages = vec![1 << 20, 4096];
    full.spaces = ferry_image::fuzzing::sample_spaces();
    [empty, full]
        .iter()
        .map(|manifest| minicbor::to_vec(manifest).expect("a manifest can be written"))
        .collect()
}

/// Reads a signature file. None that was not made with the key can pass.
pub fn signature(bytes: &[u8]) {
    let trust = Trust { keys: vec![PublicKey([1; 32])], any: true };
    assert!(ferry_image::fuzzing::check_signature(b"a manifest that nobody signed", bytes, &trust).is_err());
}

/// A file of the right shape.
#[must_use]
pub fn signature_seeds() -> Vec<Vec<u8>> {
    let mut file = b"FERRYSG1".to_vec();
    file.extend_from_slice(&[9; 96]);
    vec![file]
}
