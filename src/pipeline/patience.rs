//! What nothing can go on before, done again until it succeeds.

use std::time::Duration;

use crate::backoff::Outage;
use crate::error::Result;
use crate::sink::Sink;

/// First delay before Redis is asked again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// Longest delay before Redis is asked again.
const RETRY_LIMIT: Duration = Duration::from_secs(1);

/// Does again what may pass, as often as it takes: nothing else can go on before it. Redis counts as away meanwhile.
pub async fn patiently<T>(
    sink: &mut Sink,
    mut attempt: impl AsyncFnMut(&mut Sink) -> Result<T>,
) -> Result<T> {
    let mut outage = Outage::new(RETRY_FIRST, RETRY_LIMIT, 0);
    loop {
        match attempt(sink).await {
            Err(fault) if fault.is_transient() => {
                let fault = sink.tell_away(fault);
                if outage.is_news(&fault) {
                    tracing::warn!(%fault, "redis is asked again");
                }
                tokio::time::sleep(outage.next_delay()).await;
            }
            done => {
                if outage.end() {
                    sink.report_connected();
                }
                return done;
            }
        }
    }
}
