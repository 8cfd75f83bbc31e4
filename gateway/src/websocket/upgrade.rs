//! From an HTTP request to a WebSocket connection (RFC 6455 section 4.2, MQTT section 6).

use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server;
use tungstenite::http::header::{HeaderValue, ORIGIN, SEC_WEBSOCKET_PROTOCOL};

use super::WebSocket;
use crate::config::WebSocketConfig;
use crate::proxy::{self, TrustedPeers};

/// Sub-protocols that are MQTT: the standard's [MQTT-6.0.0-3], and what clients of MQTT 3.1 said before there was one.
const SUB_PROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Why a request did not become a WebSocket connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoUpgrade {
    /// There is nobody left to answer.
    #[error("the connection ended before its request did")]
    Closed,
    /// Nothing more is read before a proof.
    #[error("a request that is too long")]
    TooLong,
    /// Not HTTP/1.1, or not GET.
    #[error("no HTTP request that could be upgraded")]
    NotHttp,
    /// Another path than `websocket.path`.
    #[error("a request for another path")]
    Path,
    /// No upgrade is asked for, or to another version of WebSocket than 13.
    #[error("a request that asks for no WebSocket of version 13")]
    NotWebSocket,
    /// `websocket.allowed_origins` does not name it.
    #[error("a page of an origin that is not allowed")]
    Origin,
    /// [MQTT-6.0.0-3].
    #[error("no sub-protocol `mqtt`")]
    SubProtocol,
    /// A listed peer sent an `X-Forwarded-For` that cannot be read, so nobody knows whose request this is.
    #[error("an X-Forwarded-For that cannot be read")]
    ForwardedFor,
}

impl NoUpgrade {
    /// The HTTP answer; nothing where nobody reads it.
    pub(crate) fn answer(self) -> Vec<u8> {
        let (status, more) = match self {
            Self::Closed => return Vec::new(),
            Self::TooLong => ("431 Request Header Fields Too Large", ""),
            Self::NotHttp | Self::SubProtocol | Self::ForwardedFor => ("400 Bad Request", ""),
            Self::Path => ("404 Not Found", ""),
            Self::Origin => ("403 Forbidden", ""),
            Self::NotWebSocket => {
                ("426 Upgrade Required", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
            }
        };
        let sentence = match self {
            Self::SubProtocol => "ask for the sub-protocol mqtt\n",
            Self::NotWebSocket => "this is MQTT over WebSocket\n",
            _ => "",
        };
        format!(
            "HTTP/1.1 {status}\r\n{more}Connection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{sentence}",
            sentence.len()
        )
        .into_bytes()
    }
}

/// A request that may be granted.
#[derive(Debug)]
pub(crate) struct Request {
    head: server::Request,
    sub_protocol: &'static str,
    /// What was read behind the request: frames of a client that did not wait for the answer.
    early: Vec<u8>,
}

impl Request {
    /// Reads a request of at most `most` octets and checks all of it.
    ///
    /// # Errors
    /// [`NoUpgrade`]; the caller answers and closes.
    pub(crate) async fn read<S: AsyncRead + Unpin>(
        stream: &mut S,
        config: &WebSocketConfig,
        most: usize,
    ) -> Result<Self, NoUpgrade> {
        let mut octets = Vec::new();
        let length = loop {
            // Where the head ends is looked for before it is parsed, so that a slow one is parsed once and not for each octet.
            let seen = octets.len().saturating_sub(3);
            if stream.read_buf(&mut octets).await.map_err(|_| NoUpgrade::Closed)? == 0 {
                return Err(NoUpgrade::Closed);
            }
            if let Some(at) = octets[seen..].windows(4).position(|four| four == b"\r\n\r\n") {
                break seen + at + 4;
            }
            if octets.len() > most {
                return Err(NoUpgrade::TooLong);
            }
            if octets.first() != Some(&b'G') {
                return Err(NoUpgrade::NotHttp);
            }
        };
        if length > most {
            return Err(NoUpgrade::TooLong);
        }
        let early = octets.split_off(length);
        let head = match server::Request::try_parse(&octets) {
            Ok(Some((_, head))) => head,
            Ok(None) | Err(_) => return Err(NoUpgrade::NotHttp),
        };
        Self::check(head, config, early)
    }

    fn check(
        head: server::Request,
        config: &WebSocketConfig,
        early: Vec<u8>,
    ) -> Result<Self, NoUpgrade> {
        if head.uri().path() != config.path {
            return Err(NoUpgrade::Path);
        }
        if server::create_response(&head).is_err() {
            return Err(NoUpgrade::NotWebSocket);
        }
        // Only browsers send it, and they never leave it out, so who has none is no page that misuses its visitor.
        let mut origins = head.headers().get_all(ORIGIN).iter();
        let is_allowed = |origin: &HeaderValue| {
            config.allowed_origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes())
        };
        if !config.allowed_origins.is_empty() && !origins.all(is_allowed) {
            return Err(NoUpgrade::Origin);
        }
        let offered = proxy::listed(head.headers(), &SEC_WEBSOCKET_PROTOCOL)
            .map_err(|()| NoUpgrade::SubProtocol)?;
        let sub_protocol = offered
            .iter()
            .find_map(|offer| SUB_PROTOCOLS.into_iter().find(|known| known == offer))
            .ok_or(NoUpgrade::SubProtocol)?;
        Ok(Self { head, sub_protocol, early })
    }

    /// Who sent it, as `peer` says and the listed ones before it: the right-most hop that is not listed itself, since everything to
    /// the left of it is only a claim. `None` if there is no such header.
    ///
    /// # Errors
    /// [`NoUpgrade::ForwardedFor`] if that hop cannot be read.
    pub(crate) fn forwarded_for(
        &self,
        trusted: &TrustedPeers,
    ) -> Result<Option<IpAddr>, NoUpgrade> {
        proxy::forwarded_for(self.head.headers(), trusted).map_err(|()| NoUpgrade::ForwardedFor)
    }

    /// Grants it. `most_octets`: longest frame that will be taken.
    ///
    /// # Errors
    /// [`NoUpgrade::Closed`] if the client is gone.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        mut stream: S,
        most_octets: usize,
    ) -> Result<WebSocket<S>, NoUpgrade> {
        let mut answer = Vec::new();
        let mut response =
            server::create_response(&self.head).map_err(|_| NoUpgrade::NotWebSocket)?;
        let chosen = HeaderValue::from_static(self.sub_protocol);
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, chosen);
        server::write_response(&mut answer, &response).map_err(|_| NoUpgrade::NotWebSocket)?;
        stream.write_all(&answer).await.map_err(|_| NoUpgrade::Closed)?;
        stream.flush().await.map_err(|_| NoUpgrade::Closed)?;
        Ok(WebSocket::new(stream, self.early, most_octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(origins: &[&str]) -> WebSocketConfig {
        let allowed_origins = origins.iter().map(ToString::to_string).collect();
        WebSocketConfig { path: "/mqtt".to_owned(), allowed_origins }
    }

    const GOOD: &str = "GET /mqtt HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\r\n";

    async fn read(text: &str, config: &WebSocketConfig) -> Result<Request, NoUpgrade> {
        Request::read(&mut text.as_bytes(), config, 16 * 1024).await
    }

    fn with(headers: &str) -> String {
        GOOD.replace("Host: h\r\n", &format!("Host: h\r\n{headers}"))
    }

    /// The key and its answer are the example of RFC 6455 section 1.3.
    #[tokio::test]
    async fn a_request_is_granted_with_its_key_proved_and_the_sub_protocol_named() {
        let (server, mut client) = tokio::io::duplex(1024);
        let request = read(&format!("{GOOD}rest"), &config(&[])).await.unwrap();
        assert_eq!(request.early, b"rest");
        drop(request.accept(server, 100).await.unwrap());
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let answer = answer.to_ascii_lowercase();
        assert!(answer.starts_with("http/1.1 101 "), "{answer}");
        assert!(answer.contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{answer}");
        assert!(answer.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"));
    }

    #[tokio::test]
    async fn a_request_that_is_not_for_mqtt_over_websocket_is_refused_for_its_reason() {
        use NoUpgrade as N;
        for (from, to, wanted) in [
            ("GET", "POST", N::NotHttp),
            ("HTTP/1.1", "HTTP/1.0", N::NotHttp),
            ("HTTP/1.1", "SIP/2.0", N::NotHttp),
            ("Host: h", "Host\u{0}: h", N::NotHttp),
            ("/mqtt", "/mqtt/", N::Path),
            ("/mqtt", "/", N::Path),
            ("keep-alive, Upgrade", "keep-alive", N::NotWebSocket),
            ("Upgrade: WebSocket", "Upgrade: h2c", N::NotWebSocket),
            ("Version: 13", "Version: 8", N::NotWebSocket),
            ("Sec-WebSocket-Key", "Key", N::NotWebSocket),
            ("chat, mqtt", "chat", N::SubProtocol),
            ("chat, mqtt", "MQTT", N::SubProtocol),
            ("chat, mqtt", "mqtt5", N::SubProtocol),
            ("Sec-WebSocket-Protocol", "Protocol", N::SubProtocol),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let refused = read(&GOOD.replacen(from, to, 1), &config(&[])).await;
            assert_eq!(refused.unwrap_err(), wanted, "{from} -> {to}");
        }
        let old = read(&GOOD.replace("chat, mqtt", "mqttv3.1,mqtt"), &config(&[])).await.unwrap();
        assert_eq!(old.sub_protocol, "mqttv3.1", "the client's order counts");
    }

    #[tokio::test]
    async fn where_origins_are_listed_a_page_of_another_is_refused() {
        let listed = config(&["https://app.example", "http://localhost:8080"]);
        for (origin, wanted) in [
            ("", true),
            ("Origin: https://app.example\r\n", true),
            ("Origin: http://localhost:8080\r\n", true),
            ("Origin: http://app.example\r\n", false),
            ("Origin: https://app.example.evil\r\n", false),
            ("Origin: https://app.example:444\r\n", false),
            ("Origin: null\r\n", false),
            ("Origin: https://app.example\r\nOrigin: https://evil\r\n", false),
        ] {
            let found = read(&with(origin), &listed).await.map(drop);
            assert_eq!(found, if wanted { Ok(()) } else { Err(NoUpgrade::Origin) }, "{origin}");
            assert!(read(&with(origin), &config(&[])).await.is_ok(), "{origin}");
        }
    }

    #[tokio::test]
    async fn a_request_without_end_is_read_to_the_limit_and_no_further() {
        let endless = with(&format!("X: {}\r\n", "x".repeat(20_000)));
        assert_eq!(read(&endless, &config(&[])).await.unwrap_err(), NoUpgrade::TooLong);
        let many = with(&"X: y\r\n".repeat(200));
        assert_eq!(read(&many, &config(&[])).await.unwrap_err(), NoUpgrade::NotHttp);
        let half = &GOOD[..GOOD.len() - 2];
        assert_eq!(read(half, &config(&[])).await.unwrap_err(), NoUpgrade::Closed);
    }

    /// THREATS A36.
    #[tokio::test]
    async fn the_right_most_hop_that_is_not_listed_is_the_client() {
        let trusted = TrustedPeers::of(&["10.0.0.0/8", "2001:db8::/32"]);
        let ip = |text: &str| Ok(Some(text.parse::<IpAddr>().unwrap()));
        for (headers, wanted) in [
            ("", Ok(None)),
            ("X-Forwarded-For: 192.0.2.1\r\n", ip("192.0.2.1")),
            ("X-Forwarded-For: 1.2.3.4, 192.0.2.1\r\n", ip("192.0.2.1")),
            ("X-Forwarded-For: 1.2.3.4, 192.0.2.1, 10.1.1.1\r\n", ip("192.0.2.1")),
            (
                "X-Forwarded-For: 1.2.3.4\r\nx-forwarded-for: 192.0.2.1,10.1.1.1\r\n",
                ip("192.0.2.1"),
            ),
            ("X-Forwarded-For: 10.1.1.1, 10.1.1.2\r\n", ip("10.1.1.1")),
            ("X-Forwarded-For: 192.0.2.1:4711\r\n", ip("192.0.2.1")),
            ("X-Forwarded-For: [2001:db9::1]:4711\r\n", ip("2001:db9::1")),
            ("X-Forwarded-For: ::ffff:192.0.2.1\r\n", ip("192.0.2.1")),
            ("X-Forwarded-For: fe80::1%eth0\r\n", ip("fe80::1")),
            ("X-Forwarded-For: nonsense, 192.0.2.1\r\n", ip("192.0.2.1")),
            ("X-Forwarded-For: 192.0.2.1, unknown\r\n", Err(NoUpgrade::ForwardedFor)),
            ("X-Forwarded-For: 192.0.2.1, nonsense, 10.1.1.1\r\n", Err(NoUpgrade::ForwardedFor)),
        ] {
            let request = read(&with(headers), &config(&[])).await.unwrap();
            assert_eq!(request.forwarded_for(&trusted), wanted, "{headers}");
        }
    }
}
