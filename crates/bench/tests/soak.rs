//! A sample of `cargo xtask soak live`: some moves of a loaded redis, drawn by `FERRY_SEED`, every reply verified.

use std::process::Command;

#[test]
fn heavy_redis_is_moved_back_and_forth_under_load() {
    let seed = std::env::var("FERRY_SEED").unwrap_or_else(|_| "ferry".to_owned());
    let output = Command::new(env!("CARGO_BIN_EXE_soak"))
        .args(["--moves", "8", "--size", "32", "--json", "--seed", &seed])
        .output()
        .unwrap();
    let (said, heard) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {said}{heard}", output.status);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let value = |name: &str| {
        report["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()["value"].clone()
    };
    assert_eq!(
        (value("redis, moves"), value("redis, moves that failed")),
        (8.0.into(), 0.0.into()),
        "{heard}"
    );
}
