//! The one way to run a batch on a service, for the server and the simulator alike.

use bytes::Bytes;

use crate::door::{Execute, Executed};
use crate::hash::{Context, Hasher};
use crate::service::{Batch, Operation, ReplyBuffer, Service, ServiceFault, TooLarge};
use crate::wire::message::Code;
use crate::wire::request::result_digest;

/// Executes the admitted operations of `order` and gathers their results. A service that leaves an operation without a
/// reply is at fault. The service is not called when nothing is admitted.
pub fn execute(service: &mut dyn Service, order: &Execute, buffer: &mut ReplyBuffer) -> Result<Executed, ServiceFault> {
    let admitted = || order.admitted.iter().map(|index| &order.body.entries()[*index as usize]);
    if order.admitted.is_empty() {
        return Ok(Executed { delta: Hasher::new(Context::Delta).finish(), ..Executed::default() });
    }
    let mut operations = Vec::with_capacity(admitted().map(|entry| entry.operations as usize).sum());
    for entry in admitted() {
        let (client, session, req_no) = (entry.client, entry.session, entry.req_no);
        let of_entry = (0..).zip(entry.operations(order.body.bytes()));
        operations.extend(of_entry.map(|(index, bytes)| Operation { bytes, client, session, req_no, index }));
    }
    let batch = Batch { seq: order.seq, time_ns: order.time_ns, operations: &operations };
    service.execute(&batch, &mut buffer.begin(operations.len()))?;
    let counts = admitted().map(|entry| entry.operations as usize);
    gather(buffer, counts, order)
}

/// Joins the replies of each Request: every operation's with its length before it.
fn gather(
    buffer: &ReplyBuffer,
    counts: impl Iterator<Item = usize>,
    order: &Execute,
) -> Result<Executed, ServiceFault> {
    let mut results = Vec::with_capacity(buffer.len() + 64);
    let mut ends = Vec::with_capacity(order.admitted.len());
    let mut first = 0;
    for count in counts {
        let start = results.len();
        let mut fits = true;
        for index in first..first + count {
            let Some(reply) = buffer.get(index) else {
                let what = format!("no reply to operation {index} of the batch at Seq {}", order.seq);
                return Err(ServiceFault(what));
            };
            match reply {
                Ok(reply) => {
                    results.extend_from_slice(&(reply.len() as u32).to_le_bytes());
                    results.extend_from_slice(reply);
                }
                Err(TooLarge) => fits = false,
            }
        }
        first += count;
        if !fits {
            results.truncate(start);
        }
        ends.push((results.len() as u32, fits.then(|| result_digest(Code::Ok, &results[start..]))));
    }
    Ok(Executed { results: Bytes::from(results), ends, delta: buffer.delta() })
}
