//! What a server says to a walsender: login, answers to commands, the frames of a stream.
//!
//! The real client connects to a socket that says the input and nothing else, whatever it is asked.

use std::path::Path;
use std::sync::OnceLock;

use lockstep::config::Postgres;
use lockstep::lsn::Lsn;
use lockstep::wire::Walsender;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;

use super::corpus;

pub const WORDS: &[&str] = &[
    "SCRAM-SHA-256",
    "R\0\0\0\u{8}\0\0\0\0",
    "Z\0\0\0\u{5}I",
    "W\0\0\0\u{7}\0\0\0",
    "SFATAL\0",
    "C57P03\0",
    "C55006\0",
];

/// Frames of a stream that are read.
const FRAMES: usize = 10_000;

struct Server {
    runtime: Runtime,
    listener: UnixListener,
    postgres: Postgres,
    _folder: TempDir,
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = {
            let _entered = runtime.enter();
            UnixListener::bind(folder.path().join(".s.PGSQL.5432")).expect("a socket")
        };
        let text = format!("host={} user=u password=pencil dbname=d", quoted(folder.path()));
        let (postgres, _) = Postgres::read(Some(&text), &|_| None).expect("a connection string");
        Server { runtime, listener, postgres, _folder: folder }
    })
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}

pub fn run(input: &[u8]) {
    let Server { runtime, listener, postgres, .. } = server();
    let says = async {
        let (mut client, _) = listener.accept().await.expect("the client");
        let _ = client.write_all(input).await;
        let _ = client.shutdown().await;
        // Until the client goes: one that is refused writes to nobody.
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    let listens = async {
        let Ok(mut walsender) = Walsender::connect(postgres).await else { return };
        let _ = walsender.identify_system().await;
        let Ok(mut stream) = walsender.start_replication("s", Lsn(1), "p").await else { return };
        for _ in 0..FRAMES {
            if stream.next().await.is_err() {
                return;
            }
        }
    };
    runtime.block_on(async { tokio::join!(says, listens) });
}

/// What a real server said to each of these three commands.
pub fn seeds() -> Vec<Vec<u8>> {
    super::files(&corpus().join("wire")).into_iter().map(|(_, bytes)| bytes).collect()
}
