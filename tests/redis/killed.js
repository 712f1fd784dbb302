// Works on a library of Node.js while the node that leads is killed: node killed.js URL NAME. Says `kill` when it is in the middle,
// hears a line when another node leads, goes on for as long again, and ends with 1 at the first surprise.
'use strict';
const assert = require('node:assert');
const readline = require('node:readline');

const [url, which] = process.argv.slice(2);
const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));
const until = async (ready, what, seconds = 60) => {
  const end = Date.now() + seconds * 1000;
  while (!(await ready())) {
    if (Date.now() > end) throw new Error(`${typeof what === 'string' ? what : await what()} did not come`);
    await sleep(20);
  }
};
const connect = () => new (require('ioredis'))(url, { maxRetriesPerRequest: null });

// Once it was said that nothing changed, or that nobody knows, the same is asked for anew: everything here may be.
const again = async (call) => {
  const end = Date.now() + 40000;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (!/TRYAGAIN|UNCONFIRMED/.test(error.message) || Date.now() > end) throw error;
      heard.push(error.message);
      await sleep(50);
    }
  }
};
const heard = [];

let another = false;
const death = async () => {
  const lines = readline.createInterface({ input: process.stdin });
  console.log('kill');
  await new Promise((resolve) => lines.once('line', resolve));
  another = true;
  lines.close();
};

// How much is to be done before the node that leads is killed, and after another leads.
const HALF = 30;

const programs = {
  // Jobs come all the time. Each whose coming was answered is done, has its result, and is told of.
  async bullmq() {
    const { Queue, Worker, QueueEvents } = require('bullmq');
    await connect().flushall();
    const queue = new Queue('work', { connection: connect() });
    const events = new QueueEvents('work', { connection: connect() });
    await events.waitUntilReady();
    const told = new Set();
    const done = new Map();
    events.on('completed', ({ jobId }) => told.add(jobId));
    // What a worker loses by an error it finds stalled, and does once more.
    const options = { concurrency: 4, lockDuration: 3000, stalledInterval: 1000, maxStalledCount: 10 };
    const worker = new Worker('work', async (job) => {
      done.set(job.id, (done.get(job.id) || 0) + 1);
      await sleep(10);
      return job.data.n * 2;
    }, { connection: connect(), ...options });
    for (const one of [queue, events, worker]) one.on('error', (error) => heard.push(error.message));
    const added = [];
    let dying = null;
    for (let enough = Infinity; added.length < enough; await sleep(15)) {
      const n = added.length;
      added.push(await again(() => queue.add('job', { n }, { jobId: `job${n}`, attempts: 10 })));
      if (!dying && done.size >= HALF) dying = death();
      if (another && enough === Infinity) enough = added.length + HALF;
    }
    await dying;
    const state = (job) => again(() => job.getState());
    for (const job of added) {
      await until(async () => await state(job) === 'completed', async () => `${job.id}, which is ${await state(job)},`);
      assert.equal((await again(() => queue.getJob(job.id))).returnvalue, job.data.n * 2);
    }
    assert.deepEqual(added.filter((job) => !done.has(job.id)), []);
    await until(() => added.every((job) => told.has(job.id)), 'what is told of all jobs');
    const counts = await queue.getJobCounts('completed', 'failed', 'active', 'waiting');
    assert.deepEqual(counts, { completed: added.length, failed: 0, active: 0, waiting: 0 });
    const twice = [...done.values()].filter((times) => times > 1).length;
    return `${added.length} jobs, ${twice} of them done more than once`;
  },

  // Many want one lock all the time. Two never have it, and what each adds to a number by reading and writing is there.
  async redlock() {
    const Redlock = require('redlock');
    await connect().flushall();
    const LASTS = 15000;
    let holder = null;
    let done = 0;
    let enough = Infinity;
    let dying = null;
    const want = async (name) => {
      const client = connect();
      const locks = new Redlock([client], { retryCount: -1, retryDelay: 20, retryJitter: 20 });
      locks.on('clientError', (error) => heard.push(error.message));
      while (done < enough) {
        const lock = await locks.lock('lock', LASTS);
        assert.ok(holder === null || Date.now() > holder.until, `${name} has the lock of ${holder && holder.name}`);
        holder = { name, until: lock.expiration };
        const seen = Number(await again(() => client.get('number')));
        await sleep(3);
        await again(() => client.set('number', seen + 1));
        assert.ok(holder.name === name && Date.now() < lock.expiration, `${name} lost its lock`);
        assert.equal(seen, done);
        done += 1;
        holder = null;
        // Where nobody knows whether it went, it is asked for again, and gone by then or by itself later.
        await lock.unlock().catch(() => lock.unlock().catch(() => null));
        if (!dying && done >= HALF) dying = death();
        if (another && enough === Infinity) enough = done + HALF;
      }
    };
    await Promise.all(Array.from({ length: 6 }, (_, number) => want(`client ${number}`)));
    await dying;
    assert.equal(Number(await connect().get('number')), done);
    return `${done} times held`;
  },
};

programs[which]().then(
  (said) => {
    const errors = [...new Set(heard)].map((error) => `${heard.filter((one) => one === error).length} times ${error}`);
    console.log([said, ...errors].join('\n'));
    process.exit(0);
  },
  (error) => { console.error(error, [...new Set(heard)]); process.exit(1); },
);
