// A broker for machines without Mosquitto: aedes, which speaks MQTT 3.1 and 3.1.1, on a free port of this machine.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { Aedes } from 'aedes';

const broker = await Aedes.createBroker();
const server = createServer(broker.handle);
console.log(`aedes ${JSON.parse(readFileSync('node_modules/aedes/package.json', 'utf8')).version}`);
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
process.on('SIGTERM', () => process.exit(0));
