//! Sending a memory over a stream and putting it in its place on the other side.

use super::digest::Digest;
use super::frame::{FRAME_BYTES_MAX, Frame, HEADER_BYTES, Header};
use super::invalid;
use crate::space::{PAGE_SIZE, PageSink, PageSource, Range, SpaceId};
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use zerocopy::IntoBytes;

/// Buffered bytes after which a sender writes: small frames go out together.
const WRITE_BYTES: usize = 1 << 20;

/// Cuts ranges into frames: whole multiples of a page, none longer than a frame may be.
#[must_use]
pub fn cut(ranges: &[(SpaceId, Vec<Range>)]) -> Vec<(SpaceId, Range)> {
    let mut frames = Vec::new();
    for (space, ranges) in ranges {
        for range in ranges {
            let mut start = range.start;
            while start < range.end() {
                let len = (range.end() - start).min(FRAME_BYTES_MAX as u64);
                frames.push((*space, Range { start, len }));
                start += len;
            }
        }
    }
    frames
}

/// Sends `frames` of `source`, then waits until the receiver has put all of them in their places. `progress` counts bytes.
pub fn send(
    stream: &mut (impl Read + Write),
    source: &dyn PageSource,
    frames: impl Iterator<Item = (SpaceId, Range)>,
    progress: &AtomicU64,
) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let (mut count, mut bytes) = (0, 0);
    let mut buffer: Vec<u8> = Vec::with_capacity(WRITE_BYTES + FRAME_BYTES_MAX + HEADER_BYTES);
    for (space, range) in frames {
        let len = usize::try_from(range.len).map_err(|_| invalid("A frame is too long"))?;
        let at = buffer.len();
        buffer.resize(at + HEADER_BYTES + len, 0);
        source.read(space, range.start, &mut buffer[at + HEADER_BYTES..]).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("Reading {len} bytes at {:#x} of space {}: {e}", range.start, space.0),
            )
        })?;
        digest.add(space, range.start, &buffer[at + HEADER_BYTES..]);
        let zero = is_zero(&buffer[at + HEADER_BYTES..]);
        let header = Header::new(Frame::Pages { space, address: range.start, len, zero }, count);
        buffer[at..at + HEADER_BYTES].copy_from_slice(header.as_bytes());
        if zero {
            buffer.truncate(at + HEADER_BYTES);
        }
        count += 1;
        bytes += range.len;
        if buffer.len() >= WRITE_BYTES {
            stream.write_all(&buffer)?;
            buffer.clear();
            progress.store(bytes, Ordering::Relaxed);
        }
    }
    let end = Frame::End { frames: count, bytes };
    buffer.extend_from_slice(Header::new(end, 0).as_bytes());
    stream.write_all(&buffer)?;
    stream.flush()?;
    progress.store(bytes, Ordering::Relaxed);
    match read_header(stream, 0)? {
        Frame::Acknowledged { frames, bytes: taken } if (frames, taken) == (count, bytes) => Ok(digest),
        other => Err(invalid(format!("Sent {count} frames of {bytes} bytes, the receiver says {other:?}"))),
    }
}

/// Receives frames into `sink` until the sender's end, and acknowledges it. The sink refuses what was not prepared for.
pub fn receive(
    stream: &mut (impl Read + Write),
    sink: &dyn PageSink,
    progress: &AtomicU64,
) -> io::Result<Digest> {
    let mut digest = Digest::default();
    let (mut count, mut total) = (0u64, 0u64);
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    loop {
        match read_header(stream, count)? {
            Frame::Pages { space, address, len, zero } => {
                if !address.is_multiple_of(PAGE_SIZE) {
                    return Err(invalid(format!(
                        "A page frame at {address:#x} is not at a page's beginning"
                    )));
                }
                let content = &mut buffer[..len];
                if zero {
                    content.fill(0);
                } else {
                    stream.read_exact(content)?;
                }
                digest.add(space, address, content);
                sink.write(space, address, content)?;
                count += 1;
                total += len as u64;
                progress.store(total, Ordering::Relaxed);
            }
            Frame::End { frames, bytes } if (frames, bytes) == (count, total) => break,
            other => return Err(invalid(format!("{other:?} after {count} frames of {total} bytes"))),
        }
    }
    stream.write_all(Header::new(Frame::Acknowledged { frames: count, bytes: total }, 0).as_bytes())?;
    stream.flush()?;
    Ok(digest)
}

fn read_header(stream: &mut impl Read, sequence: u64) -> io::Result<Frame> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header)?;
    super::frame::decode(&header, sequence)
}

/// The first word decides for nearly every page that is not empty.
fn is_zero(content: &[u8]) -> bool {
    content.first() == Some(&0) && content.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    struct Fake(Vec<(SpaceId, Vec<Range>)>);

    impl PageSource for Fake {
        fn ranges(&self) -> &[(SpaceId, Vec<Range>)] {
            &self.0
        }
        fn read(&self, space: SpaceId, address: u64, buffer: &mut [u8]) -> io::Result<()> {
            for (at, byte) in buffer.iter_mut().enumerate() {
                *byte = byte_at(space, address + at as u64);
            }
            Ok(())
        }
    }

    /// Every third page is empty.
    fn byte_at(space: SpaceId, address: u64) -> u8 {
        let page = address / PAGE_SIZE;
        if page.is_multiple_of(3) { 0 } else { (page as u8) ^ (space.0 as u8) ^ (address as u8) }
    }

    #[derive(Default)]
    struct Taken(Mutex<BTreeMap<(SpaceId, u64), Vec<u8>>>, Option<u64>);

    impl PageSink for Taken {
        fn write(&self, space: SpaceId, address: u64, bytes: &[u8]) -> io::Result<()> {
            if self.1.is_some_and(|forbidden| address >= forbidden) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            self.0.lock().unwrap().insert((space, address), bytes.to_vec());
            Ok(())
        }
    }

    fn memory() -> Fake {
        let range = |start: u64, pages: u64| Range { start: start * PAGE_SIZE, len: pages * PAGE_SIZE };
        Fake(vec![(SpaceId(0), vec![range(1, 600), range(1000, 1)]), (SpaceId(7), vec![range(9, 3)])])
    }

    #[test]
    fn a_memory_arrives_whole_and_both_sides_agree_on_its_hash() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let source = memory();
        let target = std::thread::spawn(move || {
            let taken = Taken::default();
            let digest = receive(&mut b, &taken, &AtomicU64::new(0)).unwrap();
            (taken, digest.finish())
        });
        let sent = send(&mut a, &source, cut(source.ranges()).into_iter(), &AtomicU64::new(0)).unwrap();
        let (taken, hash) = target.join().unwrap();
        assert_eq!(sent.finish(), hash);
        assert_eq!(sent.bytes(), source.bytes());
        let taken = taken.0.into_inner().unwrap();
        assert_eq!(taken.values().map(|bytes| bytes.len() as u64).sum::<u64>(), source.bytes());
        for ((space, address), bytes) in taken {
            for (at, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, byte_at(space, address + at as u64));
            }
        }
    }

    #[test]
    fn pages_that_were_not_prepared_for_end_the_transfer_on_both_sides() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let source = memory();
        let target = std::thread::spawn(move || {
            let taken = Taken(Mutex::default(), Some(1000 * PAGE_SIZE));
            receive(&mut b, &taken, &AtomicU64::new(0)).map(|_| ()).unwrap_err().kind()
        });
        assert!(send(&mut a, &source, cut(source.ranges()).into_iter(), &AtomicU64::new(0)).is_err());
        assert_eq!(target.join().unwrap(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_stream_that_is_cut_short_is_never_taken_for_whole() {
        let source = memory();
        let mut bytes = Pipe(Vec::new());
        let _ = send(&mut bytes, &source, cut(source.ranges()).into_iter(), &AtomicU64::new(0));
        for cut_at in [0, 10, HEADER_BYTES, bytes.0.len() / 2, bytes.0.len() - 1] {
            let mut short = Replay(&bytes.0[..cut_at]);
            assert!(receive(&mut short, &Taken::default(), &AtomicU64::new(0)).is_err(), "{cut_at}");
        }
        assert!(receive(&mut Replay(&bytes.0), &Taken::default(), &AtomicU64::new(0)).is_ok());
    }

    struct Pipe(Vec<u8>);
    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Pipe {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
    }

    struct Replay<'a>(&'a [u8]);
    impl Read for Replay<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for Replay<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
