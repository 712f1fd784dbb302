//! Messages: they go through the log like any change, so that all members' subscribers get them in one order.
//!
//! How many get one is known only where they are, so the reply is a zero, in the place of which a door puts what it knows.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::{Done, FAST, Keys, PUBSUB, Run, Spec};

const fn message(name: &'static str, run: fn(&mut Keyspace, &mut Call<'_>) -> Done) -> Spec {
    Spec { name, arity: 3, flags: PUBSUB | FAST, keys: Keys::None, run: Run::Write(run) }
}

pub(super) const SPECS: &[Spec] = &[
    message("publish", |keyspace, call| publish(keyspace, call, false)),
    message("spublish", |keyspace, call| publish(keyspace, call, true)),
];

fn publish(keyspace: &mut Keyspace, call: &mut Call<'_>, sharded: bool) -> Done {
    keyspace.events.published(call.args[1], call.args[2], sharded);
    call.out.int(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::Event;
    use crate::table::execute::tests::Trial;

    #[test]
    fn a_message_is_an_event_and_changes_nothing() {
        let mut trial = Trial::new();
        assert_eq!(trial.line("PUBLISH c m"), "(integer) 0");
        assert_eq!(trial.line("SPUBLISH c n"), "(integer) 0");
        let event = |message: &[u8], sharded| Event::Published {
            channel: Box::from(&b"c"[..]),
            message: Box::from(message),
            sharded,
        };
        assert_eq!(trial.keyspace.events.take(), [event(b"m", false), event(b"n", true)]);
        assert!(trial.keyspace.is_empty());
    }
}
