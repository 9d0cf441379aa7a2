//! The sink's way to the model of Redis, in place of sockets.

use bytes::Bytes;
use lockstep::sink::carrier::{Carrier, Connection, Later, Replies};
use lockstep::sink::node::Command;
use lockstep::sink::reply::NodeError;
use lockstep::sink::slots::Address;
use tokio::sync::mpsc;

use crate::world::Shared;

/// An instance's way to Redis.
pub struct ToModel {
    pub world: Shared,
    pub instance: usize,
}

struct Connected {
    world: Shared,
    conn: u64,
}

impl Carrier for ToModel {
    fn connect(&self, address: &Address) -> Later<Result<Box<dyn Connection>, NodeError>> {
        let (world, instance, address) = (self.world.clone(), self.instance, address.clone());
        Box::pin(async move {
            tokio::task::yield_now().await;
            let conn = world.lock().redis.connect(instance, &address)?;
            Ok(Box::new(Connected { world, conn }) as Box<dyn Connection>)
        })
    }
}

impl Connection for Connected {
    fn start(&self, commands: Vec<Command>) -> Later<Replies> {
        let mut world = self.world.lock();
        let answers: Vec<_> = commands
            .iter()
            .map(|command| {
                let (name, args) = command.parts();
                world.redis.ask(self.conn, name, args)
            })
            .collect();
        Box::pin(async move {
            let lost = || NodeError::Disconnected("the connection was lost".to_owned());
            let mut replies = Vec::with_capacity(answers.len());
            for answer in answers {
                replies.push(answer.await.unwrap_or_else(|_| Err(lost())));
            }
            replies
        })
    }

    fn announced(&self) -> mpsc::UnboundedReceiver<Vec<Bytes>> {
        self.world.lock().redis.announce(self.conn)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.world.lock().redis.close(self.conn);
    }
}
