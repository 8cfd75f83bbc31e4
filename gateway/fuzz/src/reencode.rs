//! Packets written from what was read of them. MQTT has one way to write a set of facts, but for what may be left out at the end of
//! an acknowledgement, so whatever comes out must be what went in: then nothing was overlooked, guessed or read twice.

use flytrap_mqtt::{Ack, Auth, ConnAck, Connect, Disconnect, FromBroker, FromClient, Properties, Property, Publish, SubAck, Subscribe, UnsubAck, Unsubscribe, Version};

fn number(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { low + 128 } else { low });
        if value == 0 {
            return;
        }
    }
}

fn binary(octets: &[u8], out: &mut Vec<u8>) {
    out.extend((octets.len() as u16).to_be_bytes());
    out.extend(octets);
}

fn property(property: &Property<'_>, out: &mut Vec<u8>) {
    out.push(property.id());
    match *property {
        Property::PayloadFormatIndicator(flag)
        | Property::RequestProblemInformation(flag)
        | Property::RequestResponseInformation(flag)
        | Property::RetainAvailable(flag)
        | Property::WildcardSubscriptionAvailable(flag)
        | Property::SubscriptionIdentifierAvailable(flag)
        | Property::SharedSubscriptionAvailable(flag) => out.push(u8::from(flag)),
        Property::MaximumQoS(qos) => out.push(qos),
        Property::ServerKeepAlive(value) | Property::TopicAliasMaximum(value) => out.extend(value.to_be_bytes()),
        Property::ReceiveMaximum(value) | Property::TopicAlias(value) => out.extend(value.get().to_be_bytes()),
        Property::MessageExpiryInterval(value)
        | Property::SessionExpiryInterval(value)
        | Property::WillDelayInterval(value) => out.extend(value.to_be_bytes()),
        Property::MaximumPacketSize(value) => out.extend(value.get().to_be_bytes()),
        Property::SubscriptionIdentifier(value) => number(value.get() as usize, out),
        Property::ContentType(text)
        | Property::ResponseTopic(text)
        | Property::AssignedClientIdentifier(text)
        | Property::AuthenticationMethod(text)
        | Property::ResponseInformation(text)
        | Property::ServerReference(text)
        | Property::ReasonString(text) => binary(text.as_bytes(), out),
        Property::CorrelationData(data) | Property::AuthenticationData(data) => binary(data, out),
        Property::UserProperty(name, value) => {
            binary(name.as_bytes(), out);
            binary(value.as_bytes(), out);
        }
    }
}

fn properties(version: Version, properties: &Properties<'_>, out: &mut Vec<u8>) {
    if version != Version::V5 {
        return;
    }
    let mut all = Vec::new();
    for one in properties.iter() {
        property(&one, &mut all);
    }
    number(all.len(), out);
    out.extend(all);
}

fn packet(first: u8, body: Vec<u8>) -> Vec<u8> {
    let mut out = vec![first];
    number(body.len(), &mut out);
    out.extend(body);
    out
}

pub fn publish(version: Version, publish: &Publish<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    binary(publish.topic.as_bytes(), &mut body);
    if let Some(id) = publish.packet_id {
        body.extend(id.get().to_be_bytes());
    }
    properties(version, &publish.properties, &mut body);
    body.extend(publish.payload);
    let flags = u8::from(publish.dup) * 8 + publish.qos as u8 * 2 + u8::from(publish.retain);
    packet(0x30 + flags, body)
}

pub fn connect(connect: &Connect<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    binary(connect.version.protocol_name().as_bytes(), &mut body);
    body.push(connect.version.level());
    let will = connect.will.map_or(0, |will| 4 + will.qos as u8 * 8 + u8::from(will.retain) * 32);
    let login = u8::from(connect.user_name.is_some()) * 128 + u8::from(connect.password.is_some()) * 64;
    body.push(login + will + u8::from(connect.clean_start) * 2);
    body.extend(connect.keep_alive.to_be_bytes());
    properties(connect.version, &connect.properties, &mut body);
    binary(connect.client_id.as_bytes(), &mut body);
    if let Some(will) = connect.will {
        properties(connect.version, &will.properties, &mut body);
        binary(will.topic.as_bytes(), &mut body);
        binary(will.payload, &mut body);
    }
    if let Some(user_name) = connect.user_name {
        binary(user_name.as_bytes(), &mut body);
    }
    if let Some(password) = connect.password {
        binary(password, &mut body);
    }
    packet(0x10, body)
}

fn connack(connack: &ConnAck<'_>) -> Vec<u8> {
    let mut body = vec![u8::from(connack.session_present), connack.code];
    properties(connack.version, &connack.properties, &mut body);
    packet(0x20, body)
}

/// What may be left out at the end was, where `length` says so.
fn shortened(first: u8, mut body: Vec<u8>, code: u8, fields: &Properties<'_>, length: usize) -> Vec<u8> {
    let bare = body.len();
    if length > bare {
        body.push(code);
    }
    if length > bare + 1 {
        properties(Version::V5, fields, &mut body);
    }
    packet(first, body)
}

fn ack(first: u8, ack: &Ack<'_>, length: usize) -> Vec<u8> {
    shortened(first, ack.packet_id.get().to_be_bytes().to_vec(), ack.reason, &ack.properties, length)
}

fn disconnect(said: &Disconnect<'_>, length: usize) -> Vec<u8> {
    shortened(0xE0, Vec::new(), said.reason, &said.properties, length)
}

fn auth(said: &Auth<'_>, length: usize) -> Vec<u8> {
    shortened(0xF0, Vec::new(), said.reason, &said.properties, length)
}

fn subscribe(first: u8, subscribe: &Subscribe<'_>) -> Vec<u8> {
    let mut body = subscribe.packet_id.get().to_be_bytes().to_vec();
    properties(subscribe.version, &subscribe.properties, &mut body);
    for filter in subscribe.filters() {
        binary(filter.filter.as_bytes(), &mut body);
        let options = u8::from(filter.retain_as_published()) * 8 + u8::from(filter.no_local()) * 4;
        body.push(filter.retain_handling() * 16 + options + filter.qos as u8);
    }
    packet(first, body)
}

fn unsubscribe(first: u8, version: Version, unsubscribe: &Unsubscribe<'_>) -> Vec<u8> {
    let mut body = unsubscribe.packet_id.get().to_be_bytes().to_vec();
    properties(version, &unsubscribe.properties, &mut body);
    for filter in unsubscribe.filters() {
        binary(filter.as_bytes(), &mut body);
    }
    packet(first, body)
}

fn suback(suback: &SubAck<'_>) -> Vec<u8> {
    let mut body = suback.packet_id.get().to_be_bytes().to_vec();
    properties(suback.version, &suback.properties, &mut body);
    body.extend(suback.codes);
    packet(0x90, body)
}

fn unsuback(unsuback: &UnsubAck<'_>) -> Vec<u8> {
    let mut body = unsuback.packet_id.get().to_be_bytes().to_vec();
    properties(unsuback.version, &unsuback.properties, &mut body);
    body.extend(unsuback.codes);
    packet(0xB0, body)
}

/// `first`: the packet's first octet, as only 3.1 leaves a choice there. `length`: octets of its body.
pub fn from_client(version: Version, said: &FromClient<'_>, first: u8, length: usize) -> Vec<u8> {
    match said {
        FromClient::Publish(said) => publish(version, said),
        FromClient::PubAck(said) | FromClient::PubRec(said) | FromClient::PubRel(said) | FromClient::PubComp(said) => ack(first, said, length),
        FromClient::Subscribe(said) => subscribe(first, said),
        FromClient::Unsubscribe(said) => unsubscribe(first, version, said),
        FromClient::PingReq => vec![0xC0, 0],
        FromClient::Disconnect(said) => disconnect(said, length),
        FromClient::Auth(said) => auth(said, length),
    }
}

/// As [`from_client`].
pub fn from_broker(version: Version, said: &FromBroker<'_>, first: u8, length: usize) -> Vec<u8> {
    match said {
        FromBroker::ConnAck(said) => connack(said),
        FromBroker::Publish(said) => publish(version, said),
        FromBroker::PubAck(said) | FromBroker::PubRec(said) | FromBroker::PubRel(said) | FromBroker::PubComp(said) => ack(first, said, length),
        FromBroker::SubAck(said) => suback(said),
        FromBroker::UnsubAck(said) => unsuback(said),
        FromBroker::PingResp => vec![0xD0, 0],
        FromBroker::Disconnect(said) => disconnect(said, length),
        FromBroker::Auth(said) => auth(said, length),
    }
}
