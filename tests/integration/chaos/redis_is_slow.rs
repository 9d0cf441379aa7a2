//! Every command takes 50 ms and more: a long way, or a master that is busy with something else.

use std::time::Duration;

use super::{Line, Trial};

const TRANSACTIONS: u64 = 150;

pub async fn inject(trial: &mut Trial) {
    match &trial.lines.redis {
        Some(line) => {
            line.set(Line::Delayed(Duration::from_millis(25)));
            trial.progress(TRANSACTIONS).await;
            line.set(Line::Open);
        }
        None => {
            let cluster = trial.cluster();
            let busy = async |master: usize| loop {
                cluster.node(master).call(&["DEBUG", "SLEEP", "0.05"]).await;
            };
            let all_busy = futures_util::future::join_all(cluster.masters().await.into_iter().map(busy));
            tokio::select! {
                () = trial.progress(TRANSACTIONS) => {}
                never = all_busy => { let _: Vec<()> = never; }
            }
        }
    }
}
