//! How a message gets from one node to the other: as a value, or through the bytes of the wire.

use bft_core::config::ClusterConfig;
use bft_core::wire::archive::{decode, encode};
use bft_core::wire::frame::{FrameCutter, FrameLimits, senders};
use bft_core::wire::message::Message;
use bft_core::wire::request::RequestBounds;

use crate::options::Fidelity;

/// The message as the other side gets it. An error says why the wire does not give back what was put in.
pub fn carry(message: Message, fidelity: Fidelity, config: &ClusterConfig) -> Result<Message, (Message, String)> {
    match fidelity {
        Fidelity::Ledger => Ok(message),
        Fidelity::Full => match through_the_wire(&message, config) {
            Ok(arrived) if arrived == message => Ok(arrived),
            Ok(arrived) => {
                let text = format!("{message:?} arrives as {arrived:?}");
                Err((message, text))
            }
            Err(text) => Err((message, text)),
        },
    }
}

/// What the other side makes of the bytes of a villain's message: nothing, where they are no message.
#[must_use]
pub fn carry_lie(message: &Message, config: &ClusterConfig) -> Option<Message> {
    through_the_wire(message, config).ok()
}

fn through_the_wire(message: &Message, config: &ClusterConfig) -> Result<Message, String> {
    let mut bytes = Vec::new();
    encode(message, config.epoch(), &mut bytes);
    let mut cutter = FrameCutter::new(senders(message.kind())[0], FrameLimits::new(config));
    // In two pieces, as a stream may bring it.
    let (front, back) = bytes.split_at(bytes.len() / 3);
    cutter.push(front);
    cutter.push(back);
    let frame = cutter.next().map_err(|error| format!("{:?} is refused as a frame: {error}", message.kind()))?;
    let (header, payload) = frame.ok_or_else(|| format!("{:?} is no whole frame", message.kind()))?;
    decode(header.kind, &payload, RequestBounds::from(config.params()))
        .map_err(|error| format!("{:?} is refused: {error}", message.kind()))
}
