//! The executor that has the core: what wakes it.

use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;

use bft_core::ids::Nanos;
use futures_lite::future::or;
use glommio::timer::sleep;

use super::executor::{Executor, look_at_sockets};
use crate::error::ServerError;
use crate::io::host::{Core, Host, Local, Progress};
use crate::shard::Shard;

impl Local for Rc<Executor> {
    fn with_shard<T>(&mut self, act: impl FnOnce(&mut Shard) -> T) -> T {
        act(&mut self.shard.borrow_mut())
    }

    fn adopt(&mut self, now: Nanos) {
        Executor::adopt(self, now);
    }

    fn flush(&mut self) {
        Executor::flush(self);
    }

    fn has_output(&self) -> bool {
        Executor::has_output(self)
    }

    fn turn_soon(&mut self) {
        self.turn.give();
    }
}

/// Runs the core and its executor until it is stopped or fails.
pub async fn run(local: Rc<Executor>, listener: Option<TcpListener>, core: Core<'_>) -> Result<(), ServerError> {
    let mut host = Host::new(local.clone(), local.brim(), core);
    local.start(listener)?;
    let outcome = serve(&local, &mut host).await;
    let ended = host.end();
    local.end().await?;
    outcome.and(ended)
}

async fn serve(local: &Executor, host: &mut Host<'_, Rc<Executor>>) -> Result<(), ServerError> {
    host.begin()?;
    loop {
        local.before_turn().await;
        wait(local, host.wait_max()).await;
        if host.turn()? == Progress::Over {
            return Ok(());
        }
    }
}

/// Until there is something to do, or `most` has passed.
async fn wait(local: &Executor, most: Option<Duration>) {
    let is_due = match most {
        None => {
            local.turn.taken().await;
            false
        }
        Some(Duration::ZERO) => true,
        Some(wait) => {
            let woken = async {
                local.turn.taken().await;
                false
            };
            let due = async {
                sleep(wait).await;
                true
            };
            or(woken, due).await
        }
    };
    if is_due {
        look_at_sockets().await;
    }
}
