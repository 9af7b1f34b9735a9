//! The Noise handshake itself: the only file that knows how `snow` makes one. Chance comes from 32 bytes of the caller's
//! and nowhere else, so that a handshake replays; who the peer is, is decided in `identity`.

use std::cell::Cell;

use bft_core::config::Cipher;
use bft_core::ids::ClusterId;
use bft_core::limits::HANDSHAKE_MESSAGE_BYTES;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver, FallbackResolver, RingResolver};
use snow::types::{self, Dh, Hash, Random};
use snow::{Builder, HandshakeState, TransportState};

use crate::LENGTH_BYTES;
use crate::error::LinkError;
use crate::preface::PREFACE_BYTES;

/// What an AEAD adds.
pub(crate) const TAG_BYTES: usize = 16;
/// An X25519 key.
pub(crate) const KEY_BYTES: usize = 32;

/// Which end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Connector,
    Acceptor,
}

/// The full name of the Noise protocol that `cipher` stands for.
pub(crate) fn protocol(cipher: Cipher) -> &'static str {
    match cipher {
        Cipher::AesGcm => "Noise_XX_25519_AESGCM_SHA256",
        Cipher::ChaChaPoly => "Noise_XX_25519_ChaChaPoly_SHA256",
    }
}

/// One side of a handshake under way.
pub(crate) struct Noise {
    state: HandshakeState,
    public: [u8; KEY_BYTES],
}

impl Noise {
    /// A handshake after `preface`, in `cluster`. The static X25519 key is the first that `entropy` gives, and dies with
    /// the handshake.
    pub fn new(
        side: Side,
        cipher: Cipher,
        preface: &[u8; PREFACE_BYTES],
        cluster: ClusterId,
        entropy: &[u8; 32],
    ) -> Self {
        let prologue = [preface.as_slice(), &cluster.0].concat();
        let mut stream = Stream::new(entropy, side, &prologue);
        let mut private = [0; KEY_BYTES];
        stream.fill(&mut private);
        let resolver = Resolver::new(stream);
        let mut key = resolver.resolve_dh(&DHChoice::Curve25519).expect("the default resolver has X25519");
        key.set(&private);
        let public = key.pubkey().try_into().expect("an X25519 key has 32 bytes");
        let params = protocol(cipher).parse().expect("a name that snow knows");
        let builder = Builder::with_resolver(params, Box::new(resolver))
            .local_private_key(&private)
            .and_then(|builder| builder.prologue(&prologue))
            .expect("each is set once");
        let state = match side {
            Side::Connector => builder.build_initiator(),
            Side::Acceptor => builder.build_responder(),
        };
        Self { state: state.expect("the resolver has all that XX needs"), public }
    }

    /// Appends the next message, with its length before it, carrying `payload`.
    pub fn write(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), LinkError> {
        let mut message = [0; HANDSHAKE_MESSAGE_BYTES];
        let written = match self.state.write_message(payload, &mut message) {
            Ok(written) => written,
            Err(snow::Error::Dh) => return Err(LinkError::SmallOrder),
            Err(error) => panic!("a message of the handshake in its turn, with room for it: {error}"),
        };
        let len = u16::try_from(written).expect("at most 4 KiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&message[..written]);
        Ok(())
    }

    /// The payload of the next message of the peer; `refused` is the error when it does not decrypt.
    pub fn read(&mut self, message: &[u8], refused: LinkError) -> Result<Vec<u8>, LinkError> {
        let mut payload = vec![0; message.len()];
        match self.state.read_message(message, &mut payload) {
            Ok(len) => payload.truncate(len),
            Err(snow::Error::Dh) => return Err(LinkError::SmallOrder),
            Err(_) => return Err(refused),
        }
        Ok(payload)
    }

    /// Noise is over: what seals records from now on.
    pub fn into_transport(self) -> TransportState {
        self.state.into_transport_mode().expect("all three messages have gone over the link")
    }

    /// The handshake hash so far.
    pub fn hash(&self) -> [u8; 32] {
        self.state.get_handshake_hash().try_into().expect("SHA-256 has 32 bytes")
    }

    /// The own X25519 key.
    pub fn public(&self) -> [u8; KEY_BYTES] {
        self.public
    }

    /// The X25519 key of the peer, as Noise authenticated it.
    pub fn remote(&self) -> [u8; KEY_BYTES] {
        let key = self.state.get_remote_static().expect("asked for after the message that carries it");
        key.try_into().expect("an X25519 key has 32 bytes")
    }
}

/// The lengths that message `number` may have: keys, their tags, and what is left of 4 KiB for the Identity.
pub(crate) fn message_lengths(number: u8) -> std::ops::RangeInclusive<usize> {
    match number {
        1 => KEY_BYTES..=KEY_BYTES,
        2 => 2 * KEY_BYTES + 2 * TAG_BYTES..=HANDSHAKE_MESSAGE_BYTES,
        _ => KEY_BYTES + 2 * TAG_BYTES..=HANDSHAKE_MESSAGE_BYTES,
    }
}

const _: () = assert!(HANDSHAKE_MESSAGE_BYTES + LENGTH_BYTES <= u16::MAX as usize);

/// A stream of bytes that 32 bytes determine. The keys of a Noise channel come from its X25519 keys alone, so side and
/// prologue go in here: not even entropy that was used twice by mistake gives two clusters, or both sides, one key.
struct Stream(blake3::OutputReader);

impl Stream {
    fn new(entropy: &[u8; 32], side: Side, prologue: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("bftd v1 link-entropy");
        hasher.update(entropy).update(&[side as u8]).update(prologue);
        Self(hasher.finalize_xof())
    }

    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill(out);
    }
}

impl Random for Stream {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        self.fill(out);
        Ok(())
    }
}

/// Gives snow its chance from a [`Stream`], once, and everything else from ring or, for X25519, from its own.
struct Resolver {
    stream: Cell<Option<Stream>>,
    primitives: FallbackResolver,
}

impl Resolver {
    fn new(stream: Stream) -> Self {
        let primitives = FallbackResolver::new(Box::new(RingResolver), Box::new(DefaultResolver));
        Self { stream: Cell::new(Some(stream)), primitives }
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        // A second one would give the same keys again: there is none.
        self.stream.take().map(|stream| Box::new(stream) as Box<dyn Random>)
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        self.primitives.resolve_dh(choice).map(|inner| Box::new(Contributory(inner)) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.primitives.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn types::Cipher>> {
        self.primitives.resolve_cipher(choice)
    }
}

/// X25519 that refuses a key of small order: the secret would be zero for everybody (RFC 7748 §6.1).
struct Contributory(Box<dyn Dh>);

impl Dh for Contributory {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, private: &[u8]) {
        self.0.set(private);
    }

    fn generate(&mut self, random: &mut dyn Random) -> Result<(), snow::Error> {
        self.0.generate(random)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.dh(public, out)?;
        let any = out[..KEY_BYTES].iter().fold(0, |any, byte| any | byte);
        if any == 0 { Err(snow::Error::Dh) } else { Ok(()) }
    }
}
