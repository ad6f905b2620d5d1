//! What is done when rounds do not help, and what a move is held to, end to end: a writer that is faster than the link between two lab
//! hosts. Afterwards it runs as fast as before, wherever it is, and no page of it is wrong.

use ferry_bench::live::stage::{Failure, Stage, Subject};
use ferry_lab::FERRY;
use ferry_model::api::Move;
use ferry_model::event::{Cause, What};
use ferry_model::strategy::remedy::Remedy;
use std::path::Path;
use std::time::{Duration, Instant};

/// Its memory, and pages that it writes in a second: twice what the link carries.
const WRITER: Subject = Subject::Strict { bytes: 16 << 20, rate: 16_000 };
const LINK_BYTES_PER_S: u64 = 32 << 20;

/// How long a busy machine may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);

fn stage(subject: Subject, link: Option<u64>) -> Stage {
    let mut stage = Stage::with_program(Path::new(env!("CARGO_BIN_EXE_live")), &subject).unwrap();
    stage.calm = Duration::from_millis(100);
    if let Some(link) = link {
        stage.limit_links(link).unwrap();
    }
    stage
}

fn options(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn remedies(moved: &Move) -> Vec<Remedy> {
    let chosen = moved.events.iter().filter_map(|event| match &event.what {
        What::Remedy(chosen) => Some(chosen.remedy),
        _ => None,
    });
    chosen.collect()
}

fn is_throttled(remedy: &Remedy) -> bool {
    matches!(remedy, Remedy::Throttle { .. })
}

/// Waits until it writes nearly as fast as before; a throttled one never does.
fn full_speed(stage: &mut Stage, before: f64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = stage.written_per_s().unwrap();
        if now > before * 0.85 {
            return;
        }
        assert!(Instant::now() < end, "it wrote {before:.0} pages/s and writes {now:.0} afterwards");
    }
}

#[test]
fn heavy_a_writer_faster_than_the_link_is_throttled_and_runs_at_full_speed_at_the_target() {
    let mut stage = stage(WRITER, Some(LINK_BYTES_PER_S));
    let before = stage.written_per_s().unwrap();
    let asked = options("--method pre-copy --on-no-convergence throttle --downtime-max 50ms");
    let moved = stage.carry(&asked).unwrap();
    let done = remedies(&moved);
    assert!(done.iter().any(is_throttled), "{done:?}: {:?}", moved.summary);
    full_speed(&mut stage, before);
    stage.end().unwrap();
}

#[test]
fn heavy_a_throttled_writer_runs_at_full_speed_at_the_source_after_a_cancel() {
    let mut stage = stage(WRITER, Some(LINK_BYTES_PER_S));
    let before = stage.written_per_s().unwrap();
    // A pause that never fits: it is throttled until somebody ends it.
    let asked =
        options("--method pre-copy --on-no-convergence throttle --downtime-max 1us --rounds-max 1000");
    let moving = stage.begin(&asked).unwrap();
    let end = Instant::now() + PATIENCE;
    let id = loop {
        let listed = stage.host().ok(&[FERRY, "--json", "moves", "ls"]).unwrap();
        let listed: Vec<Move> = serde_json::from_str(&listed).unwrap();
        if let Some(one) = listed.first() {
            let id = one.id.to_string();
            let shown = stage.host().ok(&[FERRY, "--json", "moves", "show", &id]).unwrap();
            let shown: Move = serde_json::from_str(&shown).unwrap();
            if remedies(&shown).iter().any(is_throttled) {
                break id;
            }
        }
        assert!(Instant::now() < end && !moving.has_ended(), "it was not throttled: {}", moving.stderr());
        std::thread::sleep(Duration::from_millis(20));
    };
    stage.host().ok(&[FERRY, "moves", "cancel", &id]).unwrap();
    assert_ne!(moving.wait(PATIENCE).unwrap().code, 0);
    stage.find().unwrap();
    assert_eq!(stage.host().name(), "alpha");
    full_speed(&mut stage, before);
    stage.end().unwrap();
}

#[test]
fn heavy_what_does_not_converge_is_given_up_or_stopped_as_asked() {
    let mut stage = stage(WRITER, Some(LINK_BYTES_PER_S));
    let before = stage.written_per_s().unwrap();
    let give_up = options("--method pre-copy --on-no-convergence give-up --downtime-max 20ms");
    match stage.carry(&give_up) {
        Err(Failure::Failed(error)) => {
            assert!(error.to_string().contains("Rounds were not enough"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    stage.find().unwrap();
    assert_eq!(stage.host().name(), "alpha");
    full_speed(&mut stage, before);
    let stop = options("--method pre-copy --on-no-convergence stop --downtime-max 20ms");
    let moved = stage.carry(&stop).unwrap();
    assert_eq!(remedies(&moved), [Remedy::Stop]);
    assert_eq!(stage.host().name(), "beta");
    stage.end().unwrap();
}

#[test]
fn heavy_what_does_not_converge_goes_on_by_post_copy_and_arrives_whole() {
    let mut stage = stage(WRITER, Some(LINK_BYTES_PER_S));
    let before = stage.written_per_s().unwrap();
    let ferry = |stage: &Stage, words: &[&str]| stage.host().ok(&[&[FERRY], words].concat()).unwrap();
    let plan = ferry(&stage, &["plan", "subject", "--to", "beta", "--method", "pre-copy"]);
    assert!(plan.contains("until the last page is in it needs both hosts"), "{plan}");
    let moved = stage.carry(&options("--method pre-copy --downtime-max 20ms")).unwrap();
    let remedy = moved.events.iter().find_map(|event| match &event.what {
        What::Remedy(chosen) => Some(chosen),
        _ => None,
    });
    let remedy = remedy.unwrap_or_else(|| panic!("no remedy: {:?}", moved.summary));
    assert_eq!(remedy.remedy, Remedy::Switch, "{}", remedy.reason);
    assert!(remedy.reason.contains("until it is there both hosts are needed"), "{}", remedy.reason);
    assert!(follows(&moved) > 0, "{:?}", moved.summary);
    full_speed(&mut stage, before);
    // And back, as anybody would ask for it: what the link carries is known by now.
    let moved = stage.carry(&["--method".to_owned(), "auto".to_owned()]).unwrap();
    let chosen = moved.events.iter().find_map(|event| match &event.what {
        What::Method(chosen) => Some(chosen),
        _ => None,
    });
    assert!(follows(&moved) > 0, "{chosen:?} {:?}", moved.summary);
    full_speed(&mut stage, before);
    stage.end().unwrap();
}

/// However long that one takes: what a second one sent would be written again as well.
#[test]
fn heavy_a_hybrid_makes_one_round_and_the_rest_follows() {
    let mut stage = stage(Subject::Strict { bytes: 48 << 20, rate: 16_000 }, Some(LINK_BYTES_PER_S));
    let before = stage.written_per_s().unwrap();
    let moved = stage.carry(&options("--method hybrid")).unwrap();
    let rounds = moved.events.iter().filter_map(|event| match &event.what {
        What::Round(done) => Some(done),
        _ => None,
    });
    let rounds: Vec<_> = rounds.filter(|done| !done.round.last).collect();
    assert_eq!(rounds.len(), 1, "{rounds:?}");
    assert!(rounds[0].round.duration_us > 1_000_000, "too short to be told from others: {rounds:?}");
    assert!(follows(&moved) > 0, "{:?}", moved.summary);
    assert_eq!(moved.summary.predicted_downtime_us, None, "what is left does not travel in the pause");
    full_speed(&mut stage, before);
    stage.end().unwrap();
}

/// Each is faster than what it spares, and what follows is in few pieces.
#[test]
fn heavy_a_hybrid_makes_more_rounds_while_they_get_smaller() {
    let mut stage = stage(Subject::Strict { bytes: 512 << 20, rate: 16_000 }, None);
    let before = stage.written_per_s().unwrap();
    let moved = stage.carry(&options("--method hybrid")).unwrap();
    let rounds = moved.events.iter().filter_map(|event| match &event.what {
        What::Round(done) if !done.round.last => Some(done.round.sent_bytes),
        _ => None,
    });
    let rounds: Vec<u64> = rounds.collect();
    assert!(rounds.len() > 1, "{rounds:?}");
    assert!(rounds.windows(2).all(|pair| pair[1] <= pair[0] / 2), "{rounds:?}");
    let follows = follows(&moved);
    assert!(follows > 0 && follows < rounds[0] / 4, "{follows} after {rounds:?}");
    full_speed(&mut stage, before);
    stage.end().unwrap();
}

/// Bytes that came after the resume.
fn follows(moved: &Move) -> u64 {
    let placed = moved.events.iter().filter_map(|event| match &event.what {
        What::Follow(pages) => Some(pages.placed_bytes),
        _ => None,
    });
    placed.max().unwrap_or(0)
}

#[test]
fn heavy_the_pause_and_the_bandwidth_that_were_asked_for_are_kept() {
    let mut stage = stage(Subject::Writer { bytes: 32 << 20, rate: 500 }, None);
    let moved = stage.carry(&options("--method pre-copy --bandwidth 16MiB --downtime-max 20ms")).unwrap();
    let rate = moved.events.iter().find_map(|event| match &event.what {
        What::Round(done) => done.round.bytes_per_s(),
        _ => None,
    });
    // Within a tenth above; a busy machine may carry less.
    let (rate, cap) = (rate.unwrap() as f64, f64::from(16 << 20));
    assert!(rate < 1.1 * cap && rate > 0.3 * cap, "{rate} of {cap} bytes/s");
    let expected = moved.summary.predicted_downtime_us.unwrap();
    assert!(expected <= 20_000, "it was frozen when {expected} us were expected");
    let memory =
        moved.summary.spent.iter().find(|spent| spent.cause == Cause::Memory).map_or(0, |one| one.us);
    // What is expected is computed from the last round, and a machine that others use may take a multiple for it.
    assert!(memory < 200_000, "memory took {memory} us of the pause");
    stage.end().unwrap();
}

#[test]
fn heavy_pages_that_follow_keep_to_the_bandwidth_that_was_asked_for() {
    const BYTES: u64 = 24 << 20;
    let mut stage = stage(Subject::Strict { bytes: BYTES, rate: 20 }, None);
    let moved = stage.carry(&options("--method post-copy --bandwidth 64Mbit")).unwrap();
    let follow = Duration::from_micros(moved.summary.follow_us.unwrap());
    // What somebody waits for does not wait for it, and is made up for by the rest.
    let least = Duration::from_secs_f64(BYTES as f64 / 8e6 * 0.7);
    assert!(follow > least, "{follow:?} is less than {least:?}");
    stage.end().unwrap();
}
