#!/usr/bin/env node
// A gateway that guards nothing: it relays every octet to the broker. The tour must notice.
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer as createHttp } from 'node:http';
import { connect, createServer } from 'node:net';
import { createServer as createTls } from 'node:tls';

const option = (name) => process.argv[process.argv.indexOf(name) + 1];
const config = readFileSync(option('--config'), 'utf8');
const value = (key) => new RegExp(`^${key} = "(.*)"`, 'm').exec(config)[1];
const [host, port] = value('address').split(':');
const relay = (client) => {
  const broker = connect(Number(port), host);
  for (const [from, to] of [[client, broker], [broker, client]]) {
    from.on('error', () => to.destroy()).on('close', () => to.destroy()).pipe(to);
  }
};
const servers = {
  mqtt: createServer(relay),
  mqtts: createTls({ cert: readFileSync(value('certificate')), key: readFileSync(value('key')) }, relay),
  health: createHttp((_, answer) => answer.end('flytrap_mirror_height 1000000\n')),
};
const bound = {};
for (const [name, server] of Object.entries(servers)) {
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  bound[name] = `127.0.0.1:${server.address().port}`;
}
const { health, ...listeners } = bound;
writeFileSync(option('--ready-file'), JSON.stringify({ listeners, health }));
