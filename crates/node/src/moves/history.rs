//! Moves that ended, on disk: a restarted node still shows them. One JSON file each, in the form of the API.

use super::view;
use crate::files;
use crate::node::Node;
use ferry_model::api::Move;
use ferry_model::error::{Error, Kind, Result};
use ferry_model::ids::MoveId;
use ferry_session::movement::Standing;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::time::Duration;

/// Most moves that are kept; the oldest go first.
const KEPT_MAX: usize = 1000;

/// Between two looks for moves that ended.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Writes every move down that ends, for as long as the node lives.
pub fn keep_history(node: &Weak<Node>) {
    let mut written: HashSet<MoveId> = HashSet::new();
    while let Some(node) = node.upgrade() {
        let moves = node.movements().map(|all| all.list()).unwrap_or_default();
        let ended = moves.iter().filter(|one| one.standing != Standing::Running);
        let new: Vec<_> = ended.filter(|one| !written.contains(&one.id)).collect();
        for one in new {
            let whole = view::whole(node.identity().name(), one);
            match save(&node.config().state, &whole) {
                Ok(()) => {
                    written.insert(one.id);
                }
                Err(error) => tracing::warn!(%error, id = %one.id, "an ended move was not written down"),
            }
        }
        drop(node);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn save(state: &Path, one: &Move) -> Result<()> {
    let dir = dir(state);
    files::make_private_dir(&dir)?;
    let text = serde_json::to_vec(one).map_err(|cause| Error::from_source(Kind::Bug, &cause))?;
    files::write_durably(&path(state, one.id), &text)?;
    let mut kept: Vec<(std::time::SystemTime, PathBuf)> = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    kept.sort();
    let surplus = kept.len().saturating_sub(KEPT_MAX);
    for (_, path) in kept.into_iter().take(surplus) {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// All of them, without their events.
pub fn load(state: &Path) -> Result<Vec<Move>> {
    let names = std::fs::read_dir(dir(state)).into_iter().flatten().flatten();
    let ids =
        names.filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json")?.parse::<MoveId>().ok());
    let mut moves = Vec::new();
    for id in ids {
        // One that cannot be read takes nothing away from the others.
        if let Ok(mut one) = load_one(state, id) {
            one.events.clear();
            moves.push(one);
        }
    }
    Ok(moves)
}

/// One of them.
pub fn load_one(state: &Path, id: MoveId) -> Result<Move> {
    let no_such = || Error::new(Kind::Usage, format!("There is no move {id} here"));
    let text = files::read_if_there(&path(state, id))?.ok_or_else(no_such)?;
    serde_json::from_slice(&text).map_err(|cause| {
        Error::from_source(Kind::Unable, &cause).context(format!("The report of move {id} is damaged"))
    })
}

fn dir(state: &Path) -> PathBuf {
    state.join("moves")
}

fn path(state: &Path, id: MoveId) -> PathBuf {
    dir(state).join(format!("{id}.json"))
}

#[cfg(test)]
mod tests {
    use ferry_model::api::Move;
    use ferry_model::event::{Event, RoundDone, Summary, What};
    use ferry_model::strategy::measured::Round;

    /// As a version before rounds wrote it down.
    const BEFORE: &str = r#"{"id":"m-00000000000000000000000000000001","workload":"w-00000000000000000000000000000002",
        "name":"web","source":"alpha","target":"beta","role":"source","clone":false,"method":"stop-and-copy","state":"done",
        "began_unix":1,"downtime_us":5,"total_us":9,"error":null,"events":[
        {"at_us":1,"event":"phase-start","phase":"freeze"},{"at_us":2,"event":"spent","cause":"memory","us":3},
        {"at_us":3,"event":"progress","phase":"state","bytes":1,"bytes_total":2},{"at_us":9,"event":"end","error":null}]}"#;

    #[test]
    fn moves_that_were_written_down_before_can_be_read() {
        let one: Move = serde_json::from_str(BEFORE).unwrap();
        assert_eq!((one.events.len(), one.summary), (4, Summary::default()));
    }

    #[test]
    fn rounds_are_written_down_and_read_again() {
        let round = Round { number: 1, dirty_bytes: u64::MAX, ..Round::default() };
        let done = RoundDone { predicted_downtime_us: Some(7), ..round.into() };
        let event = Event { at_us: 4, what: What::Round(done) };
        let text = serde_json::to_string(&event).unwrap();
        assert!(text.contains(r#""event":"round""#) && text.contains(r#""number":1"#), "{text}");
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap(), event);
    }
}
