//! Memory over several page streams at once: who sends what, and how far it is.

use super::recorder::Recorder;
use ferry_transfer::space::{PageSink, PageSource};
use ferry_transfer::wire::Stream;
use ferry_transfer::wire::digest::Digest;
use ferry_transfer::wire::pages;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long one read or write of a page stream may block: a peer that is silent for longer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Sends all of `source` over `streams`; returns when the receiver has acknowledged everything.
pub(super) fn send(
    streams: Vec<Box<dyn Stream>>,
    source: &dyn PageSource,
    recorder: &Recorder,
) -> io::Result<Digest> {
    let frames = Mutex::new(pages::cut(source.ranges()).into_iter());
    let next = || frames.lock().ok().and_then(|mut frames| frames.next());
    let total = source.bytes();
    run(streams, recorder, total, |stream, progress| {
        pages::send(stream, source, std::iter::from_fn(next), progress)
    })
}

/// Receives into `sink` until every stream has ended.
pub(super) fn receive(
    streams: Vec<Box<dyn Stream>>,
    sink: &dyn PageSink,
    recorder: &Recorder,
) -> io::Result<Digest> {
    run(streams, recorder, 0, |stream, progress| pages::receive(stream, sink, progress))
}

fn run(
    streams: Vec<Box<dyn Stream>>,
    recorder: &Recorder,
    total: u64,
    work: impl Fn(&mut Box<dyn Stream>, &AtomicU64) -> io::Result<Digest> + Sync,
) -> io::Result<Digest> {
    let progress: Vec<AtomicU64> = streams.iter().map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (progress, done, work) = (&progress, &done, &work);
        let workers: Vec<_> = streams
            .into_iter()
            .zip(progress)
            .map(|(mut stream, progress)| {
                scope.spawn(move || {
                    stream.set_timeout(Some(SILENCE_MAX))?;
                    work(&mut stream, progress)
                })
            })
            .collect();
        let teller = (total > 0).then(|| {
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    std::thread::park_timeout(PROGRESS_EVERY);
                    recorder.progress(progress.iter().map(|each| each.load(Ordering::Relaxed)).sum(), total);
                }
            })
        });
        let mut digest = Digest::default();
        let mut failed = None;
        for worker in workers {
            match worker.join() {
                Ok(Ok(part)) => digest.merge(part),
                Ok(Err(e)) => failed = failed.or(Some(e)),
                Err(_) => failed = failed.or(Some(io::Error::other("A page stream's thread failed"))),
            }
        }
        done.store(true, Ordering::Relaxed);
        if let Some(teller) = teller {
            teller.thread().unpark();
        }
        failed.map_or(Ok(digest), Err)
    })
}
