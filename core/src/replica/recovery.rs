//! From the superblock, the newest stable snapshot and the journal back to a replica (PROTOCOL §11, restart with the state
//! intact). Records come one by one: a journal need not fit in memory. What is sent again is byte for byte what was sent
//! before: signatures are deterministic and nonces derived. Where the journal is damaged: [`own_up`], and no records.

use std::sync::Arc;

use super::Replica;
use super::accusations::Accusations;
use super::batches::Batches;
use super::catch_up::CatchUp;
use super::checkpoints::Checkpoints;
use super::counters::Counters;
use super::executing::Executing;
use super::fairness::Fairness;
use super::forwarding::Forwarding;
use super::handshake::Handshake;
use super::idle::IdleMarks;
use super::index::JournalIndex;
use super::loading::Loading;
use super::pool::{Pool, PoolBounds};
use super::quarantine::Quarantine;
use super::sessions::Sessions;
use super::snapshots::Snapshots;
use super::trail::Trails;
use super::transfer::Transfer;
use super::views::Views;
use crate::auth::{Scheme, Verifier};
use crate::config::ClusterConfig;
use crate::door::{Effects, Now, Tuning};
use crate::ids::{Epoch, LogPosition, Nanos, ReplicaId, Seq, View};
use crate::journal::Damage;
use crate::journal::record::{Record, RecordKind};
use crate::journal::superblock::Superblock;
use crate::ordering::Outbox;
use crate::ordering::pbft::Pbft;
use crate::quorum::ReplicaSet;
use crate::snapshot::{ClientsImage, Manifest, Scalars};
use crate::wire::request::{Body, RequestBounds, RequestMalformed};

/// Why a journal that is whole cannot be this replica's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// A record of another Epoch.
    #[error("the {kind:?} record at position {at} is of Epoch {found}, the configuration of Epoch {expected}")]
    Epoch {
        /// What it is.
        kind: RecordKind,
        /// Where.
        at: LogPosition,
        /// Its Epoch.
        found: Epoch,
        /// The configuration's.
        expected: Epoch,
    },
    /// A view that began with what cannot be: more replicas are faulty than the configuration allows for.
    #[error("the NEW-VIEW at position {at} contradicts what is prepared or committed at Seq {seq}: safety is broken")]
    Safety {
        /// Where.
        at: LogPosition,
        /// The Seq.
        seq: Seq,
    },
    /// A body that the configuration does not allow.
    #[error("the batch in the VOTE at position {at} is not valid under this configuration: {why}")]
    Body {
        /// Where.
        at: LogPosition,
        /// Why.
        why: RequestMalformed,
    },
}

/// The scan found damage: makes `superblock` say so. It must be flushed, all four copies, before anything of the journal
/// is cut, overwritten or appended; then the replica recovers from it without records, and the journal goes on at
/// `damage.fresh` (PROTOCOL §11, AMNESIA-LITE).
///
/// From then on the replica signs nothing for a slot, view, checkpoint or snapshot up to `damaged_through`: no vote that is
/// lost can lie above, because none passes the window of the durable checkpoint (P6).
pub fn own_up(superblock: &mut Superblock, damage: &Damage, config: &ClusterConfig) {
    let stable = superblock.stable.as_ref().map_or(Seq(0), |certificate| certificate.seq);
    superblock.sequence += 1;
    superblock.damaged_through = superblock.damaged_through.max(stable.plus(config.params().window));
    superblock.journal_start = damage.fresh.last().next();
    // The NEW-VIEW that it may have made as the primary of this view is lost: it must not make a second one (E7).
    let began_it = superblock.promised > View(0) && config.primary(superblock.promised) == superblock.replica;
    if began_it {
        superblock.promised = superblock.promised.next();
    }
}

/// A replica that is being read back.
pub struct Recovery {
    replica: Replica,
}

impl Recovery {
    pub(super) fn new(
        config: Arc<ClusterConfig>,
        me: ReplicaId,
        scheme: Arc<dyn Scheme>,
        tuning: Tuning,
        superblock: Superblock,
    ) -> Self {
        let params = config.params();
        let stable = superblock.stable.as_ref().map_or(Seq(0), |certificate| certificate.seq);
        let pool = PoolBounds {
            bytes: tuning.pool_bytes.max(params.request_bytes_max as usize),
            bytes_per_client: tuning.pool_bytes_per_client.max(params.request_bytes_max as usize),
            requests_per_client: params.client_window as usize,
            batch_bytes: params.batch_bytes_max as usize,
            batch_requests: params.batch_requests_max as usize,
        };
        let body_bytes = tuning.body_bytes.max(params.batch_bytes_max as usize);
        let view = superblock.promised;
        let mut pbft = Pbft::new(Arc::clone(&config), me, Arc::clone(&scheme), view, stable, body_bytes)
            .silent_through(superblock.damaged_through);
        if superblock.quarantined {
            pbft.quarantine();
        }
        let replica = Replica {
            me,
            verifier: Verifier::new(Arc::clone(&config), Arc::clone(&scheme)),
            scheme,
            pbft,
            sessions: Sessions::new(params),
            pool: Pool::new(pool),
            taken: Vec::new(),
            executing: Executing::new(&Scalars::default()),
            trails: Trails::new(params.checkpoint_interval, (Seq(0), Scalars::default().exec)),
            quarantine: Quarantine::new(config.n(), superblock.quarantined),
            checkpoints: Checkpoints::default(),
            snapshots: Snapshots::new(None),
            loading: Loading::default(),
            catch_up: CatchUp::new(&tuning, config.n()),
            transfer: Transfer::new(config.n(), me),
            views: Views::new(config.n()),
            batches: Batches::default(),
            accusations: Accusations::default(),
            forwarding: Forwarding::default(),
            handshake: Handshake::new(config.n()),
            fairness: Fairness::new(config.params()),
            views_need: LogPosition(0),
            new_view_at: LogPosition(0),
            index: JournalIndex::new(superblock.collected),
            superblock,
            last: LogPosition(0),
            durable: LogPosition(0),
            clients: std::collections::HashMap::default(),
            peers: ReplicaSet::EMPTY,
            next_status: Nanos(0),
            idle: IdleMarks::default(),
            next_purge: Nanos(0),
            counters: Counters::default(),
            tuning,
            config,
        };
        Self { replica }
    }

    /// The own newest stable snapshot, checked by the shell against the superblock's root and the manifest's digests.
    pub fn snapshot(&mut self, manifest: &Manifest, clients: ClientsImage) {
        let replica = &mut self.replica;
        assert_eq!(replica.superblock.snapshot, Some((manifest.scalars.seq, manifest.root())));
        replica.sessions = Sessions::restore(replica.config.params(), clients);
        replica.executing = Executing::new(&manifest.scalars);
        replica.snapshots = Snapshots::new(Some(manifest));
        replica.trails.restart((manifest.scalars.seq, manifest.scalars.exec));
        replica.quarantine.agreed(manifest.scalars.seq);
    }

    /// The own newest stable snapshot cannot be read back, and with it the state is lost; what this replica signed is not.
    /// It votes, executes nothing, and fetches that snapshot, or a later one, from its peers (PROTOCOL §10).
    pub fn snapshot_lost(&mut self) {
        let replica = &mut self.replica;
        let seq = replica.stable_snapshot();
        assert!(seq > Seq(0), "what is lost has a name");
        // Nothing but the place is known of it. It is not looked at before a state that is known has taken its place.
        let scalars = Scalars { seq, ..Scalars::default() };
        replica.executing = Executing::new(&scalars);
        replica.trails.restart((seq, scalars.exec));
        crate::mutant!(M66ExecutesWithoutState, replica.quarantine.begin_without_state(), {});
    }

    /// The next record, in LogPosition order, from the superblock's journal start on.
    pub fn record(&mut self, at: LogPosition, record: Record) -> Result<(), RecoverError> {
        let replica = &mut self.replica;
        let (found, _, seq) = record.place();
        let expected = replica.config.epoch();
        if found != expected {
            return Err(RecoverError::Epoch { kind: record.kind(), at, found, expected });
        }
        replica.index.note_record(at, &record);
        match record {
            Record::Vote(vote) if seq > replica.pbft.stable() => {
                let body =
                    vote.body.clone().map(|body| Body::parse(body, RequestBounds::from(replica.config.params())));
                let body = body.transpose().map_err(|why| RecoverError::Body { at, why })?;
                replica.pbft.restore_vote(&vote, body.map(Arc::new));
            }
            Record::Cert(certificate) => replica.pbft.restore_certificate(&certificate),
            Record::NewView(new_view) => {
                replica.new_view_at = at;
                let restored =
                    crate::mutant!(M51NewViewMadeAnew, replica.pbft.restore_new_view(&new_view), Ok::<_, Seq>(()));
                restored.map_err(|seq| RecoverError::Safety { at, seq })?;
            }
            Record::Committed(committed) => replica.pbft.restore_committed(committed.certificate),
            Record::CkptVote { root, .. } => replica.restore_checkpoint(seq, root),
            Record::SnapVote { root, .. } => replica.restore_snapshot_vote(seq, root),
            Record::Evidence(evidence) => replica.restore_evidence(at, evidence),
            Record::SnapStable(certificate) => replica.snapshots.note_stable(certificate),
            Record::Vote(_) | Record::Stable(_) => {}
        }
        Ok(())
    }

    /// Everything was fed. `last` is the highest position ever handed out, all of it durable; `service_at` is what
    /// `Service::open` said.
    #[must_use]
    pub fn finish(mut self, now: Now, last: LogPosition, service_at: Seq, out: &mut Effects) -> Replica {
        let replica = &mut self.replica;
        replica.last = last;
        replica.durable = last;
        replica.next_status = now.mono;
        if service_at != replica.executing.last && !replica.quarantine.is_suspect() {
            replica.executing.install(replica.executing.last);
            out.install = Some(replica.executing.last);
        }
        replica.mark_open_requests();
        replica.restore_promise(out);
        replica.tell_evidence(out);
        replica.begin_handshake(now, out);
        replica.on_durable(last, out);
        replica.execute_ready(out);
        replica.status_when_due(now, out);
        self.replica
    }
}

impl Replica {
    /// A NEW-VIEW may have reached the disk before its promise did: the promise first. Without a NEW-VIEW the replica is on
    /// its way to the view that it promised, and says so again as soon as it may speak.
    fn restore_promise(&mut self, out: &mut Effects) {
        let view = self.pbft.view();
        if self.superblock.promised < view {
            self.superblock.promised = view;
            let mut outbox = Outbox::new(out, &mut self.last, &mut self.index);
            self.views_need = outbox.persist_superblock(self.superblock.clone());
        }
        if !self.pbft.is_normal() {
            self.pbft.promise(LogPosition(0));
        }
    }
}
