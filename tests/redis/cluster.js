// Drives a client of Node.js that knows clusters: node cluster.js HOST:PORT,... (redis|ioredis) SECONDS. Ends with 1 at the first
// surprise. With seconds it adds to sets for so long, and looks whether all that was answered is there.
'use strict';
const assert = require('node:assert');

const [startup, which, seconds] = process.argv.slice(2);
const addresses = startup.split(',').map((address) => ({ host: address.split(':')[0], port: Number(address.split(':')[1]) }));

async function redis() {
  const { createCluster } = require('redis');
  const cluster = createCluster({
    rootNodes: addresses.map(({ host, port }) => ({ url: `redis://${host}:${port}` })),
    maxCommandRedirections: 1000,
  });
  cluster.on('error', () => {});
  await cluster.connect();
  return {
    set: (key, value) => cluster.set(key, value),
    get: (key) => cluster.get(key),
    mget: (keys) => cluster.mGet(keys),
    eval: (script, key) => cluster.eval(script, { keys: [key] }),
    multi: (key) => cluster.multi().incr(key).incr(key).exec(),
    sadd: (key, name) => cluster.sAdd(key, name),
    smembers: (key) => cluster.sMembers(key),
    sinter: (keys) => cluster.sInter(keys),
    close: () => cluster.destroy(),
  };
}

async function ioredis() {
  const { Cluster } = require('ioredis');
  const cluster = new Cluster(addresses, { retryDelayOnFailover: 200, maxRedirections: 60, slotsRefreshInterval: 1000 });
  cluster.on('error', () => {});
  return {
    set: (key, value) => cluster.set(key, value),
    get: (key) => cluster.get(key),
    mget: (keys) => cluster.mget(keys),
    eval: (script, key) => cluster.eval(script, 1, key),
    multi: async (key) => (await cluster.multi().incr(key).incr(key).exec()).map(([error, value]) => { assert.ifError(error); return value; }),
    sadd: (key, name) => cluster.sadd(key, name),
    smembers: (key) => cluster.smembers(key),
    sinter: (keys) => cluster.sinter(keys),
    close: () => cluster.disconnect(),
  };
}

async function once(client) {
  const names = Array.from({ length: 300 }, (_, at) => `js:${which}:${at}`);
  assert.deepEqual(await Promise.all(names.map((name) => client.set(name, name))), names.map(() => 'OK'));
  assert.deepEqual(await Promise.all(names.map((name) => client.get(name))), names);
  await client.set(`{${which}}a`, '1');
  await client.set(`{${which}}b`, '2');
  assert.deepEqual(await client.mget([`{${which}}a`, `{${which}}b`]), ['1', '2']);
  await assert.rejects(client.sinter(['foo', 'bar']), /CROSSSLOT|same slot|allocated/);
  assert.equal(Number(await client.eval('return redis.call("INCR", KEYS[1])', `js:${which}:n:${Date.now()}`)), 1);
  assert.deepEqual((await client.multi(`js:${which}:m:${Date.now()}`)).map(Number), [1, 2]);
}

// A client may still know a connection to the node that was killed.
async function patiently(ask) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await ask();
    } catch (error) {
      if (attempt === 40) throw error;
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  }
}

async function kept(client) {
  const [stop, answered] = [Date.now() + seconds * 1000, []];
  let failed = 0;
  async function work(number) {
    for (let step = 0; Date.now() < stop; step += 1) {
      const [key, name] = [`kept:${which}:${(number * 7 + step) % 40}`, `${number}.${step}`];
      try {
        await client.sadd(key, name);
        answered.push([key, name]);
      } catch (error) {
        failed += 1;
      }
    }
  }
  await Promise.all(Array.from({ length: 8 }, (_, number) => work(number)));
  const there = new Map();
  for (const key of new Set(answered.map(([key]) => key))) there.set(key, new Set(await patiently(() => client.smembers(key))));
  const lost = answered.filter(([key, name]) => !there.get(key).has(name));
  assert.deepEqual(lost, [], 'answered, and not there');
  assert.ok(answered.length > 100);
  console.log(`${answered.length} answered and none lost, ${failed} failed`);
}

async function main() {
  const client = await ({ redis, ioredis })[which]();
  await (Number(seconds) > 0 ? kept : once)(client);
  client.close();
}

main().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
