// A client for machines without Mosquitto's: mqtt.js from the npm packages. Says what happens, one line each.
import { readFileSync } from 'node:fs';
import { createConnection } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { MqttClient } from 'mqtt';

const order = JSON.parse(process.argv[1]);
const say = (...words) => console.log(words.join(' '));
const { host, port, from } = order;
const address = { host, port, ...(from === undefined ? {} : { localAddress: from }) };
const open = () => (order.ca === undefined
  ? createConnection(address)
  : connectTls({ ...address, servername: 'localhost', ca: readFileSync(order.ca) }));
const client = new MqttClient(open, {
  protocolVersion: order.version, clientId: order.clientId, username: order.userName, password: order.password,
  clean: true, reconnectPeriod: 0, connectTimeout: 10_000, resubscribe: false,
});
const code = (packet) => packet.reasonCode ?? packet.returnCode ?? 0;
let finished = false;
const finish = (status) => {
  finished = true;
  client.end(false, () => process.exit(status));
};
client.on('packetreceive', (packet) => {
  if (packet.cmd === 'connack') say('CONNACK', code(packet));
  if (packet.cmd === 'suback') say('SUBACK', packet.granted.map((each) => each.reasonCode ?? each).join(','));
  if (packet.cmd === 'puback') say('PUBACK', code(packet));
  if (packet.cmd === 'disconnect') say('DISCONNECT', code(packet));
});
client.on('connect', () => {
  if (order.publish !== undefined) {
    client.publish(order.publish, order.payload, { qos: 1 }, (error) => finish(error ? 1 : 0));
    return;
  }
  client.subscribe(order.subscribe, { qos: 1 }, (error, granted) => {
    if (error || (granted ?? []).every(({ qos }) => qos >= 0x80)) finish(1);
  });
});
client.on('message', (topic, payload) => say('MESSAGE', topic, payload.toString()));
client.on('error', () => { if (!finished) finish(1); });
client.on('close', () => { if (!finished) process.exit(1); });
