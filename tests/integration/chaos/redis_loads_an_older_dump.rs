//! Redis comes back with what it held some time ago.

use super::{Line, Trial};

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.redis(0).call(&["SAVE"]).await;
    trial.progress(100).await;
    trial.redis_loses(0).await;
    // Nothing is published before the witness is back.
    trial.redis_line().set(Line::Cut);
    trial.redis(0).kill9();
    trial.redis(0).start_again().await;
    trial.redis_has_lost().await;
    trial.is_listened_to().await;
    trial.redis_line().set(Line::Open);
    trial.progress(100).await;
}
