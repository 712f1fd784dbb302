//! The search for an order of one part's calls.
//!
//! ```text
//!   node = the next return to satisfy, which of the open calls are in order already, state
//!     |-- the returning call, if it fits the state
//!     |-- another open call that was answered, if it fits
//!     |-- one of these behind 1, 2, .. calls without an answer that let it fit
//! ```
//!
//! Calls are put in order only when one returns that is not in order yet, so all calls that returned are, and a node
//! needs to remember open ones only. Depth first; a node is not entered if one was that differs at most in having more
//! calls without an answer left to use. Four rules keep the choices few, and none loses an order that exists:
//!
//! - What only looks and fits goes first: it changes nothing, so later calls cannot tell.
//! - Of calls without an answer that mean the same, the one invoked first goes first; of two that would do the same here,
//!   of which one can do all that the other can, the other.
//! - Calls without an answer stand directly before one with an answer, and none that could as well be left out or come
//!   after it: an order with such a call implies one without it there, and that one is found.
//! - What the model says comes first comes first.
//!
//! Always: each rule replaces an order by one with fewer calls that have no answer, or else earlier looks, or else later
//! calls without an answer, or else the more able of these later; this ends, and where it ends is an order that the
//! search meets.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Model, Part};

/// What the search came to, and after how many states.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) end: Ending,
    pub(super) states: u64,
}

/// How a search ends.
#[derive(Debug)]
pub(super) enum Ending {
    /// With an order of all calls.
    Ordered,
    /// Knowing that there is none.
    Stuck(Stuck),
    /// Before it knows.
    OutOfWork,
}

/// Where no order goes on. Calls are numbers of the part's steps.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    /// An order of all calls that returned earlier, and of others as needed.
    pub(super) prefix: Vec<usize>,
    /// The call that returns next, and fits behind no such order.
    pub(super) call: usize,
    /// The states in which these orders end, a few of them.
    pub(super) states: Vec<String>,
}

/// States of a stuck search that an explanation shows.
const STATES_SHOWN: usize = 4;

/// A set of open calls, by their places.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Bits {
    Few(u64),
    Many(Box<[u64]>),
}

impl Bits {
    fn new(places: usize) -> Bits {
        if places <= 64 { Bits::Few(0) } else { Bits::Many(vec![0; places.div_ceil(64)].into()) }
    }

    fn word(&mut self, place: u32) -> &mut u64 {
        match self {
            Bits::Few(word) => word,
            Bits::Many(words) => &mut words[place as usize / 64],
        }
    }

    fn has(&self, place: u32) -> bool {
        self.words()[place as usize / 64] >> (place % 64) & 1 == 1
    }

    fn insert(&mut self, place: u32) {
        *self.word(place) |= 1 << (place % 64);
    }

    fn remove(&mut self, place: u32) {
        *self.word(place) &= !(1 << (place % 64));
    }

    fn words(&self) -> &[u64] {
        match self {
            Bits::Few(word) => std::slice::from_ref(word),
            Bits::Many(words) => words,
        }
    }

    fn is_subset(&self, of: &Bits) -> bool {
        self.words().iter().zip(of.words()).all(|(one, other)| one & !other == 0)
    }
}

/// Lists of calls, one for each return, in one piece.
#[derive(Debug, Default)]
struct Lists {
    calls: Vec<u32>,
    ends: Vec<usize>,
}

impl Lists {
    fn push(&mut self, calls: &[u32]) {
        self.calls.extend_from_slice(calls);
        self.ends.push(self.calls.len());
    }

    fn get(&self, at: usize) -> &[u32] {
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.calls[from..self.ends[at]]
    }
}

/// All that can be said of a part before the search.
struct Plan {
    /// Calls with an answer, as they return.
    returns: Vec<u32>,
    /// When each call returns, as a place in `returns`; the end of it if never.
    returned: Vec<usize>,
    /// At each return: calls with an answer that are open then, this one among them.
    open: Lists,
    /// Calls without an answer by invocation, and how many of them are open at each return.
    unanswered: Vec<u32>,
    unanswered_open: Vec<usize>,
    /// What calls without an answer mean: the same number, the same meaning.
    meaning: Vec<u32>,
    /// The place of each call with an answer among those that are open with it; of those without, among all of them.
    place: Vec<u32>,
    places: usize,
    /// Calls that the model says come before this one, as far as the times do not say it.
    before: Vec<Vec<u32>>,
}

impl Plan {
    fn new<M: Model>(part: &Part<M>) -> Plan {
        let steps = &part.steps;
        let mut events: Vec<(u64, bool, u32)> = Vec::with_capacity(steps.len() * 2);
        for (call, span) in (0..).zip(steps) {
            events.push((span.from, false, call));
            events.extend(span.until.map(|until| (until, true, call)));
        }
        events.sort_unstable();
        let mut plan = Plan {
            returns: Vec::new(),
            returned: vec![usize::MAX; steps.len()],
            open: Lists::default(),
            unanswered: Vec::new(),
            unanswered_open: Vec::new(),
            meaning: vec![0; steps.len()],
            place: vec![0; steps.len()],
            places: 0,
            before: vec![Vec::new(); steps.len()],
        };
        let mut open: Vec<u32> = Vec::new();
        let mut free: Vec<u32> = Vec::new();
        let mut meanings = HashMap::new();
        for (_, returns, call) in events {
            let at = call as usize;
            if returns {
                plan.open.push(&open);
                plan.unanswered_open.push(plan.unanswered.len());
                plan.returned[at] = plan.returns.len();
                plan.returns.push(call);
                open.retain(|other| *other != call);
                free.push(plan.place[at]);
                continue;
            }
            let step = &steps[at].step;
            if steps[at].until.is_none() {
                plan.place[at] = plan.unanswered.len() as u32;
                plan.unanswered.push(call);
                let next = meanings.len() as u32;
                plan.meaning[at] = *meanings.entry(step).or_insert(next);
                continue;
            }
            plan.place[at] = free.pop().unwrap_or_else(|| {
                plan.places += 1;
                plan.places as u32 - 1
            });
            for &other in &open {
                let other_step = &steps[other as usize].step;
                if part.model.precedes(other_step, step) {
                    plan.before[at].push(other);
                }
                if part.model.precedes(step, other_step) {
                    plan.before[other as usize].push(call);
                }
            }
            open.push(call);
        }
        plan
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node<S> {
    /// The return to satisfy next, as a place in the plan's.
    at: usize,
    /// Open calls with an answer that are in order already.
    ordered: Bits,
    state: S,
}

/// A node and the calls without an answer that are in order there.
type Entered<S> = (Node<S>, Bits);

/// Calls to put in order next: some without an answer, and one with an answer, and the state after them.
struct Child<S> {
    chain: Vec<u32>,
    call: u32,
    state: S,
}

/// Calls without an answer that may let `call` fit once more of them are added.
struct Attempt<S> {
    call: u32,
    chain: Vec<u32>,
    state: S,
}

/// A node, and what was not tried yet there.
struct Frame<S> {
    node: Node<S>,
    used: Bits,
    /// How many calls are in order at this node.
    depth: usize,
    round: Round<S>,
    children: VecDeque<Child<S>>,
}

/// Which children come next.
enum Round<S> {
    Returning,
    Others,
    Chains(Vec<Attempt<S>>),
}

struct Search<'p, M: Model> {
    part: &'p Part<M>,
    plan: Plan,
    /// Each node that was entered, with the least sets of used calls with which it was.
    seen: HashMap<Node<M::State>, Vec<Bits>>,
    order: Vec<u32>,
    work: u64,
}

/// Looks for an order, visiting at most `states_max` states.
pub(super) fn search<M: Model>(part: &Part<M>, states_max: u64) -> Found {
    let new = || Search { part, plan: Plan::new(part), seen: HashMap::new(), order: Vec::new(), work: 0 };
    let mut first = new();
    let mut furthest = 0;
    let ended = first.run(states_max, |node, _| furthest = furthest.max(node.at));
    let states = first.work;
    let end = match ended {
        None => Ending::OutOfWork,
        Some(true) => Ending::Ordered,
        Some(false) => {
            // Again, to see what it looks like where it got furthest: cheaper than to take notes on every success.
            drop(first);
            let mut again = new();
            let mut stuck = Stuck::default();
            let mut states = HashSet::new();
            let ended = again.run(states_max, |node, order| {
                if node.at == furthest {
                    if states.is_empty() {
                        stuck.prefix = order.iter().map(|&call| call as usize).collect();
                    }
                    if states.len() < STATES_SHOWN {
                        states.insert(node.state.clone());
                    }
                }
            });
            assert_eq!(ended, Some(false), "the same search comes to the same end");
            stuck.call = again.plan.returns[furthest] as usize;
            stuck.states = states.iter().map(|state| part.model.describe(state)).collect();
            stuck.states.sort();
            Ending::Stuck(stuck)
        }
    };
    Found { end, states }
}

impl<M: Model> Search<'_, M> {
    fn step(&self, call: u32) -> &M::Step {
        &self.part.steps[call as usize].step
    }

    fn apply(&self, state: &M::State, call: u32) -> Option<M::State> {
        self.part.model.apply(state, self.step(call))
    }

    fn is_ordered(&self, node: &Node<M::State>, call: u32) -> bool {
        node.ordered.has(self.plan.place[call as usize])
    }

    /// Whether an order was found; `None`: out of work. Shows every node with the order that leads to it.
    fn run(&mut self, states_max: u64, mut visit: impl FnMut(&Node<M::State>, &[u32])) -> Option<bool> {
        let start = self.part.model.start();
        let mut root = Node { at: 0, ordered: Bits::new(self.plan.places), state: start };
        let mut frames = Vec::new();
        self.settle(&mut root);
        if root.at == self.plan.returns.len() {
            return Some(true);
        }
        visit(&root, &self.order);
        frames.push(self.frame((root, Bits::new(self.plan.unanswered.len()))));
        while let Some(frame) = frames.last_mut() {
            let Some(child) = self.next_child(frame) else {
                frames.pop();
                continue;
            };
            self.work += 1;
            if self.work > states_max {
                return None;
            }
            self.order.truncate(frame.depth);
            let mut node = Node { at: frame.node.at, ordered: frame.node.ordered.clone(), state: child.state };
            let mut used = frame.used.clone();
            child.chain.iter().for_each(|call| used.insert(self.plan.place[*call as usize]));
            node.ordered.insert(self.plan.place[child.call as usize]);
            self.order.extend(child.chain);
            self.order.push(child.call);
            self.settle(&mut node);
            if node.at == self.plan.returns.len() {
                return Some(true);
            }
            if let Some(before) = self.seen.get_mut(&node) {
                if before.iter().any(|before| before.is_subset(&used)) {
                    continue;
                }
                before.retain(|before| !used.is_subset(before));
                before.push(used.clone());
            } else {
                self.seen.insert(node.clone(), vec![used.clone()]);
            }
            visit(&node, &self.order);
            frames.push(self.frame((node, used)));
        }
        Some(false)
    }

    fn frame(&self, (node, used): Entered<M::State>) -> Frame<M::State> {
        Frame { node, used, depth: self.order.len(), round: Round::Returning, children: VecDeque::new() }
    }

    /// Puts in order what only looks and fits, and goes to the next return of a call that is not in order.
    fn settle(&mut self, node: &mut Node<M::State>) {
        while let Some(&returning) = self.plan.returns.get(node.at) {
            let mut looked = false;
            if !self.is_ordered(node, returning) {
                for at in 0..self.plan.open.get(node.at).len() {
                    let call = self.plan.open.get(node.at)[at];
                    let looks = !self.is_ordered(node, call) && self.part.model.observes(self.step(call));
                    if looks && self.apply(&node.state, call).as_ref() == Some(&node.state) {
                        node.ordered.insert(self.plan.place[call as usize]);
                        self.order.push(call);
                        looked |= call == returning;
                    }
                }
                if !looked {
                    return;
                }
            }
            node.ordered.remove(self.plan.place[returning as usize]);
            node.at += 1;
        }
    }

    /// Whether a call with an answer may come next.
    fn is_free(&self, node: &Node<M::State>, call: u32) -> bool {
        let done = |&before: &u32| self.plan.returned[before as usize] < node.at || self.has_begun(node, before);
        !self.is_ordered(node, call) && self.plan.before[call as usize].iter().all(done)
    }

    /// Whether a call that has not returned is open and in order.
    fn has_begun(&self, node: &Node<M::State>, call: u32) -> bool {
        self.is_ordered(node, call) && self.plan.open.get(node.at).contains(&call)
    }

    fn next_child(&mut self, frame: &mut Frame<M::State>) -> Option<Child<M::State>> {
        loop {
            if let Some(child) = frame.children.pop_front() {
                return Some(child);
            }
            let node = &frame.node;
            let returning = self.plan.returns[node.at];
            let others = self.plan.open.get(node.at).iter().filter(|call| **call != returning);
            let fit = |call: u32| {
                let state = self.is_free(node, call).then(|| self.apply(&node.state, call)).flatten()?;
                Some(Child { chain: Vec::new(), call, state })
            };
            match &mut frame.round {
                Round::Returning => {
                    frame.children.extend(fit(returning));
                    frame.round = Round::Others;
                }
                Round::Others => {
                    frame.children.extend(others.clone().filter_map(|call| fit(*call)));
                    let candidates = [returning].into_iter().chain(others.copied());
                    let attempts = candidates.filter(|call| self.is_free(node, *call));
                    let attempt = |call| Attempt { call, chain: Vec::new(), state: node.state.clone() };
                    frame.round = Round::Chains(attempts.map(attempt).collect());
                }
                Round::Chains(attempts) if attempts.is_empty() => return None,
                Round::Chains(attempts) => {
                    let attempts = std::mem::take(attempts);
                    let longer = self.lengthen((node, &frame.used), attempts, &mut frame.children);
                    frame.round = Round::Chains(longer);
                }
            }
        }
    }

    /// Adds one more call without an answer to each attempt: those that let the call fit become children.
    fn lengthen(
        &mut self,
        (node, used): (&Node<M::State>, &Bits),
        attempts: Vec<Attempt<M::State>>,
        children: &mut VecDeque<Child<M::State>>,
    ) -> Vec<Attempt<M::State>> {
        let mut longer = Vec::new();
        let mut seen = HashSet::new();
        let mut work = 0;
        let left = self.left(node, used);
        let mut helpers = (u32::MAX, Vec::new());
        for attempt in attempts {
            if helpers.0 != attempt.call {
                helpers = (attempt.call, self.helpers(&left, attempt.call));
            }
            let mut meanings = Vec::new();
            for &unanswered in &helpers.1 {
                let meaning = self.plan.meaning[unanswered as usize];
                if attempt.chain.contains(&unanswered) || meanings.contains(&meaning) {
                    continue;
                }
                meanings.push(meaning);
                let Some(state) = self.apply(&attempt.state, unanswered) else { continue };
                work += 1;
                if state == attempt.state || self.is_idle(&node.state, &attempt.chain, unanswered, &state, false) {
                    continue;
                }
                let mut chain = attempt.chain.clone();
                chain.push(unanswered);
                let mut members = chain.clone();
                members.sort_unstable();
                // The one that can do less goes first: the other can do its work later.
                let does_less = |other: &&u32| {
                    let (can_more, can_less) = (self.step(unanswered), self.step(**other));
                    self.plan.meaning[**other as usize] != meaning
                        && self.part.model.replaces(can_more, can_less)
                        && !chain.contains(other)
                        && self.apply(&attempt.state, **other).as_ref() == Some(&state)
                };
                if helpers.1.iter().find(does_less).is_some() || !seen.insert((attempt.call, members, state.clone())) {
                    continue;
                }
                if let Some(after) = self.apply(&state, attempt.call)
                    && !self.is_idle(&node.state, &chain, attempt.call, &after, true)
                {
                    children.push_back(Child { chain: chain.clone(), call: attempt.call, state: after });
                }
                longer.push(Attempt { call: attempt.call, chain, state });
            }
        }
        self.work += work;
        longer
    }

    /// Calls without an answer that are open, not in order yet, and not hopeless in this state.
    fn left(&self, node: &Node<M::State>, used: &Bits) -> Vec<u32> {
        let open = &self.plan.unanswered[..self.plan.unanswered_open[node.at]];
        let is_left = |call: &u32| {
            let may_follow = || self.part.model.may_follow(&node.state, self.step(*call));
            !used.has(self.plan.place[*call as usize]) && may_follow()
        };
        open.iter().copied().filter(is_left).collect()
    }

    /// Of these, those that may help `call` to fit, or help others to help.
    fn helpers(&self, left: &[u32], call: u32) -> Vec<u32> {
        // One for each meaning is asked, and speaks for all.
        let meaning = |call: &u32| self.plan.meaning[*call as usize];
        let mut rest: Vec<u32> = Vec::new();
        for call in left {
            if !rest.iter().any(|other| meaning(other) == meaning(call)) {
                rest.push(*call);
            }
        }
        let mut meanings = Vec::new();
        let mut helped = vec![call];
        while let Some(helped_call) = helped.pop() {
            rest.retain(|other| {
                let helps = self.part.model.enables(self.step(*other), self.step(helped_call));
                if helps {
                    meanings.push(meaning(other));
                    helped.push(*other);
                }
                !helps
            });
        }
        left.iter().copied().filter(|call| meanings.contains(&meaning(call))).collect()
    }

    /// Whether one of the calls in `chain` makes no difference before `last`, which leads to `end`: without it the end is
    /// the same, or, if `last` has an answer, with it behind `last`.
    fn is_idle(&self, start: &M::State, chain: &[u32], last: u32, end: &M::State, answered: bool) -> bool {
        let without = |left_out: usize| {
            let mut calls = chain.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, call)| *call);
            let state = calls.try_fold(start.clone(), |state, call| self.apply(&state, call))?;
            self.apply(&state, last)
        };
        (0..chain.len()).any(|at| {
            without(at)
                .is_some_and(|state| state == *end || answered && self.apply(&state, chain[at]).as_ref() == Some(end))
        })
    }
}
