// mqtt.js, told by a line of JSON what to do, telling in a line of JSON what happened.
//
// Commands and events are those of paho_client.py; gateway/tests/end_to_end/common/foreign.rs speaks to both. Events are told from the packets
// as they come, so that what the library makes of a refusal does not matter.
'use strict';
const fs = require('fs');
const readline = require('readline');
const mqtt = require('mqtt');

const tell = (event, facts = {}) => process.stdout.write(`${JSON.stringify({ event, ...facts })}\n`);
const sentence = (packet) => packet.properties?.reasonString ?? null;
const pairs = (properties) => Object.entries(properties ?? {}).flatMap(([name, values]) => [values].flat().map((value) => [name, value]));

let client = null;
let version = 4;
let asked = null;
const byServer = { code: null, reason: null };

const orders = {
  connect(order) {
    version = order.version;
    const options = {
      host: order.host, port: order.port, protocol: order.ca ? 'mqtts' : 'mqtt', protocolVersion: version, clientId: order.client_id,
      username: order.user_name ?? undefined, password: order.password ?? undefined, clean: order.clean, keepalive: order.keep_alive ?? 60,
      reconnectPeriod: 0, connectTimeout: 10_000, ...(version === 3 ? { protocolId: 'MQIsdp' } : {}),
    };
    if (order.websocket) Object.assign(options, { protocol: order.ca ? 'wss' : 'ws', hostname: order.host, path: order.websocket });
    if (order.ca) Object.assign(options, { ca: fs.readFileSync(order.ca), servername: 'localhost' });
    if (order.will) options.will = { ...order.will, payload: Buffer.from(order.will.payload) };
    if (version === 5 && 'session_expiry' in order) options.properties = { sessionExpiryInterval: order.session_expiry };
    if (order.method) Object.assign(options.properties ??= {}, { authenticationMethod: order.method });
    if (order.data) options.properties.authenticationData = Buffer.from(order.data);
    if (order.user) options.properties = { ...options.properties, userProperties: Object.fromEntries(order.user) };
    client = mqtt.connect(options);
    // Who drives this program signs; the nonce goes there and the answer comes back.
    client.handleAuth = (packet, callback) => {
      tell('auth', { code: packet.reasonCode, data: packet.properties?.authenticationData?.toString('hex') ?? null });
      asked = callback;
      if (packet.reasonCode === 0) callback(null);
    };
    client.on('packetreceive', (packet) => {
      if (packet.cmd === 'connack') tell('connack', { code: packet.reasonCode ?? packet.returnCode, present: packet.sessionPresent, reason: sentence(packet) });
      else if (packet.cmd === 'suback') tell('suback', { codes: packet.granted, reason: sentence(packet) });
      else if (packet.cmd === 'unsuback') tell('unsuback');
      else if (packet.cmd === 'puback' || packet.cmd === 'pubcomp' || (packet.cmd === 'pubrec' && (packet.reasonCode ?? 0) >= 0x80)) {
        tell('published', { code: version === 5 ? packet.reasonCode ?? 0 : 0, reason: sentence(packet) });
      } else if (packet.cmd === 'disconnect') Object.assign(byServer, { code: packet.reasonCode ?? 0, reason: sentence(packet) });
    });
    client.on('message', (topic, payload, packet) => tell('message', {
      topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain, user: pairs(packet.properties?.userProperties),
    }));
    client.on('close', () => tell('closed', { by_server: byServer.code !== null, ...byServer }));
    client.on('error', () => {});
  },
  subscribe({ filters }) {
    client.subscribe(Object.fromEntries(filters.map(([name, qos]) => [name, { qos }])), () => {});
  },
  unsubscribe({ filters }) { client.unsubscribe(filters, () => {}); },
  publish({ topic, payload, qos, retain, user }) {
    const userProperties = {};
    for (const [name, value] of user ?? []) (userProperties[name] ??= []).push(value);
    const properties = version === 5 && user ? { properties: { userProperties } } : {};
    client.publish(topic, payload, { qos, retain, ...properties }, () => { if (qos === 0) tell('published', { code: 0, reason: null }); });
  },
  answer({ method, data }) {
    asked(null, { cmd: 'auth', reasonCode: 0x18, properties: { authenticationMethod: method, authenticationData: Buffer.from(data, 'hex') } });
  },
  disconnect() { client.end(); },
};

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line);
  try { orders[order.do](order); } catch (error) { tell('error', { error: String(error) }); }
}).on('close', () => process.exit(0));
