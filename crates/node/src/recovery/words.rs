//! Journals and the decider's answer, a line each.

use ferry_model::handover::{Entry, Record, Standing, Step};
use ferry_session::decider::Located;

/// An entry of a journal.
pub fn line(entry: &Entry) -> String {
    match entry {
        Entry::Record(record) => format!("owner {}", owner(record)),
        Entry::Step { key, step, .. } => {
            let more = match step {
                Step::Offered { to, .. } => format!(" to {to}"),
                Step::Reserved { from, .. } => format!(" for {from}"),
                Step::Checkpointing { place: Some(place), to: None } => format!(" to {place}"),
                Step::Checkpointing { to: Some(to), .. } => format!(" for {to}"),
                Step::Taking { from: Some(from), .. } => format!(" from {from}"),
                Step::Committed { record } => format!(": owner {}", owner(record)),
                Step::Aborted { reason } | Step::Discarded { reason } | Step::HandingBack { reason } => {
                    format!(": {reason}")
                }
                _ => String::new(),
            };
            format!("{} {}, epoch {}{more}", key.mv, step.name(), key.epoch.0)
        }
    }
}

fn owner(record: &Record) -> String {
    let standing = match record.standing {
        Standing::Running => "may run it".to_owned(),
        Standing::Suspended(image) => format!("it is suspended to image {image}"),
        Standing::Ended => "it has ended".to_owned(),
    };
    format!("{}, epoch {}, {standing}", record.owner, record.epoch.0)
}

/// What the decider says.
pub fn said(located: Option<&Located>) -> String {
    match located {
        None => "knows nothing of it".to_owned(),
        Some(located) if located.confirmed => owner(&located.record),
        Some(located) => {
            format!("{} (its owner does not answer; this is what others know)", owner(&located.record))
        }
    }
}
