//! MQTT over WebSocket (RFC 6455, MQTT 3.1.1 and 5.0 section 6) as one more stream of octets.
//!
//! [`Request`] reads the client's HTTP request and answers it; from then on [`WebSocket`] is a stream like TCP: packets may span
//! frames and frames hold many packets, so frames mean nothing to a session. The [`Decoder`] takes them off in the very buffer that
//! the session reads into. A frame is therefore never waited for and never stored, whatever length it claims, and an idle
//! connection holds no buffer.

mod decoder;
mod upgrade;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

pub(crate) use decoder::Decoder;
pub(crate) use upgrade::{NoUpgrade, Request};

/// Payload of one frame towards the client. Longer packets span frames, as they may [MQTT-6.0.0-2].
const FRAME_OCTETS: usize = 64 * 1024;
/// Pieces of 4 KiB that are thrown away of what a client sent after the end.
const UNREAD_PIECES: usize = 16;
/// What a connection keeps of an emptied buffer.
const KEPT_OCTETS: usize = 256;

/// The server's end of a WebSocket connection, past its handshake.
#[derive(Debug)]
pub struct WebSocket<S> {
    stream: S,
    decoder: Decoder,
    /// Came in behind the HTTP request and has not been looked at.
    early: Vec<u8>,
    /// Frames that the client has yet to take, and how much of them it took.
    out: Vec<u8>,
    taken: usize,
    /// Octets handed to the stream may wait in it, as they do in TLS.
    unflushed: bool,
    /// A Close frame was put into `out`: nothing may follow it.
    closed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// `early`: what was read behind the request. `most_octets`: longest frame.
    pub(crate) fn new(stream: S, early: Vec<u8>, most_octets: usize) -> Self {
        Self {
            stream,
            decoder: Decoder::new(most_octets),
            early,
            out: Vec::new(),
            taken: 0,
            unflushed: false,
            closed: false,
        }
    }

    /// The stream below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn put(&mut self, opcode: OpCode, payload: &[u8]) {
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        // A server does not mask, and writing to memory does not fail.
        let _ = header.format(payload.len() as u64, &mut self.out);
        self.out.extend_from_slice(payload);
    }

    fn close(&mut self, code: CloseCode) {
        if !self.closed {
            self.closed = true;
            self.put(OpCode::Control(Control::Close), &u16::from(code).to_be_bytes());
        }
    }

    /// Hands over what waits, and then the answer to the client's newest ping.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.taken < self.out.len() {
                let written =
                    ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.taken..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.taken += written;
                self.unflushed = true;
            }
            self.out.clear();
            self.taken = 0;
            // A client that pings and does not read is owed one answer, not one for each (RFC 6455 section 5.5.3).
            match self.decoder.take_ping() {
                Some(payload) if !self.closed => self.put(OpCode::Control(Control::Pong), &payload),
                _ => break,
            }
        }
        if self.out.capacity() > KEPT_OCTETS {
            self.out = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Octets as they came: those behind the request first.
    fn poll_raw(&mut self, cx: &mut Context<'_>, raw: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.early.is_empty() {
            let n = raw.len().min(self.early.len());
            raw[..n].copy_from_slice(&self.early[..n]);
            self.early.drain(..n);
            return Poll::Ready(Ok(n));
        }
        let mut read = ReadBuf::new(raw);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(read.filled().len()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.initialize_unfilled();
        if room.is_empty() {
            return Poll::Ready(Ok(()));
        }
        loop {
            // Nothing counts after the end, ours or the client's.
            if this.closed || this.decoder.is_closed() {
                return Poll::Ready(Ok(()));
            }
            let n = ready!(this.poll_raw(cx, room))?;
            if n == 0 {
                return Poll::Ready(Ok(()));
            }
            let decoded = this.decoder.decode(&mut room[..n], Instant::now());
            match &decoded {
                Ok(_) if this.decoder.is_closed() => this.close(CloseCode::Normal),
                Ok(_) => {}
                Err(violation) => {
                    debug!(why = %violation, "a client broke the WebSocket protocol");
                    this.close(violation.code());
                }
            }
            // What cannot be handed over now goes with the next write or read.
            if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
            match decoded {
                Ok(0) => {}
                Ok(payload) => {
                    buf.advance(payload);
                    return Poll::Ready(Ok(()));
                }
                Err(violation) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, violation)));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_drain(cx))?;
        let payload = &buf[..buf.len().min(FRAME_OCTETS)];
        if payload.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.put(OpCode::Data(Data::Binary), payload);
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(payload.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_drain(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.close(CloseCode::Normal);
        ready!(this.poll_drain(cx))?;
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        // Octets that lie unread would turn our end into a reset, which can overtake the Close frame.
        let mut unread = [0; 4096];
        for _ in 0..UNREAD_PIECES {
            let mut piece = ReadBuf::new(&mut unread);
            match Pin::new(&mut this.stream).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::decoder::tests::frame;
    use super::*;

    const BINARY: u8 = 0x82;

    #[tokio::test]
    async fn what_came_behind_the_request_is_read_first() {
        let (server, mut client) = duplex(1024);
        let mut socket = WebSocket::new(server, frame(BINARY, b"ear"), 100);
        client.write_all(&frame(BINARY, b"ly")).await.unwrap();
        let mut read = [0; 5];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"early");
    }

    #[tokio::test]
    async fn a_long_write_spans_frames_and_nothing_is_lost_in_a_narrow_pipe() {
        let (server, mut client) = duplex(7);
        let mut socket = WebSocket::new(server, Vec::new(), 100);
        let octets: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let wanted = octets.clone();
        let writer = tokio::spawn(async move {
            socket.write_all(&octets).await.unwrap();
            socket.shutdown().await.unwrap();
        });
        let mut raw = Vec::new();
        client.read_to_end(&mut raw).await.unwrap();
        writer.await.unwrap();
        let (mut payload, mut rest, mut frames) = (Vec::new(), &raw[..], 0);
        while let Some((&[first, length], more)) = rest.split_first_chunk::<2>() {
            let (length, more) = match length {
                126 => (usize::from(u16::from_be_bytes([more[0], more[1]])), &more[2..]),
                127 => (
                    usize::try_from(u64::from_be_bytes(more[..8].try_into().unwrap())).unwrap(),
                    &more[8..],
                ),
                short => (usize::from(short), more),
            };
            if first == 0x88 {
                assert_eq!(more, 1000_u16.to_be_bytes(), "the last frame closes");
                break;
            }
            assert_eq!(first, BINARY);
            assert!(length <= FRAME_OCTETS);
            payload.extend_from_slice(&more[..length]);
            rest = &more[length..];
            frames += 1;
        }
        assert!(payload == wanted && frames == 4, "{} octets, {frames} frames", payload.len());
    }

    #[tokio::test]
    async fn a_ping_is_answered_between_frames_and_of_many_the_newest() {
        let (server, mut client) = duplex(1024);
        let mut socket = WebSocket::new(server, Vec::new(), 100);
        let pings = [frame(0x89, b"one"), frame(0x89, b"two"), frame(BINARY, b"x")].concat();
        client.write_all(&pings).await.unwrap();
        let mut read = [0; 64];
        assert_eq!(socket.read(&mut read).await.unwrap(), 1);
        assert_eq!(read[0], b'x');
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"\x8a\x03two");
    }

    #[tokio::test]
    async fn a_close_is_answered_after_what_came_before_it_was_read() {
        let (server, mut client) = duplex(1024);
        let mut socket = WebSocket::new(server, Vec::new(), 100);
        let last = [frame(BINARY, b"x"), frame(0x88, &[3, 0xe8]), frame(BINARY, b"y")].concat();
        client.write_all(&last).await.unwrap();
        let mut read = Vec::new();
        socket.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"x", "nothing counts after a Close");
        assert!(socket.write_all(b"z").await.is_err());
        socket.shutdown().await.unwrap();
        drop(socket);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"\x88\x02\x03\xe8", "one Close and no more");
    }

    #[tokio::test]
    async fn a_violation_gives_nothing_and_its_code_is_told() {
        let (server, mut client) = duplex(1024);
        let mut socket = WebSocket::new(server, Vec::new(), 100);
        let octets = [frame(BINARY, b"x"), frame(0x81, b"text")].concat();
        client.write_all(&octets).await.unwrap();
        let mut read = Vec::new();
        let error = socket.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((error.kind(), read.len()), (io::ErrorKind::InvalidData, 0));
        socket.shutdown().await.unwrap();
        drop(socket);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"\x88\x02\x03\xeb", "1003");
    }
}
