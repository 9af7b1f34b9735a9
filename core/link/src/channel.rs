//! What comes after the handshake: a stream of plaintext cut into sealed records, each with its length before it. Which
//! bytes are sealed together is up to the caller; record boundaries mean nothing to the stream.

use bft_core::config::Cipher;
use snow::TransportState;

use crate::error::LinkError;
use crate::noise::{TAG_BYTES, protocol};
use crate::{LENGTH_BYTES, fill};

/// The longest record, its tag included and its length not.
pub const RECORD_BYTES_MAX: usize = 65_535;
/// What one record holds at most.
pub const RECORD_PLAINTEXT_MAX: usize = RECORD_BYTES_MAX - TAG_BYTES;
/// Records that one key seals (PROTOCOL §12). Both sides count them, so nothing has to be said.
const REKEY_RECORDS: u64 = 1 << 32;

/// How many bytes `plaintext_len` bytes sealed at once take on the wire.
#[must_use]
pub const fn sealed_len(plaintext_len: usize) -> usize {
    plaintext_len + plaintext_len.div_ceil(RECORD_PLAINTEXT_MAX) * (LENGTH_BYTES + TAG_BYTES)
}

/// Both directions of a link whose handshake has finished.
pub struct Channel {
    transport: TransportState,
    name: &'static str,
    rekey_records: u64,
    /// The front of a record that has not come whole: less than [`RECORD_BYTES_MAX`] and its length.
    partial: Vec<u8>,
    failed: Option<LinkError>,
}

impl Channel {
    pub(crate) fn new(transport: TransportState, cipher: Cipher) -> Self {
        let name = protocol(cipher);
        Self { transport, name, rekey_records: REKEY_RECORDS, partial: Vec::new(), failed: None }
    }

    /// Appends `plaintext` to `out`, sealed in as few records as it fits. Allocates nothing where `out` has room for
    /// [`sealed_len`] more.
    pub fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        out.reserve(sealed_len(plaintext.len()));
        for piece in plaintext.chunks(RECORD_PLAINTEXT_MAX) {
            self.seal_record(piece, out);
        }
    }

    /// Appends to `out` the plaintext of every record that `incoming` completes, and keeps the rest of it until more
    /// comes. After an error nothing more opens; what was appended until then was sealed by the peer.
    pub fn open(&mut self, incoming: &[u8], out: &mut Vec<u8>) -> Result<(), LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let opened = self.open_records(incoming, out);
        if let Err(error) = &opened {
            self.failed = Some(error.clone());
            self.partial = Vec::new();
        }
        opened
    }

    /// What it means if the connection ends now: it may only between two records.
    pub fn closed(&self) -> Result<(), LinkError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.partial.is_empty() => Ok(()),
            None => Err(LinkError::Truncated { record: self.transport.receiving_nonce() }),
        }
    }

    /// The Noise protocol of this link, as it is named there.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn seal_record(&mut self, plaintext: &[u8], out: &mut Vec<u8>) {
        let len = plaintext.len() + TAG_BYTES;
        out.extend_from_slice(&u16::try_from(len).expect("cut to what a record holds").to_le_bytes());
        let start = out.len();
        out.resize(start + len, 0);
        let sealed = self.transport.write_message(plaintext, &mut out[start..]);
        assert_eq!(sealed.expect("room for the tag, and 2^64 records are never sealed"), len);
        if self.transport.sending_nonce().is_multiple_of(self.rekey_records) {
            self.transport.rekey_outgoing();
        }
    }

    fn open_records(&mut self, mut incoming: &[u8], out: &mut Vec<u8>) -> Result<(), LinkError> {
        if !self.partial.is_empty() {
            if !self.complete(&mut incoming)? {
                return Ok(());
            }
            let mut record = std::mem::take(&mut self.partial);
            self.open_record(&record[LENGTH_BYTES..], out)?;
            record.clear();
            self.partial = record;
        }
        // Whole records are opened where they lie.
        while let Some(needed) = self.needed(incoming)? {
            let Some((record, rest)) = incoming.split_at_checked(needed) else { break };
            self.open_record(&record[LENGTH_BYTES..], out)?;
            incoming = rest;
        }
        self.partial.extend_from_slice(incoming);
        Ok(())
    }

    /// Adds to the partial record from the front of `incoming`. Whether it is whole now.
    fn complete(&mut self, incoming: &mut &[u8]) -> Result<bool, LinkError> {
        let length = self.partial.len().max(LENGTH_BYTES);
        if !fill(&mut self.partial, length, incoming) {
            return Ok(false);
        }
        let needed = self.needed(&self.partial)?.expect("its length is there");
        Ok(fill(&mut self.partial, needed, incoming))
    }

    /// The bytes that the record at the front of `bytes` takes with its length; `None`: not even that is there.
    fn needed(&self, bytes: &[u8]) -> Result<Option<usize>, LinkError> {
        let Some(length) = bytes.first_chunk() else { return Ok(None) };
        let len = usize::from(u16::from_le_bytes(*length));
        // An honest peer never seals nothing: only work for this side would come of it.
        if len <= TAG_BYTES {
            return Err(LinkError::RecordLength { record: self.transport.receiving_nonce(), len });
        }
        Ok(Some(LENGTH_BYTES + len))
    }

    fn open_record(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), LinkError> {
        let start = out.len();
        // Room for the tag too: then it is opened in place, without a buffer of its own.
        out.resize(start + sealed.len(), 0);
        let Ok(len) = self.transport.read_message(sealed, &mut out[start..]) else {
            out.truncate(start);
            return Err(LinkError::ForgedRecord { record: self.transport.receiving_nonce() });
        };
        out.truncate(start + len);
        if self.transport.receiving_nonce().is_multiple_of(self.rekey_records) {
            self.transport.rekey_incoming();
        }
        Ok(())
    }
}

#[cfg(test)]
impl Channel {
    /// Changes keys sooner than after 2^32 records, and says how much memory waits for the rest of a record.
    pub(crate) fn rekey_after(&mut self, records: u64) {
        self.rekey_records = records;
    }

    pub(crate) fn held(&self) -> usize {
        self.partial.capacity()
    }
}
