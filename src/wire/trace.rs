//! The span of one connection: who it is for and which server it goes to, never what it carries.

use tracing::Span;

use crate::config::Endpoint;

/// A connection's span, from its login to its end, which is said when this is dropped.
#[derive(Debug)]
pub(super) struct Trace(Span);

impl Trace {
    /// The span of an attempt to connect.
    pub(super) fn span(role: &'static str, endpoint: &Endpoint) -> Span {
        tracing::debug_span!("postgres", role, server = %endpoint)
    }

    /// The login has succeeded.
    pub(super) fn connected(span: Span) -> Trace {
        span.in_scope(|| tracing::debug!("connected"));
        Trace(span)
    }

    /// Runs what belongs to the connection, so that its lines in the log name it.
    pub(super) fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.in_scope(work)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.within(|| tracing::debug!("closed"));
    }
}
