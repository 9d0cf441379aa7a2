//! All users, a table and single users are read again while the platform writes them.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    for what in [&[] as &[&str], &["--table", "public.users"], &["--user", "live:1", "--user", "live:2"]] {
        trial.progress(30).await;
        trial.world.lockstep.succeed(&[&["resync", "--wait"], what].concat()).await;
    }
}
