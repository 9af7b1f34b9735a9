//! The handshake as a state machine: received bytes in, bytes to send out, and in the end a [`Peer`] and a [`Channel`].
//! Holds no more than one message at a time. How long it may take is for the shell to bound
//! (`limits::HANDSHAKE_TIMEOUT`).

use bft_core::ids::{Epoch, PublicKey, ReplicaId};
use bft_core::wire::message::ClientCertificate;

use crate::channel::Channel;
use crate::error::LinkError;
use crate::identity::{Expected, Identity, LocalIdentity, Who};
use crate::noise::{Noise, Side, message_lengths};
use crate::preface::{self, PREFACE_BYTES, Role};
use crate::{LENGTH_BYTES, fill};

/// Who is at the other end, and proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What it is.
    pub role: Role,
    /// Its key: the configuration's for a replica, an admitted one for a client.
    pub public_key: PublicKey,
    /// Which replica; `None` for a client.
    pub replica: Option<ReplicaId>,
    /// Its Epoch: ours.
    pub epoch: Epoch,
    /// How often the replica has started on its disk; 0 for a client. What to do about several: [`crate::Instances`].
    pub instance: u64,
    /// What a client showed. Checked only where the cluster asks for one.
    pub certificate: Option<ClientCertificate>,
    /// The wire version of this link.
    pub version: u16,
    /// What else it can do. This version has no name for any bit.
    pub features: u64,
    /// The hash over the whole handshake, the same at both ends and on no other link: what CLIENT-JOIN signs.
    pub handshake_hash: [u8; 32],
}

/// A handshake under way.
pub struct Handshake {
    local: LocalIdentity,
    state: State,
    received: Vec<u8>,
    output: Vec<u8>,
}

enum State {
    /// The acceptor waits for the preface.
    Preface {
        entropy: [u8; 32],
    },
    /// The acceptor waits for message 1.
    First {
        noise: Box<Noise>,
        accepted: preface::Accepted,
    },
    /// The connector waits for message 2.
    Second {
        noise: Box<Noise>,
        wanted: ReplicaId,
    },
    /// The acceptor waits for message 3.
    Third {
        noise: Box<Noise>,
        accepted: preface::Accepted,
    },
    /// Both sides know each other.
    Finished(Box<(Peer, Channel)>),
    /// The caller has the channel.
    Taken,
    Failed(LinkError),
}

impl Handshake {
    /// The side that connected, to the replica `wanted`. `entropy` must be fresh and secret. There is output at once.
    ///
    /// # Panics
    /// If `wanted` is no member of the configuration, or this very replica.
    #[must_use]
    pub fn connect(local: LocalIdentity, wanted: ReplicaId, entropy: [u8; 32]) -> Self {
        assert!(local.config.member(wanted).is_some(), "{wanted} is no member");
        assert_ne!(local.own_id(), Some(wanted), "a replica has no link to itself");
        let cipher = local.config.params().cipher;
        let preface = preface::encode(cipher, local.role());
        let mut noise = Noise::new(Side::Connector, cipher, &preface, local.config.cluster_id(), &entropy);
        let mut output = preface.to_vec();
        noise.write(&[], &mut output).expect("the first message takes no key of the peer");
        Self { local, state: State::Second { noise: Box::new(noise), wanted }, received: Vec::new(), output }
    }

    /// The side that was connected to. `entropy` must be fresh and secret.
    ///
    /// # Panics
    /// If `local` is a client: nobody connects to one.
    #[must_use]
    pub fn accept(local: LocalIdentity, entropy: [u8; 32]) -> Self {
        assert_eq!(local.role(), Role::Replica, "only a replica accepts links");
        Self { local, state: State::Preface { entropy }, received: Vec::new(), output: Vec::new() }
    }

    /// Takes what belongs to the handshake from the front of `incoming`, in whatever pieces it comes. What is left
    /// there when it has finished is for [`Channel::open`].
    pub fn feed(&mut self, incoming: &mut &[u8]) -> Result<(), LinkError> {
        let advanced = self.advance(incoming);
        if let Err(error) = &advanced {
            self.state = State::Failed(error.clone());
            self.received = Vec::new();
        }
        advanced
    }

    /// What is to be sent now; empty if nothing is.
    #[must_use]
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The peer and the channel to it, once, when the handshake has finished and all of its output was taken.
    #[must_use]
    pub fn finished(&mut self) -> Option<(Peer, Channel)> {
        if !self.output.is_empty() || !matches!(self.state, State::Finished(_)) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Finished(finished) => Some(*finished),
            State::Preface { .. }
            | State::First { .. }
            | State::Second { .. }
            | State::Third { .. }
            | State::Taken
            | State::Failed(_) => unreachable!("just seen to have finished"),
        }
    }

    /// What it means if the peer closes the connection, or says nothing more, now.
    pub fn closed(&self) -> Result<(), LinkError> {
        let (after, hint) = match &self.state {
            State::Preface { .. } => (0, "it said nothing, or not enough"),
            State::First { .. } => (0, "it said nothing after its preface"),
            State::Second { .. } => {
                (1, "it refused this side's versions or suite, or has too many links; its log says")
            }
            State::Third { .. } => {
                (2, "it refused this side, most likely for another cluster_id, epoch or cluster.toml")
            }
            State::Finished(_) | State::Taken => return Ok(()),
            State::Failed(error) => return Err(error.clone()),
        };
        Err(LinkError::Closed { after, hint })
    }

    fn advance(&mut self, incoming: &mut &[u8]) -> Result<(), LinkError> {
        while let Some(needed) = self.needed()? {
            if !fill(&mut self.received, needed, incoming) {
                return Ok(());
            }
            if needed > LENGTH_BYTES {
                let received = std::mem::take(&mut self.received);
                self.state = self.step(&received)?;
            }
        }
        Ok(())
    }

    /// How many bytes must have been received to go on, a message's length first; `None`: it is over.
    fn needed(&self) -> Result<Option<usize>, LinkError> {
        let message = match &self.state {
            State::Preface { .. } => return Ok(Some(PREFACE_BYTES)),
            State::First { .. } => 1,
            State::Second { .. } => 2,
            State::Third { .. } => 3,
            State::Finished(_) | State::Taken => return Ok(None),
            State::Failed(error) => return Err(error.clone()),
        };
        let Some(length) = self.received.first_chunk() else { return Ok(Some(LENGTH_BYTES)) };
        let len = usize::from(u16::from_le_bytes(*length));
        let allowed = message_lengths(message);
        if message == 1 && len > *allowed.end() {
            return Err(LinkError::EarlyData { bytes: len - allowed.end() });
        }
        if !allowed.contains(&len) {
            return Err(LinkError::MessageLength { message, len, allowed });
        }
        Ok(Some(LENGTH_BYTES + len))
    }

    /// The state after what was received whole: a preface, or a message with its length.
    fn step(&mut self, received: &[u8]) -> Result<State, LinkError> {
        match std::mem::replace(&mut self.state, State::Taken) {
            State::Preface { entropy } => {
                let preface = received.try_into().expect("as many bytes as a preface has");
                self.on_preface(preface, &entropy)
            }
            State::First { noise, accepted } => self.on_first(noise, accepted, &received[LENGTH_BYTES..]),
            State::Second { noise, wanted } => self.on_second(noise, wanted, &received[LENGTH_BYTES..]),
            State::Third { noise, accepted } => self.on_third(noise, accepted, &received[LENGTH_BYTES..]),
            State::Finished(_) | State::Taken | State::Failed(_) => unreachable!("these wait for nothing"),
        }
    }

    fn on_preface(&self, preface: &[u8; PREFACE_BYTES], entropy: &[u8; 32]) -> Result<State, LinkError> {
        let cipher = self.local.config.params().cipher;
        let accepted = preface::accept(preface, cipher)?;
        let noise = Noise::new(Side::Acceptor, cipher, preface, self.local.config.cluster_id(), entropy);
        Ok(State::First { noise: Box::new(noise), accepted })
    }

    fn on_first(
        &mut self,
        mut noise: Box<Noise>,
        accepted: preface::Accepted,
        message: &[u8],
    ) -> Result<State, LinkError> {
        let payload = noise.read(message, LinkError::Forged)?;
        assert!(payload.is_empty(), "its length leaves no room for one");
        self.say_who(&mut noise, accepted.version)?;
        Ok(State::Third { noise, accepted })
    }

    fn on_second(&mut self, mut noise: Box<Noise>, wanted: ReplicaId, message: &[u8]) -> Result<State, LinkError> {
        let identity = self.hear_who(&mut noise, message, LinkError::OtherCluster)?;
        self.local.check(&identity, Expected::Replica(wanted))?;
        self.say_who(&mut noise, identity.version)?;
        Ok(self.finish(*noise, &identity))
    }

    fn on_third(
        &mut self,
        mut noise: Box<Noise>,
        accepted: preface::Accepted,
        message: &[u8],
    ) -> Result<State, LinkError> {
        let identity = self.hear_who(&mut noise, message, LinkError::Forged)?;
        let preface::Accepted { version, role } = accepted;
        self.local.check(&identity, Expected::Connector { role, version })?;
        Ok(self.finish(*noise, &identity))
    }

    /// Sends the next message, with this side's signed Identity.
    fn say_who(&mut self, noise: &mut Noise, version: u16) -> Result<(), LinkError> {
        let identity = self.local.identity(version);
        let payload = self.local.sign(&identity, &noise.hash(), &noise.public());
        noise.write(&payload, &mut self.output)
    }

    /// The Identity in a message, signed by its key for this handshake. `refused`: the error if it does not decrypt.
    fn hear_who(&self, noise: &mut Noise, message: &[u8], refused: LinkError) -> Result<Identity, LinkError> {
        let hash_before = noise.hash();
        let payload = noise.read(message, refused)?;
        self.local.open(&payload, &hash_before, &noise.remote())
    }

    fn finish(&self, noise: Noise, identity: &Identity) -> State {
        let handshake_hash = noise.hash();
        let channel = Channel::new(noise.into_transport(), self.local.config.params().cipher);
        State::Finished(Box::new((Peer::new(identity, handshake_hash), channel)))
    }
}

impl Peer {
    fn new(identity: &Identity, handshake_hash: [u8; 32]) -> Self {
        let Identity { who, public_key, epoch, config_digest: _, version, features } = *identity;
        let (role, replica, instance, certificate) = match who {
            Who::Replica { id, instance } => (Role::Replica, Some(id), instance, None),
            Who::Client { certificate } => (Role::Client, None, 0, certificate),
        };
        Self { role, public_key, replica, epoch, instance, certificate, version, features, handshake_hash }
    }
}

#[cfg(test)]
impl Handshake {
    /// How much memory the peer makes this side hold for what it sent.
    pub(crate) fn held(&self) -> usize {
        self.received.capacity()
    }
}
