//! Why a request brought no answer, and what the node's words mean: every node program and provider spells them in its own way.

use std::time::Duration;

use alloy::primitives::Bytes;

/// Why a request brought no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RpcError {
    /// Nothing came in time.
    #[error("node {node}: no answer to {method} within {waited:?}")]
    Timeout {
        /// Scheme, host and port; paths may hold access keys.
        node: String,
        /// The request.
        method: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// No connection, or it broke.
    #[error("node {node}: {method}: {detail}: is it up, is the URL right?")]
    Unreachable {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// What happened.
        detail: String,
    },
    /// The node answered with an error.
    #[error("node {node} refused {method}: {message} (code {code})")]
    Refused {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's words.
        message: String,
        /// What a contract reverted with.
        data: Option<Bytes>,
    },
    /// The node wants fewer requests.
    #[error("node {node} wants fewer requests than this {method}: {message}")]
    Limited {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// The node's words.
        message: String,
        /// For how long it wants none, if it said so.
        retry_after: Option<Duration>,
    },
    /// An answer that is not one.
    #[error("node {node}: the answer to {method} is unusable: {detail}")]
    Unusable {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

/// Words for "fewer requests", without spaces and upper case. Codes do not tell: -32005 also means "too many logs".
const RATE: [&str; 10] = [
    "ratelimit",
    "rate-limit",
    "toomanyrequests",
    "requestcountexceeded",
    "requestlimit",
    "requestspersecond",
    "computeunits",
    "throughput",
    "quota",
    "limitexceeded",
];
/// Words for "a smaller part of the chain": they turn a limit into one of size.
const SIZE: [&str; 10] = [
    "range", "result", "logs", "response", "size", "toolarge", "blocks", "wide", "timeout",
    "timedout",
];
/// Codes for "fewer requests": 429 as HTTP has it, -32029, and the doubtful one.
const RATE_CODES: [i64; 3] = [429, -32_029, LIMIT_EXCEEDED];
const LIMIT_EXCEEDED: i64 = -32_005;

/// Does a refusal ask for fewer requests, rather than for smaller ones?
pub(super) fn is_about_rate(code: i64, message: &str) -> bool {
    let message = squeezed(message);
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    (RATE_CODES.contains(&code) || says(&RATE)) && !says(&SIZE)
}

fn squeezed(message: &str) -> String {
    message.replace(' ', "").to_lowercase()
}

impl RpcError {
    /// What a contract reverted with, if that is why the node refused. Some nodes say so only in words.
    pub(crate) fn reverted(&self) -> Option<Bytes> {
        match self {
            Self::Refused { code, message, data, .. }
                if *code == 3 || data.is_some() || message.contains("revert") =>
            {
                Some(data.clone().unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Does the node's refusal contain one of these words? Spaces and upper case are left out of the comparison.
    pub(crate) fn says(&self, words: &[&str]) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        let message = squeezed(message);
        words.iter().any(|word| message.contains(word))
    }

    /// May asking for less help?
    pub(crate) const fn may_be_too_much(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Refused { .. } | Self::Unusable { .. })
    }

    /// For how long the node wants to be left alone, zero if it does not say.
    pub(crate) fn rest(&self) -> Option<Duration> {
        match self {
            Self::Limited { retry_after, .. } => Some(retry_after.unwrap_or_default()),
            _ => None,
        }
    }

    /// Does the node not have the method at all?
    pub(crate) fn lacks_method(&self) -> bool {
        matches!(self, Self::Refused { code: -32_601, .. })
            || self.says(&["methodnotfound", "notsupported", "doesnotexist", "notavailable"])
    }

    /// How many blocks at once the node says it would take, if that is fewer than `span`: as a range in hexadecimal, or as a number.
    pub(crate) fn proposed_span(&self, span: u64) -> Option<u64> {
        let Self::Refused { message, .. } = self else { return None };
        let words: Vec<&str> =
            message.split(|c: char| !c.is_ascii_alphanumeric() && c != ',').collect();
        let hex: Vec<u64> = words
            .iter()
            .filter_map(|word| {
                u64::from_str_radix(word.trim_matches(',').strip_prefix("0x")?, 16).ok()
            })
            .collect();
        if let [from, to] = hex[..] {
            return to.checked_sub(from)?.checked_add(1).filter(|blocks| *blocks < span);
        }
        words.iter().filter_map(|word| number(word)).filter(|n| (1..span).contains(n)).max()
    }
}

/// `10000`, `10,000`, `10K`.
fn number(word: &str) -> Option<u64> {
    let word = word.replace(',', "");
    match word.strip_suffix(['k', 'K']) {
        Some(thousands) => thousands.parse::<u64>().ok()?.checked_mul(1_000),
        None => word.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> RpcError {
        RpcError::Refused {
            node: "n".to_owned(),
            method: "eth_getLogs",
            code: -32_000,
            message: message.to_owned(),
            data: None,
        }
    }

    #[test]
    fn refusals_are_recognised_as_each_node_program_spells_them() {
        for known in ["already known", "AlreadyKnown", "Known transaction"] {
            assert!(refused(known).says(&["alreadyknown", "knowntransaction"]), "{known}");
        }
        assert!(!refused("insufficient funds").says(&["alreadyknown"]));
        assert!(refused("execution reverted").reverted().is_some());
        assert!(refused("insufficient funds").reverted().is_none());
        assert!(
            refused("the method eth_getBlockReceipts does not exist/is not available")
                .lacks_method()
        );
    }

    #[test]
    fn a_limit_of_rate_and_one_of_size_are_told_apart_in_the_words_of_the_providers() {
        for (code, message) in [
            (-32_005, "daily request count exceeded, request rate limited"),
            (-32_005, "limit exceeded"),
            (-32_005, "project ID request rate exceeded"),
            (429, "Your app has exceeded its compute units per second capacity."),
            (-32_029, "Too Many Requests"),
            (-32_000, "rate limit exceeded"),
        ] {
            assert!(is_about_rate(code, message), "{message}");
        }
        for (code, message) in [
            (
                -32_005,
                "query returned more than 10000 results. Try with this block range [0x1, 0x2].",
            ),
            (-32_602, "Log response size exceeded. this block range should work: [0x0, 0x64]"),
            (-32_614, "eth_getLogs is limited to a 10,000 range"),
            (-32_000, "exceed maximum block range: 50000"),
            (-32_602, "query exceeds max results 20000, retry with the range 1-2"),
            (-32_047, "range too large, max is 800"),
            (-32_000, "query timeout exceeded"),
            (-32_000, "filter not found"),
        ] {
            assert!(!is_about_rate(code, message), "{message}");
        }
    }

    #[test]
    fn the_range_that_a_node_proposes_is_read_from_its_words() {
        for (message, wanted) in [
            ("Try with this block range [0x10, 0x73].", Some(100)),
            ("eth_getLogs is limited to a 10,000 range", Some(10_000)),
            ("You can make eth_getLogs requests with up to a 2K block range", Some(2_000)),
            ("requests with up to a 10 block range.", Some(10)),
            ("exceed maximum block range: 5000", Some(5_000)),
            ("query exceeds max block range 100000", None),
            ("block range is too wide", None),
            ("[0x5, 0x4]", None),
            ("99999999999999999999999K blocks", None),
        ] {
            assert_eq!(refused(message).proposed_span(50_000), wanted, "{message}");
        }
    }
}
