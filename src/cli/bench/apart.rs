//! Work on a thread and a runtime of its own, which nothing else wakes, and which may sleep as a thread.

use tokio::runtime::Builder;

use crate::cli::runtime;
use crate::error::{Error, Result};

/// What `work` comes to. Where nobody waits for it any more it goes on until its connections end, with their servers.
pub async fn apart<T, W>(work: W) -> Result<T>
where
    T: Send + 'static,
    W: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    let works = move || runtime(&mut Builder::new_current_thread())?.block_on(work());
    let done = tokio::task::spawn_blocking(works).await;
    done.map_err(|e| Error::definite(format!("a thread ended: {e}"), "report this as a bug"))?
}
