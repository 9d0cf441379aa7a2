//! A small RESP2 client: tests look at Redis through other code than the program under test.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// What Redis answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Integer(i64),
    Text(String),
    Error(String),
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a simple or bulk string or a number.
    pub fn text(&self) -> Option<String> {
        match self {
            Reply::Text(text) => Some(text.clone()),
            Reply::Integer(number) => Some(number.to_string()),
            Reply::Nil | Reply::Error(_) | Reply::Array(_) => None,
        }
    }

    /// The texts of an array; nil elements are left out.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Reply::Array(items) => items.iter().filter_map(Reply::text).collect(),
            other => other.text().into_iter().collect(),
        }
    }

    pub fn items(&self) -> &[Reply] {
        match self {
            Reply::Array(items) => items,
            _ => &[],
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One connection.
pub struct Resp(BufReader<Box<dyn Stream>>);

impl Resp {
    pub fn new(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Resp {
        Resp(BufReader::new(Box::new(stream)))
    }

    /// Sends one command and returns its answer, an error answer included.
    pub async fn call<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<Reply> {
        self.send(command).await?;
        self.receive().await
    }

    /// Sends many commands at once; answers in their order.
    pub async fn pipeline<A: AsRef<[u8]>>(&mut self, commands: &[Vec<A>]) -> io::Result<Vec<Reply>> {
        // Chunks, so that neither side waits for the other with full buffers.
        const CHUNK: usize = 500;
        let mut replies = Vec::with_capacity(commands.len());
        for chunk in commands.chunks(CHUNK) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|command| encode(command)).collect();
            self.0.get_mut().write_all(&bytes).await?;
            for _ in chunk {
                replies.push(self.receive().await?);
            }
        }
        Ok(replies)
    }

    pub async fn send<A: AsRef<[u8]>>(&mut self, command: &[A]) -> io::Result<()> {
        self.0.get_mut().write_all(&encode(command)).await
    }

    /// The next answer or pushed message.
    pub async fn receive(&mut self) -> io::Result<Reply> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| broken(&line))?;
        match kind {
            "+" => Ok(Reply::Text(rest.to_owned())),
            "-" => Ok(Reply::Error(rest.to_owned())),
            ":" => Ok(Reply::Integer(rest.parse().map_err(|_| broken(&line))?)),
            "$" => self.bulk(rest.parse().map_err(|_| broken(&line))?).await,
            "*" => self.array(rest.parse().map_err(|_| broken(&line))?).await,
            _ => Err(broken(&line)),
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    async fn bulk(&mut self, length: i64) -> io::Result<Reply> {
        let Ok(length) = usize::try_from(length) else { return Ok(Reply::Nil) };
        let mut bytes = vec![0; length + 2];
        self.0.read_exact(&mut bytes).await?;
        bytes.truncate(length);
        Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
    }

    async fn array(&mut self, length: i64) -> io::Result<Reply> {
        let Ok(length) = usize::try_from(length) else { return Ok(Reply::Nil) };
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(Box::pin(self.receive()).await?);
        }
        Ok(Reply::Array(items))
    }
}

fn encode<A: AsRef<[u8]>>(command: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        let argument = argument.as_ref();
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn broken(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP: {line:?}"))
}

/// The hash slot of a key, by the Redis Cluster specification: CRC16 (XMODEM) of the hash tag, mod 16384.
pub fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
    let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
    let crc = hashed.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16384
}
