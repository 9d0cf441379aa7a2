//! A Redis without persistence is restarted. In a cluster the master is back before a replica takes over, and the
//! replica empties itself after it.

use super::{Line, Trial};
use crate::harness::store::Store;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    trial.redis_loses(node).await;
    // Nothing is published before the witness is back.
    trial.lines.redis.node(node).set(Line::Cut);
    trial.redis(node).kill9();
    trial.redis(node).start_again().await;
    trial.redis_has_lost().await;
    trial.is_listened_to().await;
    trial.lines.redis.node(node).set(Line::Open);
    trial.progress(100).await;
    // A node may come back with a dump of long ago, and slots open that it has given away since: it hears of no successor
    // of theirs.
    if let Store::Cluster(cluster) = &trial.world.store {
        cluster.eventually_whole().await;
    }
}
