//! Where in a CONNECT a client put its proof.

use flytrap_mqtt::Connect;

use super::{Claim, Refusal, Token, address_of, device_key};

/// The authentication method of MQTT 5's enhanced authentication that gateways know.
pub const METHOD: &str = "FLYTRAP-EIP712";
/// User property of a CONNECT with what is otherwise the user name.
pub const ADDRESS_PROPERTY: &str = "flytrap-address";
/// User property of a CONNECT with what is otherwise the password.
pub const TOKEN_PROPERTY: &str = "flytrap-token";

/// How a client wants to prove itself.
#[derive(Debug, Clone, Copy)]
pub enum Presented<'a> {
    /// By user name and password.
    Login(Claim<'a>),
    /// By a secret elsewhere in its CONNECT.
    Carried(Claim<'a>),
    /// By signing a nonce, which it asks for.
    Challenge,
}

impl<'a> Presented<'a> {
    /// Finds the one proof in a CONNECT: user name and password; the two user properties; or the authentication method, with data
    /// `<address>:<token>` or without, for a challenge.
    ///
    /// `are_passed_on`: whether a client that proves itself otherwise may have a user name and password for the broker. They must not
    /// be a proof themselves, or the broker would see one.
    ///
    /// # Errors
    /// [`Refusal::Several`], [`Refusal::Method`], [`Refusal::Missing`] or [`Refusal::Password`].
    pub fn in_connect(connect: &Connect<'a>, are_passed_on: bool) -> Result<Self, Refusal> {
        let has_properties = connect.user_properties().any(|(name, _)| is_ours(name));
        let has_login = connect.user_name.is_some() || connect.password.is_some();
        let client_id = connect.client_id;
        if connect.authentication_method.is_none() && !has_properties {
            let (Some(user_name), Some(password)) = (connect.user_name, connect.password) else {
                return Err(Refusal::Missing);
            };
            return Ok(Self::Login(Claim { client_id, user_name, password }));
        }
        if connect.authentication_method.is_some_and(|method| method != METHOD) {
            return Err(Refusal::Method);
        }
        let is_brokers = are_passed_on && !looks_like_a_proof(connect);
        if (connect.authentication_method.is_some() && has_properties) || (has_login && !is_brokers)
        {
            return Err(Refusal::Several);
        }
        match (connect.authentication_method, connect.authentication_data) {
            (None, _) => in_properties(connect).map(Self::Carried),
            (Some(_), None) => Ok(Self::Challenge),
            (Some(_), Some(data)) => Claim::in_data(client_id, data).map(Self::Carried),
        }
    }
}

impl<'a> Claim<'a> {
    /// The claim in the data of the method: address, colon, token or device password.
    ///
    /// # Errors
    /// [`Refusal::Password`] if it has another form.
    pub fn in_data(client_id: &'a str, data: &'a [u8]) -> Result<Self, Refusal> {
        let colon = data.iter().position(|octet| *octet == b':').ok_or(Refusal::Password)?;
        let user_name = std::str::from_utf8(&data[..colon]).map_err(|_| Refusal::UserName)?;
        Ok(Self { client_id, user_name, password: &data[colon + 1..] })
    }
}

fn is_ours(name: &str) -> bool {
    name == ADDRESS_PROPERTY || name == TOKEN_PROPERTY
}

fn in_properties<'a>(connect: &Connect<'a>) -> Result<Claim<'a>, Refusal> {
    let only = |wanted: &str| {
        let mut found = connect.user_properties().filter(|(name, _)| *name == wanted);
        let first = found.next().ok_or(Refusal::Missing)?;
        if found.next().is_some() { Err(Refusal::Several) } else { Ok(first.1) }
    };
    let (user_name, token) = (only(ADDRESS_PROPERTY)?, only(TOKEN_PROPERTY)?);
    Ok(Claim { client_id: connect.client_id, user_name, password: token.as_bytes() })
}

/// Many a broker's password has 27 characters, so as a device password it counts only beside an address.
fn looks_like_a_proof(connect: &Connect<'_>) -> bool {
    let Some(password) = connect.password else { return false };
    let has_address = connect.user_name.is_some_and(|name| address_of(name).is_some());
    Token::decode(password, true).is_ok() || (has_address && device_key(password).is_ok())
}
