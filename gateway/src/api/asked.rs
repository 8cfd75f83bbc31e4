//! What a request asks for: parameters read strictly, each into what it means. An unknown one is refused, for a filter that is spelt wrong
//! must not widen an answer.

use std::borrow::Cow;
use std::marker::PhantomData;

use alloy_primitives::{Address, B256, hex, keccak256};
use axum::extract::{FromRequestParts, Query};
use axum::http::header::ACCEPT;
use axum::http::request::Parts;
use flytrap_record::{Kind, text};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::problem::Problem;

/// The parameters of a request, and in which form the answer is wanted.
pub(super) struct Asked<T> {
    pub(super) of: T,
    pub(super) form: Form,
    /// The query as it came, to make the next one from.
    pub(super) query: String,
    pub(super) path: String,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// An object.
    #[default]
    Json,
    /// A table.
    Csv,
}

/// `format` beside whatever else is asked.
#[derive(Debug, Deserialize)]
struct Formed {
    format: Option<Form>,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let wrong = |error: axum::extract::rejection::QueryRejection| {
            let text = error.body_text();
            let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
            Problem::parameter(text)
        };
        let Query(of) = Query::try_from_uri(&parts.uri).map_err(wrong)?;
        let Query(Formed { format }) = Query::try_from_uri(&parts.uri).map_err(wrong)?;
        let form = match format {
            Some(form) => form,
            None => accepted(parts)?,
        };
        let query = parts.uri.query().unwrap_or_default().to_owned();
        Ok(Self { of, form, query, path: parts.uri.path().to_owned() })
    }
}

/// The first form that the client names and that there is.
fn accepted(parts: &Parts) -> Result<Form, Problem> {
    let listed = crate::proxy::listed(&parts.headers, &ACCEPT).unwrap_or_default();
    let mut named = listed.iter().map(|one| one.split(';').next().unwrap_or_default().trim());
    let known = named.find_map(|name| match name {
        "text/csv" => Some(Form::Csv),
        "*/*" | "application/*" | "application/json" | "application/problem+json" => {
            Some(Form::Json)
        }
        "text/*" => Some(Form::Csv),
        _ => None,
    });
    match known {
        Some(form) => Ok(form),
        None if listed.is_empty() => Ok(Form::Json),
        None => Err(Problem::form("wanted application/json or text/csv")),
    }
}

/// Text in an answer or a parameter that stands for a value, with the pattern it has.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $pattern:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
            pub(super) struct $name(pub(super) $inner);

            impl PartialSchema for $name {
                fn schema() -> RefOr<Schema> {
                    ObjectBuilder::new().schema_type(Type::String).pattern(Some($pattern)).build().into()
                }
            }

            impl ToSchema for $name {
                fn name() -> Cow<'static, str> {
                    Cow::Borrowed(stringify!($name))
                }
            }
        )*
    };
}

texts! {
    /// An address: in answers in lower case, in requests in any spelling.
    Wallet(Address), "^0x[0-9a-f]{40}$";
    /// 32 octets.
    Word(B256), "^0x[0-9a-f]{64}$";
    /// What a record is about.
    KindWord(Kind), "^[a-z-]+$";
    /// A second: of Unix, or in RFC 3339 with its zone.
    Moment(u64), "^[0-9]{1,11}$|^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?$";
}

impl Serialize for Wallet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl Serialize for KindWord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de> Deserialize<'de> for Wallet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = String::deserialize(deserializer)?;
        text::wallet(&given).map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for KindWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = String::deserialize(deserializer)?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.word() == given);
        kind.map(Self).ok_or_else(|| {
            let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
            D::Error::custom(format!("`{given}` is no kind: wanted one of {}", words.join(", ")))
        })
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = String::deserialize(deserializer)?;
        let is_number = !given.is_empty() && given.bytes().all(|octet| octet.is_ascii_digit());
        let second = if is_number { given.parse().ok() } else { text::moment(&given) };
        // Beyond lies nothing that a clock of ours could show.
        second.filter(|second| *second <= 253_402_300_799).map(Self).ok_or_else(|| {
            D::Error::custom(format!(
                "`{given}` is no moment: wanted Unix seconds, 2026-11-24 or 2026-11-24T12:00:00Z"
            ))
        })
    }
}

/// Octets of the longest name that is looked for: none that is registered is longer.
const LONGEST_NAME: usize = 512;

/// A topic by its name or its id.
pub(super) fn topic(given: &str, broker_id: alloy_primitives::U256) -> Result<B256, Problem> {
    if given.len() > LONGEST_NAME {
        return Err(Problem::parameter(format!("topic: wanted at most {LONGEST_NAME} octets")));
    }
    let is_id = given.len() == 66 && given.starts_with("0x");
    let id = is_id.then(|| given.parse().ok()).flatten();
    Ok(id.unwrap_or_else(|| flytrap_policy::topic_id(broker_id, given)))
}

/// Where a list goes on: what was seen last, bound to the question, so that it is not taken to another. Opaque to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cursor<T>(String, PhantomData<T>);

impl<'de, T> Deserialize<'de> for Cursor<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(deserializer)?, PhantomData))
    }
}

/// Octets of the mark that binds a cursor to its question.
const MARK: usize = 8;

impl<T: Serialize + DeserializeOwned> Cursor<T> {
    /// The cursor behind `last`.
    pub(super) fn behind(last: &T, question: &impl std::fmt::Debug) -> String {
        let last = serde_json::to_vec(last).unwrap_or_default();
        hex::encode([&mark(question, &last)[..], &last].concat())
    }

    /// What was seen last.
    pub(super) fn last(&self, question: &impl std::fmt::Debug) -> Result<T, Problem> {
        let wrong = || {
            Problem::parameter(
                "cursor: it is none of this question: take `next` of an answer and leave the other parameters as they were",
            )
        };
        let octets = hex::decode(&self.0).map_err(|_| wrong())?;
        let (bound, last) = octets.split_at_checked(MARK).ok_or_else(wrong)?;
        if bound != mark(question, last) {
            return Err(wrong());
        }
        serde_json::from_slice(last).map_err(|_| wrong())
    }
}

fn mark(question: &impl std::fmt::Debug, last: &[u8]) -> [u8; MARK] {
    let hash = keccak256([format!("{question:?}").as_bytes(), last].concat());
    hash.0.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_goes_on_with_its_own_question_only() {
        let text = Cursor::behind(&17_u64, &("topic", 1));
        let cursor = |text: &str| Cursor::<u64>(text.to_owned(), PhantomData);
        assert_eq!(cursor(&text).last(&("topic", 1)), Ok(17));
        assert!(cursor(&text).last(&("topic", 2)).is_err());
        for wrong in ["", "zz", "00", &text[..text.len() - 2], &text[2..]] {
            assert!(cursor(wrong).last(&("topic", 1)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn moments_are_seconds_or_dates() {
        let read = |text: &str| serde_json::from_value::<Moment>(text.into()).map(|m| m.0).ok();
        assert_eq!(read("17"), Some(17));
        assert_eq!(read("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        for wrong in ["", "-1", "1.5", "99999999999999999999", "253402300800", "soon"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
