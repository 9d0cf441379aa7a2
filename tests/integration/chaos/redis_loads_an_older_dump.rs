//! A node comes back with what it held some time ago; in a cluster its replica follows it there, or has taken over.

use super::{Line, Trial};
use crate::harness::Store;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    trial.redis(node).call(&["SAVE"]).await;
    trial.progress(100).await;
    trial.redis_loses(node).await;
    // Nothing is published before the witness is back.
    trial.lines.redis.node(node).set(Line::Cut);
    trial.redis(node).kill9();
    trial.redis(node).start_again().await;
    trial.redis_has_lost().await;
    trial.is_listened_to().await;
    trial.lines.redis.node(node).set(Line::Open);
    trial.progress(100).await;
    // A node may come back with slots open that it has given away since.
    if let Store::Cluster(cluster) = &trial.world.store {
        cluster.eventually_whole().await;
    }
}
