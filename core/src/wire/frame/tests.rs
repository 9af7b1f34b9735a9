//! Headers, limits and roles, and streams cut anywhere.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::auth::{Ed25519, Scheme};
use crate::config::{Admission, Member, ProtocolParams};
use crate::ids::ClusterId;
use crate::wire::archive::tests::{BOUNDS, examples, messages};
use crate::wire::archive::{decode, encode};
use crate::wire::message::Message;

const PEERS: [PeerRole; 3] = [PeerRole::Replica, PeerRole::Client, PeerRole::Server];

fn config(n: u8, params: ProtocolParams) -> ClusterConfig {
    let member = |i| Member {
        weight: 1,
        public_key: Ed25519::new(&[i + 1; 32], [0; 32]).public_key(),
        address: format!("127.0.0.1:{}", 7000 + u16::from(i)),
    };
    let members = (0..n).map(member).collect();
    ClusterConfig::new(ClusterId([7; 32]), Epoch(2), params, Admission::Any, members).unwrap()
}

fn limits_of_four() -> FrameLimits {
    FrameLimits::new(&config(4, ProtocolParams::default()))
}

fn cutter(peer: PeerRole) -> FrameCutter {
    FrameCutter::new(peer, limits_of_four())
}

fn stream<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Vec<u8> {
    let mut out = Vec::new();
    messages.into_iter().for_each(|message| encode(message, Epoch(2), &mut out));
    out
}

/// The examples that `peer` may send.
fn examples_of(peer: PeerRole) -> Vec<Message> {
    let mut messages = examples();
    messages.retain(|message| senders(message.kind()).contains(&peer));
    messages
}

/// Every frame that is ready, decoded.
fn drain(cutter: &mut FrameCutter) -> Result<Vec<Message>, FrameError> {
    let mut messages = Vec::new();
    while let Some((header, payload)) = cutter.next()? {
        assert!(payload.is_empty() || payload.as_ptr().align_offset(FRAME_ALIGN) == 0);
        assert_eq!((header.epoch, header.len as usize), (Epoch(2), payload.len()));
        messages.push(decode(header.kind, &payload, BOUNDS).unwrap());
    }
    Ok(messages)
}

fn header(kind: Kind, len: u32) -> [u8; FRAME_HEADER_BYTES] {
    FrameHeader { kind, len, epoch: Epoch(2) }.to_bytes()
}

/// A header with `bytes` at `at` and the checksum put right.
fn forged(at: usize, bytes: &[u8]) -> [u8; FRAME_HEADER_BYTES] {
    let mut head = header(Kind::Prepare, 0);
    head[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = checksum(&head);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    head
}

fn refusal(head: &[u8; FRAME_HEADER_BYTES], peer: PeerRole) -> FrameError {
    let error = FrameHeader::parse(head, peer, &limits_of_four()).unwrap_err();
    let mut cutter = cutter(peer);
    cutter.push(head);
    assert_eq!(cutter.next(), Err(error), "a cutter says the same");
    error
}

#[test]
fn a_header_is_laid_out_as_it_is_written() {
    let head = FrameHeader { kind: Kind::Checkpoint, len: 0x0102, epoch: Epoch(0x0304) }.to_bytes();
    let fields = *b"BFT1\x01\0\x13\0\x02\x01\0\0\xcc\xcc\xcc\xcc\x04\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!((&head[..12], &head[16..]), (&fields[..12], &fields[16..]));
    // The check value of CRC-32C, and that it is the one in use.
    assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xe306_9283);
    let covered = [&head[..12], &head[16..]].concat();
    assert_eq!(head[12..16], crc_fast::crc32_iscsi(&covered).to_le_bytes());
}

#[test]
fn a_header_says_why_it_is_refused() {
    let peer = PeerRole::Replica;
    assert_eq!(refusal(&forged(0, b"GET "), peer), FrameError::Magic(*b"GET "));
    assert_eq!(refusal(&forged(4, &[2, 0]), peer), FrameError::Version(2));
    assert_eq!(refusal(&forged(24, &[1]), peer), FrameError::Reserved(1));
    assert_eq!(refusal(&forged(31, &[1]), peer), FrameError::Reserved(1 << 56));
    let mut wrong = header(Kind::Prepare, 0);
    wrong[16] ^= 1;
    assert!(matches!(refusal(&wrong, peer), FrameError::Checksum { .. }));
}

#[test]
fn every_flipped_bit_of_a_header_is_found() {
    for bit in 0..8 * FRAME_HEADER_BYTES {
        let mut head = header(Kind::Status, 200);
        head[bit / 8] ^= 1 << (bit % 8);
        refusal(&head, PeerRole::Replica);
    }
}

#[test]
fn kinds_of_other_versions_are_unknown() {
    let unused = [0, 7, 15, 24, 44, 48, 49, 50, 51, 64, 66, 256 + 17, u16::MAX];
    for number in unused {
        for peer in PEERS {
            assert_eq!(refusal(&forged(6, &number.to_le_bytes()), peer), FrameError::UnknownKind(number));
        }
    }
}

#[test]
fn every_kind_comes_from_whom_it_may() {
    let replica = [1, 16, 17, 18, 19, 20, 21, 22, 23, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 65];
    let client = [1, 4, 6];
    let server = [2, 3, 5];
    let table: [(PeerRole, &[u16]); 3] =
        [(PeerRole::Replica, &replica), (PeerRole::Client, &client), (PeerRole::Server, &server)];
    for (peer, allowed) in table {
        for kind in Kind::ALL {
            let head = header(kind, 1);
            if allowed.contains(&(kind as u16)) {
                assert!(FrameHeader::parse(&head, peer, &limits_of_four()).is_ok(), "{kind:?} from {peer:?}");
            } else {
                assert_eq!(refusal(&head, peer), FrameError::NotAllowed { kind, peer });
            }
        }
    }
}

#[test]
fn limits_follow_the_configuration() {
    let max = |limits: &FrameLimits, kind| PEERS.into_iter().find_map(|peer| limits.payload_max(kind, peer)).unwrap();
    let four = limits_of_four();
    assert_eq!(max(&four, Kind::Request), (256 + 1) << 10);
    assert_eq!(max(&four, Kind::PrePrepare), (1024 + 64) << 10);
    assert_eq!(max(&four, Kind::Reply), 256 * 1024 + 4 * 4096 + 1024);
    assert_eq!(max(&four, Kind::Log), 2 << 20);
    assert_eq!((max(&four, Kind::Manifest), max(&four, Kind::Chunk)), (5 << 20, (1024 + 4) << 10));
    assert_eq!(max(&four, Kind::Trail), (128 + 1) << 10);
    assert_eq!(four.frame_max(PeerRole::Client), FRAME_HEADER_BYTES + (257 << 10));
    let params =
        ProtocolParams { batch_bytes_max: 8 << 20, window: 4096, checkpoint_interval: 2048, ..Default::default() };
    let largest = FrameLimits::new(&config(7, params));
    assert_eq!(max(&largest, Kind::Slot), (8 << 20) + (64 << 10));
    assert!(max(&largest, Kind::Log) >= max(&largest, Kind::Slot), "a LOG holds any one slot");
    let new_view = limits::new_view_bytes(7, 4096);
    assert!(new_view > 8 << 20 && new_view <= limits::NEW_VIEW_FRAME_BYTES);
    assert_eq!(max(&largest, Kind::NewView) as usize, new_view);
    assert_eq!(largest.frame_max(PeerRole::Replica), FRAME_HEADER_BYTES + new_view);
}

#[test]
fn t5_a_length_is_refused_before_a_byte_of_the_payload_is_taken() {
    for (kind, peer) in
        [(Kind::Request, PeerRole::Client), (Kind::Log, PeerRole::Replica), (Kind::Reply, PeerRole::Server)]
    {
        let limit = limits_of_four().payload_max(kind, peer).unwrap();
        assert!(FrameHeader::parse(&header(kind, limit), peer, &limits_of_four()).is_ok());
        assert_eq!(refusal(&header(kind, limit + 1), peer), FrameError::TooLong { kind, len: limit + 1, limit });
        assert_eq!(refusal(&header(kind, u32::MAX), peer), FrameError::TooLong { kind, len: u32::MAX, limit });
    }
}

#[test]
fn a_stream_gives_the_same_frames_wherever_it_is_split() {
    for peer in PEERS {
        let sent = examples_of(peer);
        let bytes = stream(&sent);
        for split in 0..=bytes.len() {
            let mut cutter = cutter(peer);
            cutter.push(&bytes[..split]);
            let mut came = drain(&mut cutter).unwrap();
            cutter.push(&bytes[split..]);
            came.append(&mut drain(&mut cutter).unwrap());
            assert_eq!(came, sent, "split at {split}");
        }
    }
}

#[test]
fn a_stream_may_come_byte_by_byte() {
    let sent = examples_of(PeerRole::Replica);
    let bytes = stream(&sent);
    let mut cutter = cutter(PeerRole::Replica);
    let mut came = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        cutter.push(&[*byte]);
        let mut ready = drain(&mut cutter).unwrap();
        assert!(ready.is_empty() || (at + 1) % FRAME_ALIGN == 0, "a frame is ready with its last byte");
        came.append(&mut ready);
    }
    assert_eq!(came, sent);
}

#[test]
fn padding_must_be_zero() {
    for message in examples() {
        let peer = senders(message.kind())[0];
        let frame = stream([&message]);
        let len = u32::from_le_bytes(frame[8..12].try_into().unwrap()) as usize;
        for at in FRAME_HEADER_BYTES + len..frame.len() {
            let mut frame = frame.clone();
            frame[at] = 1;
            for split in [0, 16, 40, at, at + 1] {
                let mut cutter = cutter(peer);
                let (front, back) = frame.split_at(split.min(frame.len()));
                cutter.push(front);
                cutter.push(back);
                assert_eq!(cutter.next(), Err(FrameError::Padding(message.kind())), "at {at}, split at {split}");
            }
        }
    }
}

#[test]
fn frames_before_an_error_are_given_and_nothing_after_it() {
    let sent = examples_of(PeerRole::Client);
    let mut bytes = stream(&sent);
    bytes.extend_from_slice(&header(Kind::Prepare, 0));
    bytes.extend_from_slice(&stream(&sent));
    let refused = FrameError::NotAllowed { kind: Kind::Prepare, peer: PeerRole::Client };
    for chunk in [1, 100, bytes.len()] {
        let mut cutter = cutter(PeerRole::Client);
        bytes.chunks(chunk).for_each(|chunk| cutter.push(chunk));
        for message in &sent {
            let (header, payload) = cutter.next().unwrap().unwrap();
            assert_eq!(decode(header.kind, &payload, BOUNDS).as_ref(), Ok(message));
        }
        assert_eq!(cutter.next(), Err(refused));
        cutter.push(&stream(&sent));
        assert_eq!(cutter.next(), Err(refused));
    }
}

#[test]
fn mem1_an_unfinished_frame_takes_its_length_and_no_more() {
    let mut cutter = cutter(PeerRole::Client);
    let limit = limits_of_four().payload_max(Kind::Request, PeerRole::Client).unwrap();
    cutter.push(&header(Kind::Request, limit));
    let chunk = [0; 1000];
    for _ in 0..limit as usize / chunk.len() {
        cutter.push(&chunk);
        assert!(cutter.payload.bytes.capacity() <= limit as usize + FRAME_ALIGN);
        assert_eq!(cutter.ready.len(), 0);
    }
    cutter.push(&[0; 1000]);
    let (_, payload) = cutter.next().unwrap().unwrap();
    assert_eq!((payload.len(), cutter.payload.bytes.capacity()), (limit as usize, 0));
}

#[test]
fn mem1_a_kept_request_keeps_no_other_frame() {
    let sent: Vec<_> = examples_of(PeerRole::Client).into_iter().cycle().take(60).collect();
    let mut cutter = cutter(PeerRole::Client);
    cutter.push(&stream(&sent));
    let mut requests = Vec::new();
    while let Some((header, payload)) = cutter.next().unwrap() {
        if header.kind == Kind::Request {
            requests.push(payload);
        }
    }
    assert_eq!(requests.len(), 20);
    assert!(requests.iter().all(Bytes::is_unique));
}

#[test]
fn mem1_places_for_ready_frames_are_given_back() {
    let empty = header(Kind::InfoQuery, 0);
    let mut cutter = cutter(PeerRole::Client);
    cutter.push(&empty.repeat(5000));
    assert_eq!(cutter.ready.len(), 5000);
    while cutter.next().unwrap().is_some() {}
    assert!(cutter.ready.capacity() <= 2 * FrameCutter::READY_KEPT);
}

#[test]
fn many_small_frames_share_one_piece_of_memory() {
    let votes: Vec<_> = examples().into_iter().filter(|message| message.kind() == Kind::Commit).collect();
    let sent: Vec<_> = votes.iter().cycle().take(50).collect();
    let mut cutter = cutter(PeerRole::Replica);
    cutter.push(&stream(sent));
    let mut at = None;
    while let Some((header, payload)) = cutter.next().unwrap() {
        let start = payload.as_ptr() as usize;
        let expected = at.map_or(start, |at| at + header.frame_bytes());
        assert_eq!(start, expected, "one frame behind the other");
        at = Some(start);
    }
}

#[test]
fn aligned_memory_starts_where_it_must() {
    for len in 0..100 {
        let mut buffer = AlignedBuffer::with_capacity(len);
        buffer.append(&vec![7; len]);
        assert_eq!(buffer.len(), len);
        let bytes = buffer.freeze();
        assert_eq!(bytes, vec![7; len]);
        assert!(len == 0 || bytes.as_ptr().align_offset(FRAME_ALIGN) == 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_messages_in_any_chunks_come_out_whole(
        sent in vec(messages(), 0..12),
        chunks in vec(1usize..400, 1..50),
        peer in prop::sample::select(&PEERS),
    ) {
        let mut sent = sent;
        sent.retain(|message| senders(message.kind()).contains(&peer));
        let bytes = stream(&sent);
        let mut cutter = cutter(peer);
        let mut rest = &bytes[..];
        for chunk in chunks.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            cutter.push(split_front(&mut rest, *chunk));
        }
        prop_assert_eq!(drain(&mut cutter), Ok(sent));
    }

    #[test]
    fn x7_a_hostile_stream_ends_in_an_error_and_never_panics(
        sent in vec(messages(), 1..6),
        flips in vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        chunk in 1usize..500,
    ) {
        let mut bytes = stream(&sent);
        for (index, flip) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= flip;
        }
        for peer in PEERS {
            let mut cutter = cutter(peer);
            let mut end = Ok(None);
            for chunk in bytes.chunks(chunk) {
                cutter.push(chunk);
                loop {
                    end = cutter.next();
                    let Ok(Some((header, payload))) = &end else { break };
                    let _ = decode(header.kind, payload, BOUNDS);
                }
            }
            cutter.push(&bytes);
            prop_assert!(end.is_ok() || matches!((cutter.next(), end), (Err(now), Err(then)) if now == then));
        }
    }
}
