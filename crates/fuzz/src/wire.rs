//! The readers of what comes from another node, before and after it has said who it is.

use ferry_model::ids::HostName;
use ferry_transfer::space::{Range, SpaceId};
use ferry_transfer::wire::{control, frame, greeting, rounds};
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
    use rounds::frame::{BYTES_MAX, Frame, RANGES_MAX, decode};
    let Ok((frame, ranges, content)) = decode(bytes, 5) else { return };
    assert!(ranges.len() <= RANGES_MAX && content.len() <= BYTES_MAX);
    assert!(ranges.iter().all(|range| range.len > 0 && range.start.checked_add(range.len).is_some()));
    assert!(ranges.windows(2).all(|two| two[0].end() <= two[1].start));
    if let Frame::Pages { .. } = frame {
        assert_eq!(ranges.iter().map(|range| range.len).sum::<u64>(), content.len() as u64);
    }
}

/// Pages as they are, packed pages, and zeros.
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
    ]
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
