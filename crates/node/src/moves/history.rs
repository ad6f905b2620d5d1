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
