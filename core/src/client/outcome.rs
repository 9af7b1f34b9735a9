//! How an operation ends for whoever submitted it. Four ends that must not be confused (SHAPES §4): done, refused in the
//! order, never sent, and not known.

use bytes::Bytes;

use crate::ids::Seq;

/// The end of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Executed, once.
    Done {
        /// Where in the order.
        seq: Seq,
        /// What the service answered.
        result: Bytes,
    },
    /// Ordered and refused.
    Rejected {
        /// Where in the order.
        seq: Seq,
        /// Why.
        reason: Rejected,
    },
    /// It was never signed into a Request: not executed, and never will be. Submit it again at will.
    NotSent {
        /// Why.
        reason: NotSent,
    },
    /// It was signed and sent: executed at most once, perhaps later.
    Unknown {
        /// Why nobody waits for the answer any more.
        reason: Unknown,
    },
}

/// Why an ordered operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// Not executed, and never will be: another Request was executed under the same number of this session.
    #[error("not executed: another Request was executed under its number")]
    Conflict,
    /// Not executed, and never will be: the client is not admitted.
    #[error("not executed: the client is not admitted")]
    Denied,
    /// The one refusal of an operation that *was* executed, once: the results of its Request together pass the
    /// cluster's `reply_bytes_max`, so no replica kept them. Do not submit it again; ask for less at a time.
    #[error("executed, but the results of its Request pass the cluster's reply_bytes_max and are not kept")]
    ExecutedReplyTooLarge,
}

/// Why an operation never left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotSent {
    /// Its deadline passed.
    #[error("the deadline passed before it was sent")]
    Deadline,
    /// It was cancelled.
    #[error("cancelled before it was sent")]
    Cancelled,
    /// The client was closed.
    #[error("the client was closed before it was sent")]
    Closed,
    /// As much waited as may wait; or the cluster had no session to give until the deadline passed.
    #[error("not sent: the client's queue is full, or the cluster has no room for another session")]
    Overloaded,
    /// It fits into no Request of this cluster.
    #[error("not sent: it passes the cluster's request_bytes_max")]
    TooLarge,
    /// The cluster refuses a session to this client's key: it wants a certificate of its client authority.
    #[error("the cluster does not admit this client's key")]
    NotAdmitted,
}

/// Why the end of an operation is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unknown {
    /// Its deadline passed.
    #[error("the deadline passed before an answer came")]
    Deadline,
    /// It was cancelled.
    #[error("cancelled before an answer came")]
    Cancelled,
    /// The session was evicted or replaced before an answer came. Nothing of it executes from now on.
    #[error("the session was lost before an answer came")]
    SessionLost,
    /// The client was closed before an answer came.
    #[error("the client was closed before an answer came")]
    Closed,
    /// So many replicas as the cluster trusts agree on results that are none: more are faulty than it allows for.
    #[error("the agreed results are malformed: more replicas are faulty than the cluster allows for")]
    Unreadable,
}
