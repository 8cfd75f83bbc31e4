//! Doors for the fuzzers in `gateway/fuzz`, to what reads octets and is nobody's business otherwise. Not there in ordinary builds.

use std::net::SocketAddr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::websocket::Decoder;

/// Reads a PROXY header from the front of `octets`: what it says, and how many octets are left behind it. `None`: there is none.
pub fn proxy_header(mut octets: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    // A slice is never waited for.
    let read =
        pin!(crate::proxy::read_header(&mut octets)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Ok(found)) = read else { return None };
    Some((found, octets.len()))
}

/// What came of a stream of frames.
#[derive(Debug)]
pub struct Decoded {
    /// The octets of MQTT.
    pub payload: Vec<u8>,
    /// Whether nothing was against the protocol.
    pub is_right: bool,
    /// Whether the client said Close.
    pub is_closed: bool,
}

/// Takes frames of at most `limit` octets off a stream that came in pieces.
pub fn websocket(limit: usize, pieces: &[&[u8]]) -> Decoded {
    let (mut decoder, now) = (Decoder::new(limit), Instant::now());
    let mut decoded = Decoded { payload: Vec::new(), is_right: true, is_closed: false };
    for piece in pieces {
        let mut octets = piece.to_vec();
        match decoder.decode(&mut octets, now) {
            Ok(length) => decoded.payload.extend_from_slice(&octets[..length]),
            Err(_) => {
                decoded.is_right = false;
                break;
            }
        }
    }
    decoded.is_closed = decoder.is_closed();
    decoded
}
