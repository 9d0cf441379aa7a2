//! The line to the database carries less than the platform writes: the stream goes on, and is ever later.

use super::{Line, Trial};
use crate::harness::eventually;

const BYTES_A_SECOND: u32 = 20_000;

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.lines.postgres.set(Line::Throttled(BYTES_A_SECOND));
    trial.progress(300).await;
    let lease = async || trial.world.store.get("lockstep:lease").await;
    eventually("nothing says that redis is fresh", async || lease().await.is_none().then_some(())).await;
    trial.lines.postgres.set(Line::Open);
}
