//! Directed runs: one thing is made to happen that seeds meet too rarely to rely on, and then the usual must be true.
//!
//! Nothing else goes wrong in them; the seed decides who leads and in which order messages arrive.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use loci_index::command::{Envelope, Origin};
use loci_index::record::VALUE_BYTES_MAX;
use loci_node::shard::{GATHERING, WRITE_BYTES_MAX, WriteError};
use loci_raft::{MemberId, Members};

use super::clients::{self, KEYS};
use super::machine::{Build, Machine};
use super::network::Weather;
use super::shards::Shard;
use super::world::{ALIKE_WITHIN, Happening, PREPARED_BY, World};
use super::{Checked, NOT_WELL, Run, SECONDS, Trace, Violation, inside, violation};

/// As much as makes a log forget what is far back.
const WRITES: usize = 60;
const WRITE_BYTES: usize = 400;

/// Two of five members are cut off until the log no longer has what they lack. Both are sent a snapshot at the same time, and
/// what both say to acknowledge it is lost. They must come to the state of the others nevertheless.
pub fn lost_acknowledgements_of_two_snapshots(seed: u64) -> Result<(), Violation> {
    inside(|| {
        let trace = &mut Trace { hash: seed, lines: None };
        let build = Build {
            log_file_bytes: 16 << 10,
            pinned_files: 16,
            checkpoint_bytes: 2 << 10,
            kept_bytes: 2 << 10,
            buffer_rows_max: 64,
            gathering: GATHERING,
        };
        let mut world = World::quiet(Run::of(seed), trace, 5, build);
        world.prepare()?;
        let leader = world.must_lead()?;
        let behind: Vec<usize> = (0..5).filter(|at| *at != leader).take(2).collect();
        world.network.split(|at| behind.contains(&at));
        let last = |world: &World<'_>, at: usize| {
            world.machines[at].running(0).map_or(0, |running| running.driven.owner.replica().last_index().0)
        };
        let start = |world: &World<'_>, at: usize| {
            world.machines[at].running(0).map_or(0, |running| running.driven.owner.replica().start().0)
        };
        world.write(WRITES, WRITE_BYTES)?;
        let forgotten = world.go_on_until(world.now + 30 * SECONDS, |world| {
            behind.iter().all(|at| start(world, leader) > last(world, *at))
        })?;
        if !forgotten {
            return violation("the log did not forget what is far back");
        }
        world.network.heal();
        let holds = |world: &World<'_>, at: usize| world.machines[at].members[0].stand().is_some();
        for _ in &behind {
            let silent: Vec<usize> = behind.iter().copied().filter(|at| holds(&world, *at)).collect();
            let next = world.go_on_until(world.now + 30 * SECONDS, |world| {
                behind.iter().any(|at| holds(world, *at) && !silent.contains(at))
            })?;
            if !next {
                return violation("not both members were sent a snapshot");
            }
            let silent: Vec<usize> = behind.iter().copied().filter(|at| holds(&world, *at)).collect();
            for (at, other) in silent.iter().flat_map(|at| (0..5).map(move |other| (*at, other))) {
                world.network.cut(at, other);
            }
        }
        world.go_on_until(world.now + SECONDS, |_| false)?;
        let waiting = world.machines[leader].running(0).map_or(0, |running| {
            let progress = running.driven.owner.replica().progress();
            progress.iter().filter(|known| known.snapshot.is_some()).count()
        });
        if waiting != 2 {
            return violation(format!("{waiting} members wait for a snapshot, not 2"));
        }
        world.network.heal();
        if !world.go_on_until(world.now + ALIKE_WITHIN, |world| world.all_alike())? {
            return violation(format!("{} s {NOT_WELL}: {}", ALIKE_WITHIN / SECONDS, world.describe()));
        }
        world.check_end().map(drop)
    })
}

/// Values of the largest size that a client can write, of which a member that is behind hears by a snapshot; one larger than an entry
/// is refused. Files of the log, and pieces of the snapshot, are far smaller.
pub fn values_at_the_limit(seed: u64) -> Result<(), Violation> {
    const PIECE_BYTES: usize = 1 << 20;
    inside(|| {
        let trace = &mut Trace { hash: seed, lines: None };
        let build = Build {
            log_file_bytes: 64 << 10,
            pinned_files: 16,
            checkpoint_bytes: 2 << 10,
            kept_bytes: 2 << 10,
            buffer_rows_max: 64,
            gathering: GATHERING,
        };
        let mut world = World::quiet(Run::of(seed), trace, 3, build);
        world.streams = world.streams.in_pieces_of(PIECE_BYTES);
        world.prepare()?;
        let leader = world.must_lead()?;
        let behind = (leader + 1) % 3;
        world.network.split(|at| at == behind);
        world.write(2, VALUE_BYTES_MAX)?;
        world.write(20, WRITE_BYTES)?;
        let leader = world.must_lead()?;
        let handle = world.machines[leader].handle(0).cloned();
        let Some(handle) = handle else { return violation("who leads does not run") };
        let command = clients::put_record(KEYS, "k".into(), vec![0; WRITE_BYTES_MAX]);
        let mut refused = pin!(handle.write(Envelope { origin: Origin::default(), command }, None));
        match refused.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(WriteError::TooLarge { .. })) => {}
            other => return violation(format!("a write larger than an entry came to {other:?}")),
        }
        world.go_on_until(world.now + 2 * SECONDS, |_| false)?;
        world.network.heal();
        if !world.go_on_until(world.now + ALIKE_WITHIN, |world| world.all_alike())? {
            return violation(format!("{} s {NOT_WELL}: {}", ALIKE_WITHIN / SECONDS, world.describe()));
        }
        if world.machines[behind].members[0].stand().is_none() {
            return violation("the member that was behind needed no snapshot");
        }
        world.check_end().map(drop)
    })
}

impl<'t> World<'t> {
    /// A world of so many members in which nothing goes wrong by itself.
    fn quiet(run: Run, trace: &'t mut Trace, size: u64, build: Build) -> World<'t> {
        let mut world = World::new(run, trace);
        world.machines = (1..=size).map(|me| Machine::new(MemberId(me), 1, 1_000_000, 0, None)).collect();
        let founders = Members::voting((1..=size).map(MemberId)).expect("members can be founded");
        world.shards = vec![Shard::new(founders.into())];
        world.clients.iter_mut().for_each(|client| client.known.truncate(1));
        world.build = build;
        world.network.weather = Weather::fair();
        world.streams = world.streams.fair();
        world.habits.lost = 0;
        world
    }

    fn must_lead(&self) -> Checked<usize> {
        self.leader(0).map_or_else(|| violation("nobody leads where nothing is wrong"), Ok)
    }

    /// The first client writes so many records of so many bytes, one after the other.
    fn write(&mut self, count: usize, bytes: usize) -> Checked {
        let command = |number| (0, clients::put_record(KEYS, format!("k{}", number % 5), vec![number as u8; bytes]));
        self.clients[0].script.extend((0..count).map(command));
        self.after(1, Happening::Client { client: 0 });
        match self.go_on_until(self.now + PREPARED_BY, |world| world.clients[0].is_idle())? {
            true => Ok(()),
            false => violation("writes did not get through where nothing is wrong"),
        }
    }
}
