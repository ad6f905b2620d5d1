//! The readers of what comes from another node, before and after it has said who it is.

use ferry_model::ids::HostName;
use ferry_transfer::access::Missing;
use ferry_transfer::space::PageSource;
use ferry_transfer::space::{Range, SpaceId};
use ferry_transfer::wire::{control, demand, frame, greeting, rounds};
use std::io::{self, Read, Write};
use zerocopy::IntoBytes;

/// Reads a control message. What is accepted is sent and read back.
pub fn control(bytes: &[u8]) {
    if let Ok(message) = control::decode(bytes) {
        let mut sent = Vec::new();
        control::send(&mut sent, &message).expect("what was read can be sent");
        assert!(control::decode(&sent).is_ok_and(|again| again == message));
    }
}

/// A question and a chunk of bytes.
#[must_use]
pub fn control_seeds() -> Vec<Vec<u8>> {
    let ask = control::Message::Ask {
        resources: vec![],
        network: Some("10.0.0.1/8".into()),
        name: "web".into(),
        clone: false,
    };
    let chunk = control::Message::Chunk { bytes: vec![1, 2, 3].into() };
    let sent = |message| {
        let mut bytes = Vec::new();
        control::send(&mut bytes, &message).expect("a message can be written");
        bytes
    };
    vec![sent(ask), sent(chunk)]
}

/// Reads the header of a page frame. One that is accepted stays within the address space and within the limit.
pub fn frame(bytes: &[u8]) {
    if let Ok(frame::Frame::Pages { address, len, .. }) = frame::decode(bytes, 5) {
        assert!(len > 0 && len <= frame::FRAME_BYTES_MAX);
        assert!(address.checked_add(len as u64).is_some());
    }
}

/// A frame of pages and an end.
#[must_use]
pub fn frame_seeds() -> Vec<Vec<u8>> {
    let pages = frame::Frame::Pages { space: SpaceId(3), address: 0x7000, len: 4096, zero: false };
    let end = frame::Frame::End { frames: 9, bytes: 36864 };
    [pages, end].map(|one| frame::Header::new(one, 5).as_bytes().to_vec()).to_vec()
}

/// Reads a frame of a round. One that is accepted has ranges in order that have as many bytes as its content, within the limits.
pub fn round(bytes: &[u8]) {
    use rounds::frame::{BYTES_MAX, Frame, RANGES_MAX, decode, positions_bytes};
    let Ok((frame, ranges, content)) = decode(bytes, 5) else { return };
    assert!(ranges.len() <= RANGES_MAX && content.len() <= BYTES_MAX);
    assert!(ranges.iter().all(|range| range.len > 0 && range.start.checked_add(range.len).is_some()));
    assert!(ranges.windows(2).all(|two| two[0].end() <= two[1].start));
    if let Frame::Pages { .. } = frame {
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), content.len() as u64);
    }
    if let Frame::Held { bytes, .. } = frame {
        assert!(bytes <= BYTES_MAX && content.len() == positions_bytes(bytes));
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), bytes as u64);
    }
}

/// Pages as they are, packed pages, zeros, and pages that the target holds.
#[must_use]
pub fn round_seeds() -> Vec<Vec<u8>> {
    use rounds::frame::{Frame, Header, pack, write_table};
    let ranges = [Range { start: 0x7000, len: 0x1000 }, Range { start: 0x9000, len: 0x2000 }];
    let (space, content) = (SpaceId(3), vec![7; 0x3000]);
    let mut packed = Vec::new();
    pack(&content, &mut packed);
    let pages = |body: &[u8], compressed| Frame::Pages {
        space,
        ranges: 2,
        bytes: 0x3000,
        body: body.len(),
        compressed,
    };
    let whole = |frame: &Frame, body: &[u8]| {
        let mut bytes = Header::new(frame, 5).as_bytes().to_vec();
        write_table(&ranges, &mut bytes).expect("ranges of pages");
        bytes.extend_from_slice(body);
        bytes
    };
    vec![
        whole(&pages(&content, false), &content),
        whole(&pages(&packed, true), &packed),
        whole(&Frame::Zero { space, ranges: 2 }, &[]),
        whole(&Frame::Held { space, ranges: 2, bytes: 0x3000 }, &[9, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0]),
    ]
}

/// What a source was asked for is answered, and what was answered is read by a target: neither trusts the other. The first byte says
/// which of both is attacked.
pub fn demand(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    if *which & 1 == 0 {
        let mut stream = Told { said: bytes, answered: Vec::new() };
        let allowed = [Missing { space: SpaceId(3), ranges: ASKED.to_vec() }];
        let progress = demand::Progress::default();
        let _ = demand::serve(&mut stream, &Empty, &allowed, &progress, None);
        // Nothing but what was asked for by bytes that came.
        assert!(stream.answered.len() <= bytes.len() * 4);
        return;
    }
    let mut asker = demand::Asker::default();
    asker.ask(SpaceId(3), &ASKED, true).expect("pages can be asked for");
    let asked = asker.awaited_bytes();
    asker.came(bytes);
    let mut came = 0;
    loop {
        let answer = match asker.answer() {
            Ok(Some(answer)) => answer,
            Ok(None) => break,
            // The stream is not used any more.
            Err(_) => return,
        };
        let (demand::Answer::Pages { ranges, .. } | demand::Answer::Zero { ranges, .. }) = &answer else {
            panic!("nobody has asked whether it agrees");
        };
        came += ranges.iter().map(|range| range.len).sum::<u64>();
        if let demand::Answer::Pages { content, ranges, .. } = &answer {
            assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), content.len() as u64);
        }
    }
    assert!(asker.awaited_bytes() + came == asked);
}

const ASKED: [Range; 2] = [Range { start: 0x7000, len: 0x1000 }, Range { start: 0x9000, len: 0x2000 }];

/// An ask, the whole end of a move, and answers.
#[must_use]
pub fn demand_seeds() -> Vec<Vec<u8>> {
    let mut asker = demand::Asker::default();
    asker.ask(SpaceId(3), &ASKED, true).expect("pages can be asked for");
    let ask = asker.outgoing().to_vec();
    let mut all_in = demand::Asker::default();
    let pages = [(SpaceId(3), ferry_transfer::engine::RangeSet::new(ASKED.to_vec()))];
    let sum = demand::sum_of(&Empty, &pages).expect("it can be read");
    all_in.all_in(&pages, sum.hash()).expect("pages can be named");
    let mut seeds = vec![[&[0], ask.as_slice()].concat(), [&[0], all_in.outgoing()].concat()];
    let rounds = round_seeds().into_iter().map(|mut frame| {
        // The first of its stream.
        frame[24..32].fill(0);
        [vec![1], frame].concat()
    });
    seeds.extend(rounds);
    seeds
}

struct Empty;

impl PageSource for Empty {
    fn ranges(&self) -> &[(SpaceId, Vec<Range>)] {
        &[]
    }

    fn read(&self, _: SpaceId, _: u64, buffer: &mut [u8]) -> io::Result<()> {
        buffer.fill(0);
        Ok(())
    }
}

struct Told<'a> {
    said: &'a [u8],
    answered: Vec<u8>,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.said.read(buffer)
    }
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.answered.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a greeting.
pub fn greeting(bytes: &[u8]) {
    let _ = greeting::decode(bytes);
}

/// What a node says first.
#[must_use]
pub fn greeting_seeds() -> Vec<Vec<u8>> {
    let mut recorder = Recorder(Vec::new());
    let host = HostName::new("node-1").expect("a good name");
    // Nobody answers; what was said until then is the seed.
    let _ = greeting::connect(&mut recorder, &host, greeting::Purpose::Node);
    vec![recorder.0]
}

struct Recorder(Vec<u8>);

impl Read for Recorder {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
