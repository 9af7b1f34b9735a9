//! What load is asked for, and whether it is one that can be made. A [`Plan`] has been checked against the cluster:
//! nothing that it says is refused later.

use std::path::PathBuf;
use std::time::Duration;

use bft_core::config::ClusterConfig;
use bft_core::config::strict::{ByteSize, HumanDuration};
use bft_core::wire::request::REQUEST_FIXED_BYTES;
use bft_services::named::NULL_REPLY_BYTES_MAX;
use clap::ValueEnum;

use crate::exit::{Failure, Reason};
use crate::load::work::{KV_PUT_BYTES_MIN, KV_VALUE_BYTES_MAX, Mix};
use crate::output::Output;

/// More than any cluster has sessions, so that it can be shown what happens to those beyond.
const CLIENTS_MAX: i64 = 65_536;
/// Operations under way of one client where nobody says how many.
const INFLIGHT: u64 = 64;
/// How long an operation may take where neither the command line nor `client.toml` says so.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What the replicas execute, and so what is sent to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ServiceName {
    /// Answers without doing anything: what remains is the cost of ordering.
    #[default]
    Null,
    /// Keys and values.
    Kv,
}

impl ServiceName {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Kv => "kv",
        }
    }
}

/// The options of the load, the same for every command that makes one.
#[derive(clap::Args)]
pub struct LoadArgs {
    /// How long to measure
    #[arg(long, default_value = "10s", value_name = "TIME", help_heading = "Load")]
    pub duration: HumanDuration,
    /// How long the load runs before that
    #[arg(long, default_value = "2s", value_name = "TIME", help_heading = "Load")]
    pub warmup: HumanDuration,
    /// Clients, each with a key and a session of its own
    #[arg(long, default_value_t = 4, value_name = "C", help_heading = "Load",
          value_parser = clap::value_parser!(u32).range(1..=CLIENTS_MAX))]
    pub clients: u32,
    /// Operations of each client under way at a time: always in a closed loop (64 if left out), at most in an open one
    #[arg(long, value_name = "M", help_heading = "Load", value_parser = clap::value_parser!(u64).range(1..))]
    pub inflight: Option<u64>,
    /// Operations a second of all clients together: an open loop
    #[arg(long, value_name = "OPS", help_heading = "Load", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub rate: Option<u64>,
    /// The most operations that one envelope, with one signature, may hold
    #[arg(long, default_value_t = 1, value_name = "K", help_heading = "Load", value_parser = clap::value_parser!(u32).range(1..))]
    pub ops_per_envelope: u32,
    /// Size of an operation (of kv: of a put)
    #[arg(long, default_value = "16", value_name = "BYTES", help_heading = "Load")]
    pub op_bytes: ByteSize,
    /// Size of a reply of the service null
    #[arg(long, value_name = "BYTES", help_heading = "Load")]
    pub reply_bytes: Option<ByteSize>,
    /// What the replicas execute
    #[arg(long, value_enum, default_value_t, help_heading = "Load")]
    pub service: ServiceName,
    /// Keys of the service kv (10000 if left out)
    #[arg(long, value_name = "N", help_heading = "Load", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub keys: Option<u64>,
    /// What is done with them (mixed if left out)
    #[arg(long, value_enum, help_heading = "Load")]
    pub mix: Option<Mix>,
    /// Write every key once before anything is measured
    #[arg(long, help_heading = "Load")]
    pub preload: bool,
    /// How long an operation may take [default: that of client.toml, or 10s]
    #[arg(long, value_name = "TIME", help_heading = "Load")]
    pub timeout: Option<HumanDuration>,
    /// Write what happens in each interval to this file, one JSON object a line
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub timeline: Option<PathBuf>,
    /// How often is looked what the replicas do; shorter intervals tell more precisely what a checkpoint costs
    #[arg(long, default_value = "1s", value_name = "TIME", help_heading = "Output")]
    pub interval: HumanDuration,
    /// How to tell the outcome
    #[arg(long, value_enum, default_value_t, help_heading = "Output")]
    pub output: Output,
}

/// What one client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkPlan {
    /// Operations of this size for the service null, which answers with so many bytes.
    Null {
        /// Of an operation.
        op_bytes: usize,
        /// Of its reply.
        reply_bytes: usize,
    },
    /// Operations on so many keys, values of so many bytes.
    Kv {
        /// What is done.
        mix: Mix,
        /// How many keys.
        keys: u64,
        /// Of a value.
        value_bytes: usize,
    },
    /// Every key is written once.
    Preload {
        /// What comes afterwards: it decides which keys are counters.
        mix: Mix,
        /// How many keys.
        keys: u64,
        /// Of a value.
        value_bytes: usize,
    },
}

/// When operations start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As soon as there is room.
    Closed,
    /// So many a second of all clients together, whatever becomes of them.
    Open {
        /// Operations a second.
        rate: u64,
    },
}

/// A load that can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Clients.
    pub clients: usize,
    /// Operations of each under way.
    pub inflight: usize,
    /// When they start.
    pub pace: Pace,
    /// Operations of an envelope.
    pub ops_per_envelope: u32,
    /// What they are.
    pub work: WorkPlan,
    /// The largest of them.
    pub op_bytes_max: usize,
    /// How long each may take.
    pub timeout: Duration,
}

/// How long a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// Before the measured interval.
    pub warmup: Duration,
    /// The measured interval.
    pub duration: Duration,
    /// How often is looked.
    pub interval: Duration,
}

impl LoadArgs {
    /// Checks what does not depend on a cluster.
    pub fn times(&self) -> Result<Times, Failure> {
        let times = Times {
            warmup: Duration::from_nanos(self.warmup.0),
            duration: Duration::from_nanos(self.duration.0),
            interval: Duration::from_nanos(self.interval.0),
        };
        let bounds = [
            ("--duration", times.duration, Duration::from_millis(10)),
            ("--interval", times.interval, Duration::from_millis(10)),
            ("--warmup", times.warmup, Duration::ZERO),
        ];
        for (name, time, least) in bounds {
            if time < least || time > Duration::from_secs(7 * 86_400) {
                return Err(usage(format!("{name} is {time:?}, but must be {least:?} to 7d")));
            }
        }
        Ok(times)
    }

    /// Checks the load against the cluster that is to bear it. `timeout` is that of `client.toml`.
    pub fn plan(&self, cluster: &ClusterConfig, timeout: Option<Duration>) -> Result<Plan, Failure> {
        let params = cluster.params();
        if self.ops_per_envelope > params.request_operations_max {
            return Err(usage(format!(
                "--ops-per-envelope is {}, but the cluster takes at most {} (request_operations_max)",
                self.ops_per_envelope, params.request_operations_max
            )));
        }
        let op_bytes_max = params.request_bytes_max as usize - REQUEST_FIXED_BYTES - 4;
        let op_bytes = usize::try_from(self.op_bytes.0).unwrap_or(usize::MAX);
        if op_bytes > op_bytes_max {
            return Err(usage(format!(
                "--op-bytes is {op_bytes}, but one operation may have at most {op_bytes_max} (request_bytes_max)"
            )));
        }
        let timeout = self.timeout.map(|timeout| Duration::from_nanos(timeout.0)).or(timeout).unwrap_or(TIMEOUT);
        let work = self.work(op_bytes)?;
        let op_bytes_max = work.op_bytes_max();
        Ok(Plan {
            clients: self.clients as usize,
            inflight: self.inflight(params.client_window)?,
            pace: self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate }),
            ops_per_envelope: self.ops_per_envelope,
            work,
            op_bytes_max,
            timeout,
        })
    }

    /// More than fits the window could never be under way: the rest would wait in the client, and be counted as if the
    /// cluster had taken so long.
    fn inflight(&self, window: u64) -> Result<usize, Failure> {
        let envelope = u64::from(self.ops_per_envelope);
        let most = window.saturating_mul(envelope);
        let inflight = self.inflight.unwrap_or(match self.rate {
            None => INFLIGHT.min(most),
            Some(_) => most,
        });
        if inflight <= most {
            return Ok(usize::try_from(inflight).expect("at most a window of full envelopes"));
        }
        let needed = inflight.div_ceil(window);
        Err(usage(format!(
            "--inflight is {inflight}, but a client may have at most {most} operations under way: {window} envelopes \
             (the cluster's client_window) of {envelope} (--ops-per-envelope). Set --ops-per-envelope to {needed} or \
             more, lower --inflight to {most}, or use more --clients"
        )))
    }

    fn work(&self, op_bytes: usize) -> Result<WorkPlan, Failure> {
        match self.service {
            ServiceName::Null => self.null_work(op_bytes),
            ServiceName::Kv => self.kv_work(op_bytes),
        }
    }

    fn null_work(&self, op_bytes: usize) -> Result<WorkPlan, Failure> {
        let kv_only = [("--keys", self.keys.is_some()), ("--mix", self.mix.is_some()), ("--preload", self.preload)];
        if let Some((name, _)) = kv_only.iter().find(|(_, is_given)| *is_given) {
            return Err(usage(format!("{name} is for --service kv")));
        }
        let reply_bytes = usize::try_from(self.reply_bytes.map_or(0, |bytes| bytes.0)).unwrap_or(usize::MAX);
        if reply_bytes > NULL_REPLY_BYTES_MAX {
            return Err(usage(format!(
                "--reply-bytes is {reply_bytes}, but the service null answers with at most {NULL_REPLY_BYTES_MAX}"
            )));
        }
        Ok(WorkPlan::Null { op_bytes, reply_bytes })
    }

    fn kv_work(&self, op_bytes: usize) -> Result<WorkPlan, Failure> {
        if self.reply_bytes.is_some() {
            return Err(usage("--reply-bytes is for --service null: the replies of kv follow from the operations"));
        }
        let most = KV_PUT_BYTES_MIN + KV_VALUE_BYTES_MAX;
        if !(KV_PUT_BYTES_MIN..=most).contains(&op_bytes) {
            return Err(usage(format!("--op-bytes is {op_bytes}, but a put has {KV_PUT_BYTES_MIN} to {most}")));
        }
        let (mix, keys) = (self.mix.unwrap_or_default(), self.keys.unwrap_or(10_000));
        Ok(WorkPlan::Kv { mix, keys, value_bytes: op_bytes - KV_PUT_BYTES_MIN })
    }
}

impl Plan {
    /// What fills every key before the load begins, in full envelopes.
    pub fn preload(&self, cluster: &ClusterConfig) -> Plan {
        let WorkPlan::Kv { mix, keys, value_bytes } = self.work else { panic!("only kv has keys") };
        let params = cluster.params();
        let (clients, work) = (4, WorkPlan::Preload { mix, keys, value_bytes });
        let op_bytes = work.op_bytes_max();
        let fits = (params.request_bytes_max as usize - REQUEST_FIXED_BYTES) / (op_bytes + 4);
        let ops_per_envelope = params.request_operations_max.min(256).min(u32::try_from(fits).unwrap_or(u32::MAX));
        let inflight = 4 * ops_per_envelope as usize;
        let pace = Pace::Closed;
        Plan { clients, inflight, pace, ops_per_envelope, work, op_bytes_max: op_bytes, timeout: self.timeout }
    }
}

impl WorkPlan {
    /// The size of the largest operation.
    pub fn op_bytes_max(self) -> usize {
        match self {
            Self::Null { op_bytes, .. } => op_bytes,
            Self::Kv { value_bytes, .. } | Self::Preload { value_bytes, .. } => {
                (KV_PUT_BYTES_MIN + value_bytes).max(crate::load::work::KV_ADD_BYTES)
            }
        }
    }
}

fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::new(Reason::Usage, message)
}
