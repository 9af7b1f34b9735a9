//! Streams of frames, and the payloads in them.

use std::sync::LazyLock;

use bft_core::auth::Verifier;
use bft_core::wire::archive::{decode, encode};
use bft_core::wire::frame::{FrameCutter, FrameError, FrameHeader, FrameLimits, PeerRole};
use bft_core::wire::message::{Kind, Message};
use bytes::Bytes;

use crate::cast::{Cast, scheme};
use crate::feed::Feed;

struct Setting {
    cast: Cast,
    limits: FrameLimits,
    verifier: Verifier,
}

static SETTING: LazyLock<Setting> = LazyLock::new(|| {
    let cast = Cast::fixed();
    let limits = FrameLimits::new(&cast.config);
    let verifier = Verifier::new(cast.config.clone(), scheme(200));
    Setting { cast, limits, verifier }
});

/// The peer that a byte stands for.
fn role(byte: u8) -> PeerRole {
    [PeerRole::Replica, PeerRole::Client, PeerRole::Server][usize::from(byte) % 3]
}

/// Peer, cutting pattern, stream. The frames and the error of a stream do not depend on how it is cut; every payload is
/// of a kind that may come from there, no longer than it may be, and aligned.
pub fn frame(data: &[u8]) {
    let mut feed = Feed::new(data);
    let (peer, cut) = (role(feed.u8()), usize::from(feed.u8()) + 1);
    let stream = feed.rest();
    let whole = frames(peer, [stream]);
    let pieces = frames(peer, stream.chunks(cut));
    assert_eq!(whole, pieces, "cut into pieces of {cut}");
    let limits = &SETTING.limits;
    for (header, payload) in &whole.0 {
        let most = limits.payload_max(header.kind, peer).expect("a kind that may come from there");
        assert!(payload.len() == header.len as usize && header.len <= most);
        assert_eq!(payload.as_ptr().align_offset(16), 0);
        // What it says is the other target's.
        let _ = decode(header.kind, payload, SETTING.cast.bounds());
    }
}

type Frames = (Vec<(FrameHeader, Bytes)>, Option<FrameError>);

fn frames<'a>(peer: PeerRole, pieces: impl IntoIterator<Item = &'a [u8]>) -> Frames {
    let mut cutter = FrameCutter::new(peer, SETTING.limits);
    let mut taken = Vec::new();
    for piece in pieces {
        cutter.push(piece);
        loop {
            match cutter.next() {
                Ok(Some(frame)) => taken.push(frame),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(cutter.next(), Err(error), "an error is final");
                    return (taken, Some(error));
                }
            }
        }
    }
    (taken, None)
}

/// Kind, sender, alignment, payload. What decodes encodes to bytes that decode to the same; those bytes encode to
/// themselves; what travels in canonical bytes is its own encoding. The verifier says yes or no.
pub fn message(data: &[u8]) {
    let mut feed = Feed::new(data);
    let kind = Kind::ALL[usize::from(feed.u8()) % Kind::ALL.len()];
    let (sender, shift) = (feed.u8(), usize::from(feed.u8()) % 16);
    let shifted = [&[0; 16][..shift], feed.rest()].concat();
    let payload = Bytes::from(shifted).slice(shift..);
    let bounds = SETTING.cast.bounds();
    let Ok(message) = decode(kind, &payload, bounds) else { return };
    assert_eq!(message.kind(), kind);
    let first = encoded(&message);
    let (header, again) = cut(&first);
    assert_eq!((header.kind, header.len as usize), (kind, again.len()));
    let decoded = decode(kind, &again, bounds).expect("what was encoded decodes");
    assert_eq!(decoded, message);
    assert_eq!(encoded(&decoded), first, "one message has one encoding");
    let canonical = [Kind::Request, Kind::ViewChange, Kind::NewView, Kind::Evidence, Kind::Recall, Kind::Recalled];
    if canonical.contains(&kind) {
        assert_eq!(again, payload);
    }
    judge(sender, message);
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, SETTING.cast.config.epoch(), &mut out);
    out
}

/// The one frame in `bytes`, from whoever may send it.
fn cut(bytes: &[u8]) -> (FrameHeader, Bytes) {
    let sender = [PeerRole::Replica, PeerRole::Client, PeerRole::Server].into_iter().find_map(|peer| {
        let mut cutter = FrameCutter::new(peer, SETTING.limits);
        cutter.push(bytes);
        cutter.next().ok()
    });
    sender.flatten().expect("somebody may send it, and it is whole")
}

fn judge(sender: u8, message: Message) {
    let Setting { cast, verifier, .. } = &*SETTING;
    match message {
        Message::Request(request) => {
            let (valid, refused) = verifier.check_requests(vec![request]);
            assert_eq!(valid.len() + refused.len(), 1);
        }
        Message::ClientJoin(join) => {
            // Nobody here can sign for the hash of a handshake that never was.
            let hash = [0xEE; 32];
            bft_link::check_join(&cast.config, verifier, &hash, &join).expect_err("signed for another link");
        }
        message => {
            let from = cast.config.replicas().nth(usize::from(sender) % cast.config.n()).expect("one of them");
            let checked = verifier.check(from, message.clone());
            assert!(checked.is_err() || *checked.expect("just seen") == message);
        }
    }
}

/// One frame with the payload of `kind`, its header in order, whatever the payload is.
#[must_use]
pub fn framed(kind: Kind, cast: &Cast, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let header = FrameHeader { kind, len, epoch: cast.config.epoch() };
    let padding = payload.len().next_multiple_of(16) - payload.len();
    [&header.to_bytes()[..], payload, &[0; 16][..padding]].concat()
}

/// The payload of a message.
#[must_use]
pub fn payload(cast: &Cast, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, cast.config.epoch(), &mut out);
    let len = u32::from_le_bytes(out[8..12].try_into().expect("four bytes")) as usize;
    out.drain(..32);
    out.truncate(len);
    out
}

/// The cluster of the targets.
#[must_use]
pub fn cast() -> &'static Cast {
    &SETTING.cast
}
