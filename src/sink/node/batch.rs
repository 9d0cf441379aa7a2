//! Commands on their way through fred.
//!
//! fred writes a command at once where nothing waits behind it in its queue: each command of a pipeline by itself, which
//! wakes Redis for each, and so it does with all whose names it does not know.

use fred::clients::{Client, Pipeline};
use fred::interfaces::{ClientLike, FredResult, HashesInterface, KeysInterface};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::sync::watch;

use super::Command;
use super::answer::{classify, lost};
use crate::sink::carrier::Replies;
use crate::sink::reply::Reply;

/// The replies to all commands. The last of them waits in the queue behind the others.
pub(super) async fn batch(client: Client, mut alive: watch::Receiver<()>, commands: Vec<Command>) -> Replies {
    let count = commands.len();
    // ASKING is for the very next command on the connection, which others may share.
    let stay_together = commands.iter().any(|command| command.name == "ASKING");
    let firsts = if stay_together { count } else { count.saturating_sub(1) };
    let (first, last) = (client.pipeline(), client.pipeline());
    for (place, command) in commands.into_iter().enumerate() {
        let pipeline = if place < firsts { &first } else { &last };
        // What cannot be queued is told by all replies.
        if let Err(error) = queue(pipeline, command).await {
            return vec![Err(classify(&error)); count];
        }
    }
    let both = async { tokio::join!(biased; replies(&first, firsts), replies(&last, count - firsts)) };
    // fred queues what is sent after the connection ended, until it times out.
    tokio::select! {
        biased;
        (first, last) = both => [first, last].concat(),
        _ = alive.changed() => vec![Err(lost()); count],
    }
}

async fn replies(pipeline: &Pipeline<Client>, count: usize) -> Replies {
    let replies = pipeline.try_all::<Value>().await;
    match replies.as_slice() {
        // A connection that failed answers once for all.
        [Err(error)] => vec![Err(classify(error)); count],
        _ => replies.into_iter().map(|reply| reply.map(Reply::from).map_err(|e| classify(&e))).collect(),
    }
}

/// What is sent by the dozen goes by fred's own names.
async fn queue(pipeline: &Pipeline<Client>, Command { name, mut args }: Command) -> FredResult<()> {
    match name {
        "EXISTS" if !args.is_empty() => pipeline.exists(args).await,
        "GET" if args.len() == 1 => pipeline.get(args.remove(0)).await,
        "HGET" if args.len() == 2 => pipeline.hget(args.remove(0), args.remove(0)).await,
        "HMGET" if args.len() > 1 => pipeline.hmget(args.remove(0), args).await,
        "MGET" if !args.is_empty() => pipeline.mget(args).await,
        "UNLINK" if !args.is_empty() => pipeline.unlink(args).await,
        _ => {
            let name = CustomCommand::new_static(name, ClusterHash::Random, false);
            pipeline.custom(name, args.into_iter().map(Value::Bytes).collect::<Vec<_>>()).await
        }
    }
}
