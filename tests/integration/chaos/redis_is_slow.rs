//! Every command waits for 50 ms of something else that the server does.

use super::Trial;

const TRANSACTIONS: u64 = 150;

pub async fn inject(trial: &mut Trial) {
    let busy = async |node: usize| loop {
        trial.redis(node).call(&["DEBUG", "SLEEP", "0.05"]).await;
    };
    let all_busy = futures_util::future::join_all(trial.masters().await.into_iter().map(busy));
    tokio::select! {
        () = trial.progress(TRANSACTIONS) => {}
        never = all_busy => { let _: Vec<()> = never; }
    }
}
