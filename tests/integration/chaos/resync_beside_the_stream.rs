//! All users, a table and single users are read again while the platform writes them, and once more by an instance whose
//! predecessor died over it.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    for what in [&[] as &[&str], &["--table", "public.users"], &["--user", "live:1", "--user", "live:2"]] {
        trial.progress(30).await;
        trial.world.lockstep.succeed(&[&["resync", "--wait"], what].concat()).await;
    }
    trial.world.lockstep.succeed(&["resync"]).await;
    trial.kill_9();
    trial.progress(30).await;
    trial.world.lockstep.run().await;
}
