//! Messages read back, and lengths are bounded.

use super::*;
use std::io;

#[test]
fn messages_read_back() {
    let request = Request::Prepare {
        spec: Spec {
            id: ferry_model::ids::WorkloadId([1; 16]),
            name: "a".into(),
            command: vec!["b".into()],
            env: vec![],
            cwd: "/".into(),
            user: None,
            terminal: Some(Size { rows: 2, columns: 3 }),
            network: None,
            with: vec![],
            memory_bytes_max: None,
            cpu_milli_max: None,
            hostname: None,
        },
        state: vec![1, 2, 3].into(),
        as_clone: true,
    };
    let mut bytes = Vec::new();
    send(&mut bytes, &request).unwrap();
    assert_eq!(receive::<Request>(&mut bytes.as_slice()).unwrap(), request);
    bytes.truncate(bytes.len() - 1);
    assert!(receive::<Request>(&mut bytes.as_slice()).is_err());
}

#[test]
fn a_freeze_without_words_is_one_before_a_move() {
    // As a node of an older version asks.
    let framed = [3, 0, 0, 0, 0x82, 8, 0x80];
    assert_eq!(receive::<Request>(&mut framed.as_slice()).unwrap(), Request::Freeze { stays: None });
}

#[test]
fn only_a_prepared_copy_that_is_whole_can_start() {
    let status = |phase, whole| Status {
        phase,
        spec: None,
        pid: None,
        exit: None,
        adopted: false,
        shim_pid: 1,
        log: String::new(),
        init: None,
        whole,
    };
    assert!(status(Phase::Prepared, Some(true)).can_start().is_ok());
    assert!(status(Phase::Prepared, None).can_start().is_ok());
    assert!(status(Phase::Prepared, Some(false)).can_start().unwrap_err().contains("killed"));
    for phase in [Phase::Building, Phase::Lost, Phase::Exited, Phase::Empty] {
        assert!(status(phase, None).can_start().is_err(), "{phase:?}");
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
    let bytes = u32::MAX.to_le_bytes();
    assert_eq!(receive::<Answer>(&mut bytes.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
}
