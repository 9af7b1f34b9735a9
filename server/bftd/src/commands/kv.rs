//! `bftd kv`: one operation of the service `kv`, from a client of its own.

use std::path::PathBuf;
use std::time::Duration;

use bft_client::{Client, NotSent, Outcome, Rejected};
use bft_core::config::strict::HumanDuration;
use bft_core::ids::Seq;
use bft_services::kv::{Operation, Prior, Refusal, Reply};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{client_of_its_own, links_in_words};
use crate::exit::{Failure, Reason, because};
use crate::output::{self, Output};

/// How long the cluster has to end the session.
const CLOSE: Duration = Duration::from_millis(500);

const EXAMPLES: &str = "\
Examples:
  bftd kv put colour blue --config net/client.toml
  bftd kv get colour --config net/client.toml
  bftd kv cas colour green --expect blue --config net/client.toml
  bftd kv cas shape round --absent --config net/client.toml
  bftd kv add visits 1 --config net/client.toml
  bftd kv append log started --config net/client.toml
  bftd kv count --config net/client.toml --output json

Exit codes: 0 done; 1 no such key, or the value was not the expected one; 64 the operation is refused (too long, not a
counter, overflow); 69 the cluster did not answer in time: the message says whether the operation may have been
executed; 78 wrong configuration. A counter is 8 bytes, little endian: read it with `add KEY 0`.";

/// Speak to the key-value service
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    operation: Words,
    /// The cluster's client.toml
    #[arg(long, value_name = "FILE", global = true, required = false)]
    config: Option<PathBuf>,
    /// How long to wait, as in 500ms or 10s [default: what client.toml says]
    #[arg(long, global = true)]
    timeout: Option<HumanDuration>,
    /// How to answer
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Output,
}

#[derive(Subcommand)]
enum Words {
    /// Set the value of a key
    Put { key: String, value: String },
    /// Print the value of a key
    Get { key: String },
    /// Take a key out
    Delete { key: String },
    /// Set the value of a key if its present value is as expected
    #[command(group = clap::ArgGroup::new("expected").required(true))]
    Cas {
        key: String,
        value: String,
        /// The value that it must have now
        #[arg(long, value_name = "VALUE", group = "expected", allow_hyphen_values = true)]
        expect: Option<String>,
        /// It must not be there
        #[arg(long, group = "expected")]
        absent: bool,
    },
    /// Add to a counter and print the sum
    Add {
        key: String,
        #[arg(allow_negative_numbers = true)]
        delta: i64,
    },
    /// Put text behind the value of a key and print how many bytes it has then
    Append { key: String, value: String },
    /// Print the number of keys
    Count,
}

impl Words {
    fn operation(&self) -> Operation<'_> {
        match self {
            Self::Put { key, value } => Operation::Put { key: key.as_bytes(), value: value.as_bytes() },
            Self::Get { key } => Operation::Get { key: key.as_bytes() },
            Self::Delete { key } => Operation::Delete { key: key.as_bytes() },
            Self::Cas { key, value, expect, absent: _ } => Operation::Cas {
                key: key.as_bytes(),
                expect: expect.as_ref().map(String::as_bytes),
                value: value.as_bytes(),
            },
            Self::Add { key, delta } => Operation::Add { key: key.as_bytes(), delta: *delta },
            Self::Append { key, value } => Operation::Append { key: key.as_bytes(), value: value.as_bytes() },
            Self::Count => Operation::Count,
        }
    }
}

/// Carries one operation out.
pub fn kv(args: &Args) -> Result<(), Failure> {
    let operation = args.operation.operation().to_bytes().map_err(because(Reason::Data))?;
    let Some(config) = &args.config else {
        return Err(Failure::new(Reason::Usage, "name the cluster's client.toml with --config FILE"));
    };
    let timeout = args.timeout.map(|timeout| Duration::from_nanos(timeout.0));
    let (client, timeout) = client_of_its_own(config, timeout)?;
    let outcome = client.call(&operation, timeout);
    let answer = result(&client, outcome, timeout);
    client.close(CLOSE);
    let (seq, result) = answer?;
    let reply = Reply::decode(&result)
        .map_err(|error| Failure::new(Reason::Failed, format!("{error}: does this cluster run another service?")))?;
    match args.output {
        Output::Text => output::write(&text(&reply))?,
        Output::Json => output::line(&object(seq, &reply).to_string())?,
    }
    verdict(&reply)
}

fn result(client: &Client, outcome: Outcome, timeout: Duration) -> Result<(Seq, Vec<u8>), Failure> {
    let waited = HumanDuration(timeout.as_nanos().try_into().unwrap_or(u64::MAX));
    match outcome {
        Outcome::Done { seq, result } => Ok((seq, result.into())),
        Outcome::Rejected { seq, reason } => {
            let kind = match reason {
                Rejected::ExecutedReplyTooLarge => Reason::Data,
                Rejected::Conflict | Rejected::Denied => Reason::Failed,
            };
            Err(Failure::new(kind, format!("{reason} (Seq {seq})")))
        }
        Outcome::NotSent { reason } => {
            let kind = match reason {
                NotSent::TooLarge => Reason::Data,
                NotSent::NotAdmitted => Reason::Config,
                NotSent::Deadline | NotSent::Cancelled | NotSent::Closed | NotSent::Overloaded => Reason::Unavailable,
            };
            let links = links_in_words(client);
            Err(Failure::new(kind, format!("not executed: {reason} (waited {waited}){links}")))
        }
        Outcome::Unknown { reason } => {
            let links = links_in_words(client);
            let message =
                format!("it is not known whether the operation was executed: {reason} (waited {waited}){links}");
            Err(Failure::new(Reason::Unavailable, message))
        }
    }
}

/// What people read.
fn text(reply: &Reply<'_>) -> Vec<u8> {
    match reply {
        Reply::Value(Some(value)) => [value, &b"\n"[..]].concat(),
        Reply::Value(None) | Reply::Mismatch(_) | Reply::Error(_) => Vec::new(),
        Reply::Stored(_) | Reply::Swapped | Reply::Deleted(Prior::Present) => b"ok\n".to_vec(),
        Reply::Deleted(Prior::Absent) => b"ok: there was no such key\n".to_vec(),
        Reply::Counter(sum) => format!("{sum}\n").into_bytes(),
        Reply::Count(keys) => format!("{keys}\n").into_bytes(),
        Reply::Appended(bytes) => format!("{bytes}\n").into_bytes(),
    }
}

/// What programs read.
fn object(seq: Seq, reply: &Reply<'_>) -> Value {
    let mut object = match reply {
        Reply::Value(value) => value_object(*value),
        Reply::Stored(prior) | Reply::Deleted(prior) => json!({ "existed": *prior == Prior::Present }),
        Reply::Swapped => json!({ "swapped": true }),
        Reply::Mismatch(value) => value_object(*value),
        Reply::Counter(sum) => json!({ "sum": sum }),
        Reply::Count(keys) => json!({ "keys": keys }),
        Reply::Appended(bytes) => json!({ "bytes": bytes }),
        Reply::Error(refusal) => json!({ "error": refusal.to_string() }),
    };
    if let Reply::Mismatch(_) = reply {
        object["swapped"] = json!(false);
    }
    object["seq"] = json!(seq.0);
    object
}

/// As text where it is text, and in hexadecimal digits always; null if there is none.
fn value_object(value: Option<&[u8]>) -> Value {
    let hex = |value: &[u8]| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    json!({ "value": text, "value_hex": value.map(hex) })
}

/// Whether the answer is yes.
fn verdict(reply: &Reply<'_>) -> Result<(), Failure> {
    match reply {
        Reply::Value(None) => Err(Failure::new(Reason::Failed, "there is no such key")),
        Reply::Mismatch(None) => Err(Failure::new(Reason::Failed, "nothing changed: there is no such key")),
        Reply::Mismatch(Some(value)) => {
            let present = String::from_utf8_lossy(value);
            Err(Failure::new(Reason::Failed, format!("nothing changed: the value is {present:?}")))
        }
        Reply::Error(refusal) => Err(Failure::new(refused(*refusal), refusal)),
        Reply::Value(Some(_))
        | Reply::Stored(_)
        | Reply::Deleted(_)
        | Reply::Swapped
        | Reply::Counter(_)
        | Reply::Count(_)
        | Reply::Appended(_) => Ok(()),
    }
}

fn refused(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::KeyTooLong | Refusal::ValueTooLong | Refusal::NotACounter | Refusal::Overflow => Reason::Data,
        Refusal::Malformed | Refusal::ReadOnly => Reason::Failed,
    }
}
