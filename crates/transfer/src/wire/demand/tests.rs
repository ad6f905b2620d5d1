//! Both ends over a socket pair, and a source that is asked for what it never offered.

use super::super::cap::Cap;
use super::*;
use crate::access::Missing;
use crate::engine::RangeSet;
use crate::space::{PAGE_SIZE, PageSource, Range, SpaceId};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Instant;

const SPACE: SpaceId = SpaceId(3);

struct Pattern;

/// Every fifth page is empty; the others are hard to pack.
fn page(number: u64) -> Vec<u8> {
    let byte = |at: u64| (number.wrapping_mul(0x9e37_79b9).wrapping_add(at * at * 31) >> 3) as u8;
    (0..PAGE_SIZE).map(|at| if number.is_multiple_of(5) { 0 } else { byte(at) }).collect()
}

impl PageSource for Pattern {
    fn ranges(&self) -> &[(SpaceId, Vec<Range>)] {
        &[]
    }

    fn read(&self, _: SpaceId, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        for (number, part) in (address / PAGE_SIZE..).zip(buffer.chunks_mut(PAGE_SIZE as usize)) {
            part.copy_from_slice(&page(number)[..part.len()]);
        }
        Ok(())
    }
}

fn range(start: u64, pages: u64) -> Range {
    Range { start: start * PAGE_SIZE, len: pages * PAGE_SIZE }
}

fn offered() -> Vec<Missing> {
    vec![Missing { space: SPACE, ranges: vec![range(10, 1000), range(2000, 1)] }]
}

/// Says what waits, and returns what has come as soon as all that was asked for is here.
fn talk(asker: &mut Asker, stream: &mut UnixStream) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut pages = Vec::new();
    let mut buffer = vec![0; 10_000];
    loop {
        let waiting = asker.outgoing().to_vec();
        stream.write_all(&waiting)?;
        asker.wrote(waiting.len());
        while let Some(answer) = asker.answer()? {
            match answer {
                Answer::Pages { space, ranges, content } => {
                    assert_eq!(space, SPACE);
                    let numbers = ranges.iter().flat_map(|range| range.start..range.end());
                    let numbers = numbers.step_by(PAGE_SIZE as usize).map(|at| at / PAGE_SIZE);
                    pages.extend(numbers.zip(content.chunks(PAGE_SIZE as usize).map(<[u8]>::to_vec)));
                }
                Answer::Zero { ranges, .. } => {
                    for range in ranges {
                        let numbers = range.start / PAGE_SIZE..range.end() / PAGE_SIZE;
                        pages.extend(numbers.map(|number| (number, vec![0; PAGE_SIZE as usize])));
                    }
                }
                Answer::Agreed => return Ok(pages),
            }
            if asker.awaited_bytes() == 0 {
                return Ok(pages);
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => asker.came(&buffer[..count]),
        }
    }
}

/// A source that serves one stream, and what came of it.
fn with_source<T>(work: impl FnOnce(UnixStream) -> T) -> (T, io::Result<()>, Progress) {
    with_capped_source(None, work)
}

fn with_capped_source<T>(
    cap: Option<Cap>,
    work: impl FnOnce(UnixStream) -> T,
) -> (T, io::Result<()>, Progress) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let progress = Progress::default();
    let (done, served) = std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let served = serve(&mut theirs, &Pattern, &offered(), &progress, cap.as_ref());
            drop(theirs);
            served
        });
        (work(ours), serving.join().unwrap())
    });
    (done, served, progress)
}

#[test]
fn what_is_asked_for_comes_and_both_sides_agree_on_all_of_it() {
    let (hash, served, progress) = with_source(|mut stream| {
        let mut asker = Asker::default();
        // The page that somebody waits for, then what lies around it.
        asker.ask(SPACE, &[range(100, 1), range(10, 90), range(101, 500)], true).unwrap();
        asker.ask(SPACE, &[range(601, 409), range(2000, 1)], false).unwrap();
        assert_eq!(asker.awaited_bytes(), 1001 * PAGE_SIZE);
        let pages = talk(&mut asker, &mut stream).unwrap();
        assert_eq!((pages[0].0, pages.len()), (100, 1001), "what comes first was asked for first");
        assert!(pages.iter().all(|(number, content)| *content == page(*number)));
        let mut sum = PageSum::default();
        for (number, content) in pages.iter().rev() {
            sum.add(SPACE, number * PAGE_SIZE, content);
        }
        assert_eq!(PageSum::from_bytes(&sum.to_bytes()), sum);
        let set = RangeSet::new(offered()[0].ranges.clone());
        asker.all_in(&[(SPACE, set)], sum.hash()).unwrap();
        talk(&mut asker, &mut stream).unwrap();
        sum.hash()
    });
    served.unwrap();
    assert_eq!(progress.agreed.get(), Some(&hash));
    assert_eq!(progress.served_bytes.load(Ordering::Relaxed), 1001 * PAGE_SIZE);
    assert_eq!(progress.urgent_bytes.load(Ordering::Relaxed), 591 * PAGE_SIZE);
}

/// Asked for twice, on two streams; some of it the target has let go of, and some of it an earlier server has answered.
#[test]
fn both_sides_agree_on_what_the_target_has_whoever_has_answered_it() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let progress = Progress::default();
    let served = std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(&mut theirs, &Pattern, &offered(), &progress, None));
        let mut stream = ours;
        let mut asker = Asker::default();
        for wanted in [range(10, 300), range(100, 400), range(105, 3)] {
            asker.ask(SPACE, &[wanted], false).unwrap();
        }
        talk(&mut asker, &mut stream).unwrap();
        let has = [range(50, 200), range(300, 500)];
        let mut sum = PageSum::default();
        for number in has.iter().flat_map(|range| range.start / PAGE_SIZE..range.end() / PAGE_SIZE) {
            sum.add(SPACE, number * PAGE_SIZE, &page(number));
        }
        asker.all_in(&[(SPACE, RangeSet::new(has.to_vec()))], sum.hash()).unwrap();
        talk(&mut asker, &mut stream).unwrap();
        drop(stream);
        serving.join().unwrap()
    });
    served.unwrap();
    assert!(progress.agreed.get().is_some());
}

#[test]
fn a_cap_holds_for_what_nobody_waits_for() {
    // 800 pages at 4 MiB/s, of which a burst of 50 ms is free.
    let begin = Instant::now();
    let (urgent, served, _) = with_capped_source(Some(Cap::new(4 << 20)), |mut stream| {
        let mut asker = Asker::default();
        asker.ask(SPACE, &[range(10, 500)], true).unwrap();
        talk(&mut asker, &mut stream).unwrap();
        let urgent = begin.elapsed();
        asker.ask(SPACE, &[range(510, 300)], false).unwrap();
        assert_eq!(talk(&mut asker, &mut stream).unwrap().len(), 300);
        urgent
    });
    served.unwrap();
    // Four of five pages have content. What went at once is made up for by what follows.
    let sent = 640.0 * PAGE_SIZE as f64 / f64::from(4 << 20);
    assert!(begin.elapsed().as_secs_f64() > sent - 0.25, "{:?} for {sent:.2} s", begin.elapsed());
    assert!(urgent < begin.elapsed() / 2, "{urgent:?} of {:?}", begin.elapsed());
}

#[test]
fn a_source_answers_only_for_what_it_offered() {
    for (space, wanted) in [(SPACE, range(9, 2)), (SPACE, range(1010, 1)), (SpaceId(4), range(10, 1))] {
        let ((), served, progress) = with_source(|mut stream| {
            let mut asker = Asker::default();
            asker.ask(space, &[wanted], true).unwrap();
            assert!(talk(&mut asker, &mut stream).is_err());
        });
        assert!(served.unwrap_err().to_string().contains("were not offered"));
        assert_eq!(progress.served_bytes.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_page_that_became_another_one_is_no_agreement() {
    let ((), served, progress) = with_source(|mut stream| {
        let mut sum = PageSum::default();
        sum.add(SPACE, 10 * PAGE_SIZE, &page(11));
        let mut asker = Asker::default();
        asker.all_in(&[(SPACE, RangeSet::new(vec![range(10, 1)]))], sum.hash()).unwrap();
        assert!(talk(&mut asker, &mut stream).is_err());
    });
    assert!(served.unwrap_err().to_string().contains("hash"));
    assert!(progress.agreed.get().is_none());
}

#[test]
fn an_answer_that_nobody_asked_for_ends_the_stream() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let mut one = Asker::default();
    one.ask(SPACE, &[range(10, 2)], false).unwrap();
    theirs.write_all(one.outgoing()).unwrap();
    theirs.shutdown(std::net::Shutdown::Write).unwrap();
    serve(&mut ours, &Pattern, &offered(), &Progress::default(), None).unwrap();
    drop(ours);
    let mut answer = Vec::new();
    theirs.read_to_end(&mut answer).unwrap();
    for asked in [vec![], vec![range(10, 1)], vec![range(11, 5)]] {
        let mut other = Asker::default();
        other.ask(SPACE, &asked, false).unwrap();
        other.came(&answer);
        assert!(other.answer().is_err() || other.answer().is_err(), "{asked:?}");
    }
    for cut_at in 0..answer.len() {
        let mut again = Asker::default();
        again.ask(SPACE, &[range(10, 2)], false).unwrap();
        again.came(&answer[..cut_at]);
        while again.answer().unwrap().is_some() {}
        assert!(again.awaited_bytes() > 0, "{cut_at} bytes are not all");
        again.came(&answer[cut_at..]);
        while again.answer().unwrap().is_some() {}
        assert_eq!(again.awaited_bytes(), 0);
    }
}
