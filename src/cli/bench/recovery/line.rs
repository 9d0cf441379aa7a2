//! A line to the database that can be cut.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Carries connections to one port of this machine; gone on drop.
#[derive(Debug)]
pub struct Line {
    port: u16,
    whole: watch::Sender<bool>,
    accepts: JoinHandle<()>,
}

impl Line {
    /// One that is whole.
    pub async fn to(port: u16) -> Result<Line> {
        let failed = |e| Error::definite(format!("no port on 127.0.0.1 ({e})"), "");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
        let own = listener.local_addr().map_err(failed)?.port();
        let whole = watch::Sender::new(true);
        let accepts = tokio::spawn(accept(listener, port, whole.clone()));
        Ok(Line { port: own, whole, accepts })
    }

    /// Where it begins.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection, and each new one at once, until it is mended.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// New connections are carried again.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.cut();
        self.accepts.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, whole: watch::Sender<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut whole = whole.subscribe();
        if *whole.borrow_and_update() {
            tokio::spawn(async move {
                tokio::select! {
                    () = carry(near, port) => {}
                    _ = whole.wait_for(|whole| !whole) => {}
                }
            });
        }
    }
}

/// Until either side ends; how, both learn by themselves.
async fn carry(mut near: TcpStream, port: u16) {
    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
        let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_line_carries_both_ways_until_it_is_cut_and_again_when_it_is_mended() {
        let server = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let line = Line::to(server.local_addr().unwrap().port()).await.unwrap();
        let carries = async || {
            let mut near = TcpStream::connect(("127.0.0.1", line.port())).await.unwrap();
            let (mut far, _) = server.accept().await.unwrap();
            for (from, to) in [(0, 1), (1, 0)] {
                let ends = [&mut near, &mut far];
                ends[from].write_all(b"x").await.unwrap();
                assert_eq!(ends[to].read_u8().await.unwrap(), b'x');
            }
            near
        };
        let mut before = carries().await;
        line.cut();
        assert!(before.read_u8().await.is_err(), "it ends");
        let mut refused = TcpStream::connect(("127.0.0.1", line.port())).await.unwrap();
        assert!(refused.read_u8().await.is_err(), "it ends at once");
        line.mend();
        carries().await;
    }
}
