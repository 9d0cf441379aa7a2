//! Ready-made commands into Redis: as many on the way as its socket takes, every reply counted.

use std::time::{Duration, Instant};

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::commands::Commands;
use super::world::PATIENCE;
use crate::cli::throwaway::process::failed_at;
use crate::error::{Error, Result};

/// Bytes that are read from the file, and handed to the socket, at a time.
const PIECE: usize = 256 * 1024;

/// Sends them all to the Redis on this port, and waits for the last reply.
pub async fn send(port: u16, commands: &Commands) -> Result<Duration> {
    let file = File::open(&commands.path).await.map_err(failed_at(&commands.path))?;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(cut)?;
    let (mut replies, mut requests) = stream.into_split();
    let begun = Instant::now();
    let sends = async {
        let mut file = BufReader::with_capacity(PIECE, file);
        tokio::io::copy_buf(&mut file, &mut requests).await.map_err(cut)?;
        requests.flush().await.map_err(cut)
    };
    let counts = async {
        let mut buffer = vec![0; PIECE];
        let mut left = commands.commands;
        while left > 0 {
            let read = replies.read(&mut buffer).await.map_err(cut)?;
            left = left.saturating_sub(counted(buffer.get(..read).unwrap_or_default())?);
        }
        Ok(())
    };
    let done = timeout(PATIENCE, async { tokio::try_join!(sends, counts) }).await;
    done.map_err(|_| Error::definite("redis does not answer every command", "choose fewer --events"))??;
    Ok(begun.elapsed())
}

/// The replies that end in these bytes. All of them are one line, a number or `OK`: only an error has a minus.
pub fn counted(bytes: &[u8]) -> Result<u64> {
    if bytes.is_empty() {
        return Err(Error::definite(
            "redis closed the connection",
            "see whether the machine is out of memory",
        ));
    }
    if bytes.contains(&b'-') {
        let text = String::from_utf8_lossy(bytes);
        let line = text.lines().find(|line| line.starts_with('-')).unwrap_or_default().to_owned();
        return Err(Error::definite(
            format!("redis refuses a ready-made command ({line})"),
            "report this as a bug",
        ));
    }
    Ok(bytes.iter().filter(|byte| **byte == b'\n').count() as u64)
}

fn cut(error: std::io::Error) -> Error {
    Error::definite(
        format!("the connection to redis ended ({error})"),
        "see whether the machine is out of memory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_however_they_are_cut_and_an_error_is_none() {
        let replies = b":17\r\n+OK\r\n:0\r\n";
        for cut in 1..replies.len() {
            let (head, tail) = replies.split_at(cut);
            assert_eq!(counted(head).unwrap() + counted(tail).unwrap(), 3);
        }
        assert!(counted(b":1\r\n-ERR no\r\n").unwrap_err().to_string().contains("-ERR no"));
        assert!(counted(b"").is_err());
    }
}
