// Runs one short program on a library of Node.js: node programs.js URL NAME. Ends with 1 at the first surprise.
'use strict';
const assert = require('node:assert');

const [url, which] = process.argv.slice(2);
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const until = async (ready, what) => {
  for (let tries = 0; tries < 1000; tries += 1) {
    if (await ready()) return;
    await sleep(10);
  }
  throw new Error(`${what} did not come`);
};
const Redis = () => require('ioredis');
const connect = () => new (Redis())(url, { maxRetriesPerRequest: null });

const programs = {
  // Jobs with results, one that fails and is tried again, a delayed one, priorities, a flow of children, events.
  async bullmq() {
    const { Queue, Worker, QueueEvents, FlowProducer } = require('bullmq');
    const connection = connect();
    await connection.flushall();
    const queue = new Queue('work', { connection });
    const events = new QueueEvents('work', { connection: connect() });
    await events.waitUntilReady();
    const done = [];
    let broken = 0;
    const worker = new Worker('work', async (job) => {
      if (job.name === 'flaky' && (broken += 1) < 3) throw new Error('again');
      await job.updateProgress(50);
      done.push(job.name);
      return { twice: (job.data.n || 0) * 2 };
    }, { connection: connect(), concurrency: 4 });
    const jobs = await queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: `job${n}`, data: { n } })));
    for (const job of jobs) assert.equal((await job.waitUntilFinished(events, 10000)).twice, job.data.n * 2);
    const flaky = await queue.add('flaky', { n: 1 }, { attempts: 3, backoff: { type: 'fixed', delay: 20 } });
    assert.equal((await flaky.waitUntilFinished(events, 10000)).twice, 2);
    const begin = Date.now();
    const late = await queue.add('late', { n: 4 }, { delay: 200 });
    await late.waitUntilFinished(events, 10000);
    assert.ok(Date.now() - begin >= 190);
    const flow = new FlowProducer({ connection: connect() });
    const tree = await flow.add({ name: 'parent', queueName: 'work', data: { n: 7 }, children: [
      { name: 'child', queueName: 'work', data: { n: 1 } }, { name: 'child', queueName: 'work', data: { n: 2 } }] });
    assert.equal((await tree.job.waitUntilFinished(events, 10000)).twice, 14);
    assert.ok(done.indexOf('parent') > done.lastIndexOf('child'));
    await queue.upsertJobScheduler('every', { every: 100 }, { name: 'tick', data: {} });
    await until(() => done.filter((name) => name === 'tick').length >= 3, 'what is repeated');
    await queue.removeJobScheduler('every');
    const counts = await queue.getJobCounts('completed', 'failed', 'active', 'waiting');
    assert.equal(counts.failed, 0);
    assert.ok(counts.completed >= 54);
    await worker.close();
    await queue.obliterate({ force: true });
    await events.close();
    await flow.close();
    await queue.close();
  },

  // Two holders of one lock, an extension, and what runs out.
  async redlock() {
    const Redlock = require('redlock');
    const client = connect();
    await client.flushall();
    const locks = new Redlock([client], { retryCount: 0 });
    const lock = await locks.lock('resource', 1000);
    await assert.rejects(locks.lock('resource', 1000));
    const longer = await lock.extend(1000);
    await longer.unlock();
    const short = await locks.lock('resource', 60);
    await sleep(120);
    const next = await locks.lock('resource', 1000);
    await assert.rejects(short.unlock());
    await next.unlock();
    let counter = 0;
    const patient = new Redlock([client], { retryCount: 500, retryDelay: 5, retryJitter: 5 });
    await Promise.all(Array.from({ length: 20 }, async () => {
      const held = await patient.lock('counter', 5000);
      const seen = counter;
      await sleep(1);
      counter = seen + 1;
      await held.unlock();
    }));
    assert.equal(counter, 20);
  },

  // Two servers that share rooms through the adapter.
  async socketio() {
    const { createServer } = require('node:http');
    const { Server } = require('socket.io');
    const { createAdapter } = require('@socket.io/redis-adapter');
    const { io } = require('socket.io-client');
    await connect().flushall();
    const serve = async () => {
      const http = createServer();
      const server = new Server(http);
      server.adapter(createAdapter(connect(), connect()));
      server.on('connection', (socket) => socket.on('enter', (room, told) => { socket.join(room); told(); }));
      await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve));
      return { server, port: http.address().port };
    };
    const [one, two] = [await serve(), await serve()];
    const clients = [one, two].map(({ port }) => io(`http://127.0.0.1:${port}`));
    const heard = [];
    for (const client of clients) {
      client.on('said', (what) => heard.push(what));
      await until(() => client.connected, 'the connection');
      await client.emitWithAck('enter', 'room');
    }
    await sleep(100);
    one.server.to('room').emit('said', 'hello');
    await until(() => heard.length === 2, 'what was said');
    assert.equal((await one.server.in('room').fetchSockets()).length, 2);
    clients.forEach((client) => client.close());
  },

  // Sessions that are kept, touched and destroyed.
  async connect_redis() {
    const { RedisStore } = require('connect-redis');
    const { createClient } = require('redis');
    const client = createClient({ url });
    await client.connect();
    await client.flushAll();
    const store = new RedisStore({ client, prefix: 'session:', ttl: 100 });
    await store.set('one', { cookie: {}, user: 'a' });
    assert.equal((await store.get('one')).user, 'a');
    await store.touch('one', { cookie: {} });
    const ttl = await client.ttl('session:one');
    assert.ok(ttl > 90 && ttl <= 100);
    await store.set('two', { cookie: { expires: new Date(Date.now() + 500) }, user: 'b' });
    // Kept for whole seconds.
    await sleep(1200);
    assert.equal(await store.get('two'), undefined);
    await store.set('three', { cookie: {}, user: 'c' });
    assert.equal(await store.length(), 2);
    assert.deepEqual((await store.ids()).sort(), ['one', 'three']);
    await store.destroy('one');
    assert.equal((await store.all()).length, 1);
    await store.clear();
    assert.equal(await store.length(), 0);
  },

  // So many calls in a time, and a block.
  async rate_limiter() {
    const { RateLimiterRedis } = require('rate-limiter-flexible');
    const storeClient = connect();
    await storeClient.flushall();
    const limiter = new RateLimiterRedis({ storeClient, points: 5, duration: 1, blockDuration: 1 });
    const all = await Promise.allSettled(Array.from({ length: 8 }, () => limiter.consume('user')));
    assert.equal(all.filter((one) => one.status === 'fulfilled').length, 5);
    assert.equal((await limiter.get('user')).consumedPoints >= 5, true);
    assert.equal((await limiter.consume('other', 2)).remainingPoints, 3);
    await until(async () => (await limiter.get('user')) === null, 'the end of the time');
    await limiter.consume('user');
    await limiter.delete('user');
  },
};

programs[which]().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
