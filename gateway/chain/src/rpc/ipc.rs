//! A node of this machine by its Unix socket: JSON texts one after the other, with nothing between them.
//!
//! alloy's own transport for this reads answers of any size into memory; here one that is too large ends the connection.

use std::path::PathBuf;

use alloy::{
    pubsub::{ConnectionHandle, ConnectionInterface, PubSubConnect},
    rpc::json_rpc::PubSubItem,
    transports::{TransportErrorKind, TransportResult},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Connects to a socket.
#[derive(Clone)]
pub(super) struct Ipc {
    pub(super) path: PathBuf,
    /// Largest answer that is read.
    pub(super) most: usize,
}

impl PubSubConnect for Ipc {
    fn is_local(&self) -> bool {
        true
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        let socket = UnixStream::connect(&self.path).await.map_err(TransportErrorKind::custom)?;
        let (handle, interface) = ConnectionHandle::new();
        // It ends with the connection, or with the handle.
        tokio::spawn(serve(socket, interface, self.most));
        Ok(handle)
    }
}

async fn serve(mut socket: UnixStream, mut frontend: ConnectionInterface, most: usize) {
    let (mut read, mut write) = socket.split();
    let mut texts = Texts::default();
    let mut part = vec![0; 64 * 1024];
    let is_fault = 'serving: loop {
        tokio::select! {
            request = frontend.recv_from_frontend() => match request {
                Some(request) if write.write_all(request.get().as_bytes()).await.is_ok() => {}
                Some(_) => break true,
                None => break false,
            },
            length = read.read(&mut part) => {
                let Ok(length @ 1..) = length else { break true };
                texts.push(&part[..length]);
                loop {
                    match texts.next::<PubSubItem>(most) {
                        Ok(Some(item)) => if frontend.send_to_frontend(item).is_err() {
                            break 'serving false;
                        },
                        Ok(None) => break,
                        Err(NoText) => break 'serving true,
                    }
                }
            }
        }
    };
    if is_fault {
        frontend.close_with_error();
    }
}

/// Cuts octets into JSON texts, looking at each octet once.
#[derive(Default)]
struct Texts {
    octets: Vec<u8>,
    /// How far the first text has been looked at, how deep that is, and whether it is within a string.
    seen: usize,
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

/// What came is no JSON object, not one that was expected, or too large.
#[derive(Debug, PartialEq, Eq)]
struct NoText;

impl Texts {
    fn push(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
    }

    /// The next text, once it is complete.
    fn next<T: serde::de::DeserializeOwned>(&mut self, most: usize) -> Result<Option<T>, NoText> {
        while let Some(octet) = self.octets.get(self.seen) {
            self.seen += 1;
            if self.in_string {
                match octet {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match octet {
                b'"' if self.depth > 0 => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        let text = self.octets.drain(..self.seen);
                        self.seen = 0;
                        return serde_json::from_slice(text.as_slice())
                            .map(Some)
                            .map_err(|_| NoText);
                    }
                }
                _ if self.depth > 0 || octet.is_ascii_whitespace() => {}
                _ => return Err(NoText),
            }
        }
        if self.octets.len() > most { Err(NoText) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn texts_are_found_however_they_are_cut() {
        let wanted = [json!({"a": "}{\"\\"}), json!([1, [2, {"b": []}]]), json!({"result": "0x1"})];
        let stream: String = wanted.iter().map(|text| format!("{text}\n ")).collect();
        for size in 1..stream.len() {
            let mut texts = Texts::default();
            let mut found = Vec::new();
            for part in stream.as_bytes().chunks(size) {
                texts.push(part);
                while let Some(text) = texts.next::<Value>(1_000).unwrap() {
                    found.push(text);
                }
            }
            assert_eq!(found, wanted, "parts of {size}");
        }
    }

    #[test]
    fn what_is_no_text_or_has_no_end_is_refused() {
        for (octets, most) in
            [("7", 100), ("}", 100), ("null{}", 100), ("[\"aaaaaaaaaaaaaaaaa", 10), ("{]", 100)]
        {
            let mut texts = Texts::default();
            texts.push(octets.as_bytes());
            assert_eq!(texts.next::<Value>(most), Err(NoText), "{octets}");
        }
        let mut texts = Texts::default();
        texts.push(b"[\"aaaaaaa");
        assert_eq!(texts.next::<Value>(10), Ok(None));
    }
}
