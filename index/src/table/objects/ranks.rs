//! Ranks: numbered members in the order of their scores, found by rank and by score in logarithmic time.
//!
//! ```text
//!                    branch: first | count | child,  first | count | child, ...
//!                             /                             \
//!   leaf: score number, score number, ...                    leaf: ...
//! ```
//!
//! A tree of wide nodes whose branches know of each child how many there are below it and which comes first. It is changed
//! by rank only: whoever knows the order (of equal scores the members decide, which are kept elsewhere) finds the rank
//! first.
//!
//! Always: all leaves are equally far from the root, and none is empty but a root.

const LEAF_MAX: usize = 64;
const BRANCH_MAX: usize = 32;

/// A member's score and its number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ranked {
    pub score: f64,
    pub number: u32,
}

/// The tree.
#[derive(Debug, Clone)]
pub(super) struct Ranks {
    root: Node,
    len: usize,
    nodes: Nodes,
}

/// How many nodes there are.
#[derive(Debug, Clone, Copy)]
struct Nodes {
    leaves: usize,
    branches: usize,
}

#[derive(Debug, Clone)]
enum Node {
    Leaf(Box<Leaf>),
    Branch(Box<Branch>),
}

#[derive(Debug, Clone)]
struct Leaf {
    len: usize,
    scores: [f64; LEAF_MAX],
    numbers: [u32; LEAF_MAX],
}

#[derive(Debug)]
struct Branch {
    /// Never more than one too many, and room for so many from the beginning.
    children: Vec<Child>,
}

#[derive(Debug, Clone)]
struct Child {
    first: Ranked,
    count: usize,
    node: Node,
}

impl Clone for Branch {
    fn clone(&self) -> Branch {
        Branch::of(self.children.iter().cloned())
    }
}

impl Branch {
    fn of(children: impl Iterator<Item = Child>) -> Branch {
        let mut of = Vec::with_capacity(BRANCH_MAX + 1);
        of.extend(children);
        Branch { children: of }
    }

    /// The child that has the entry of this rank, and its rank there.
    fn child_of(&self, mut rank: usize) -> (usize, usize) {
        let mut child = 0;
        while child + 1 < self.children.len() && rank >= self.children[child].count {
            rank -= self.children[child].count;
            child += 1;
        }
        (child, rank)
    }
}

impl Leaf {
    fn new() -> Box<Leaf> {
        Box::new(Leaf { len: 0, scores: [0.0; LEAF_MAX], numbers: [0; LEAF_MAX] })
    }

    fn get(&self, at: usize) -> Ranked {
        Ranked { score: self.scores[at], number: self.numbers[at] }
    }

    fn insert(&mut self, at: usize, ranked: Ranked) {
        self.scores.copy_within(at..self.len, at + 1);
        self.numbers.copy_within(at..self.len, at + 1);
        (self.scores[at], self.numbers[at]) = (ranked.score, ranked.number);
        self.len += 1;
    }

    fn remove(&mut self, at: usize) -> Ranked {
        let removed = self.get(at);
        self.scores.copy_within(at + 1..self.len, at);
        self.numbers.copy_within(at + 1..self.len, at);
        self.len -= 1;
        removed
    }

    /// Moves the entries from a place on into a new leaf.
    fn split(&mut self, at: usize) -> Box<Leaf> {
        let mut second = Leaf::new();
        second.append(&self.scores[at..self.len], &self.numbers[at..self.len]);
        self.len = at;
        second
    }

    fn append(&mut self, scores: &[f64], numbers: &[u32]) {
        let end = self.len + scores.len();
        self.scores[self.len..end].copy_from_slice(scores);
        self.numbers[self.len..end].copy_from_slice(numbers);
        self.len = end;
    }
}

impl Node {
    fn first(&self) -> Ranked {
        match self {
            Node::Leaf(leaf) => leaf.get(0),
            Node::Branch(branch) => branch.children[0].first,
        }
    }

    /// How many entries or children it has itself.
    fn width(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.len,
            Node::Branch(branch) => branch.children.len(),
        }
    }

    fn is_narrow(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.len < LEAF_MAX / 4,
            Node::Branch(branch) => branch.children.len() < BRANCH_MAX / 4,
        }
    }

    /// Puts an entry at a rank. A node that was full gives up its second part.
    fn insert(&mut self, at: usize, ranked: Ranked, nodes: &mut Nodes) -> Option<Child> {
        match self {
            Node::Leaf(leaf) if leaf.len < LEAF_MAX => {
                leaf.insert(at, ranked);
                None
            }
            Node::Leaf(leaf) => {
                // What comes in order fills the leaves.
                let middle = if at == LEAF_MAX || at == 0 { at } else { LEAF_MAX / 2 };
                let mut second = leaf.split(middle);
                if at < middle || at == 0 {
                    leaf.insert(at, ranked);
                } else {
                    second.insert(at - middle, ranked);
                }
                nodes.leaves += 1;
                Some(Child { first: second.get(0), count: second.len, node: Node::Leaf(second) })
            }
            Node::Branch(branch) => {
                let (mut child, mut within) = branch.child_of(at);
                if within == 0 && child > 0 {
                    // The end of the one before will do, and keeps the first of this one what it is.
                    child -= 1;
                    within = branch.children[child].count;
                }
                let below = &mut branch.children[child];
                below.count += 1;
                if within == 0 {
                    below.first = ranked;
                }
                let second = below.node.insert(within, ranked, nodes)?;
                below.count -= second.count;
                branch.children.insert(child + 1, second);
                let len = branch.children.len();
                if len <= BRANCH_MAX {
                    return None;
                }
                let middle = if child + 2 == len { len - 1 } else { len / 2 };
                let second = Branch::of(branch.children.drain(middle..));
                nodes.branches += 1;
                let count = second.children.iter().map(|child| child.count).sum();
                Some(Child { first: second.children[0].first, count, node: Node::Branch(Box::new(second)) })
            }
        }
    }

    fn remove(&mut self, at: usize, nodes: &mut Nodes) -> Ranked {
        match self {
            Node::Leaf(leaf) => leaf.remove(at),
            Node::Branch(branch) => {
                let (place, within) = branch.child_of(at);
                let child = &mut branch.children[place];
                child.count -= 1;
                let removed = child.node.remove(within, nodes);
                if child.count == 0 {
                    nodes.forget(&child.node);
                    branch.children.remove(place);
                    return removed;
                }
                if within == 0 {
                    child.first = child.node.first();
                }
                if child.node.is_narrow() {
                    branch.join(place.saturating_sub(1), nodes);
                    branch.join(place, nodes);
                }
                removed
            }
        }
    }
}

impl Branch {
    /// Makes one of a child and the next, if there is one and it leaves room to grow.
    fn join(&mut self, place: usize, nodes: &mut Nodes) {
        let Some([left, right]) = self.children.get_mut(place..place + 2) else { return };
        let width = left.node.width() + right.node.width();
        match (&mut left.node, &mut right.node) {
            (Node::Leaf(left), Node::Leaf(right)) if width <= LEAF_MAX / 2 => {
                left.append(&right.scores[..right.len], &right.numbers[..right.len]);
            }
            (Node::Branch(left), Node::Branch(right)) if width <= BRANCH_MAX / 2 => {
                left.children.append(&mut right.children);
            }
            _ => return,
        }
        left.count += right.count;
        nodes.forget(&right.node);
        self.children.remove(place + 1);
    }
}

impl Nodes {
    fn forget(&mut self, node: &Node) {
        match node {
            Node::Leaf(_) => self.leaves -= 1,
            Node::Branch(_) => self.branches -= 1,
        }
    }
}

impl Default for Ranks {
    fn default() -> Ranks {
        Ranks { root: Node::Leaf(Leaf::new()), len: 0, nodes: Nodes { leaves: 1, branches: 0 } }
    }
}

impl Ranks {
    /// What its allocations take.
    pub fn heap_bytes(&self) -> usize {
        let branch = crate::table::allocated(size_of::<Branch>())
            + crate::table::allocated((BRANCH_MAX + 1) * size_of::<Child>());
        self.nodes.leaves * crate::table::allocated(size_of::<Leaf>()) + self.nodes.branches * branch
    }

    /// Puts an entry at a rank; those from there on have the next ranks.
    pub fn insert(&mut self, at: usize, ranked: Ranked) {
        self.len += 1;
        if let Some(second) = self.root.insert(at, ranked, &mut self.nodes) {
            let first = std::mem::replace(&mut self.root, Node::Branch(Box::new(Branch::of(std::iter::empty()))));
            self.nodes.branches += 1;
            let first = Child { first: first.first(), count: self.len - second.count, node: first };
            if let Node::Branch(root) = &mut self.root {
                root.children.extend([first, second]);
            }
        }
    }

    /// Removes the entry of a rank, which is there.
    pub fn remove(&mut self, at: usize) -> Ranked {
        self.len -= 1;
        let removed = self.root.remove(at, &mut self.nodes);
        while let Node::Branch(branch) = &mut self.root {
            let node = match branch.children.len() {
                0 => {
                    self.nodes.leaves += 1;
                    Node::Leaf(Leaf::new())
                }
                1 => match branch.children.pop() {
                    Some(child) => child.node,
                    None => unreachable!("there is one"),
                },
                _ => break,
            };
            self.nodes.branches -= 1;
            self.root = node;
        }
        removed
    }

    /// Gives the entry of a rank another number.
    pub fn renumber(&mut self, at: usize, number: u32) {
        let (mut node, mut at) = (&mut self.root, at);
        loop {
            match node {
                Node::Leaf(leaf) => {
                    leaf.numbers[at] = number;
                    return;
                }
                Node::Branch(branch) => {
                    let (place, within) = branch.child_of(at);
                    let child = &mut branch.children[place];
                    if within == 0 {
                        child.first.number = number;
                    }
                    (node, at) = (&mut child.node, within);
                }
            }
        }
    }

    /// How many entries at the beginning are so; those after them are not.
    pub fn partition(&self, mut so: impl FnMut(Ranked) -> bool) -> usize {
        let (mut node, mut before) = (&self.root, 0);
        loop {
            match node {
                Node::Branch(branch) => {
                    let place = branch.children.partition_point(|child| so(child.first)).saturating_sub(1);
                    before += branch.children[..place].iter().map(|child| child.count).sum::<usize>();
                    node = &branch.children[place].node;
                }
                Node::Leaf(leaf) => {
                    let (mut low, mut high) = (0, leaf.len);
                    while low < high {
                        let middle = (low + high) / 2;
                        if so(leaf.get(middle)) {
                            low = middle + 1;
                        } else {
                            high = middle;
                        }
                    }
                    return before + low;
                }
            }
        }
    }

    fn leaf_of(&self, at: usize) -> (&Leaf, usize) {
        let (mut node, mut at) = (&self.root, at);
        loop {
            match node {
                Node::Leaf(leaf) => return (leaf, at),
                Node::Branch(branch) => {
                    let (place, within) = branch.child_of(at);
                    (node, at) = (&branch.children[place].node, within);
                }
            }
        }
    }

    /// The entry of a rank, which is there.
    pub fn get(&self, at: usize) -> Ranked {
        let (leaf, at) = self.leaf_of(at);
        leaf.get(at)
    }

    /// The entries of these ranks, which are there.
    pub fn iter(&self, ranks: std::ops::Range<usize>) -> RanksIter<'_> {
        RanksIter { ranks: self, first: ranks.start, end: ranks.end, front: None, back: None }
    }
}

/// Walks entries from either end.
#[derive(Debug, Clone)]
pub(super) struct RanksIter<'r> {
    ranks: &'r Ranks,
    first: usize,
    end: usize,
    /// The leaf that has the next entry, and its place there.
    front: Option<(&'r Leaf, usize)>,
    back: Option<(&'r Leaf, usize)>,
}

impl Iterator for RanksIter<'_> {
    type Item = Ranked;

    fn next(&mut self) -> Option<Ranked> {
        if self.first >= self.end {
            return None;
        }
        let (leaf, at) = self.front.unwrap_or_else(|| self.ranks.leaf_of(self.first));
        self.front = (at + 1 < leaf.len).then_some((leaf, at + 1));
        self.first += 1;
        Some(leaf.get(at))
    }
}

impl DoubleEndedIterator for RanksIter<'_> {
    fn next_back(&mut self) -> Option<Ranked> {
        if self.first >= self.end {
            return None;
        }
        self.end -= 1;
        let (leaf, at) = self.back.unwrap_or_else(|| self.ranks.leaf_of(self.end));
        self.back = at.checked_sub(1).map(|before| (leaf, before));
        Some(leaf.get(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::call::Chance;

    /// Counts nodes, and checks what branches know of their children.
    fn walk(node: &Node, nodes: &mut Nodes) -> (usize, usize) {
        match node {
            Node::Leaf(leaf) => {
                nodes.leaves += 1;
                (leaf.len, 0)
            }
            Node::Branch(branch) => {
                nodes.branches += 1;
                assert!((1..=BRANCH_MAX).contains(&branch.children.len()));
                let mut total = 0;
                let mut depths = Vec::new();
                for child in &branch.children {
                    let (count, depth) = walk(&child.node, nodes);
                    assert!(count == child.count && count > 0);
                    assert_eq!(child.node.first().number, child.first.number);
                    assert_eq!(child.node.first().score.to_bits(), child.first.score.to_bits());
                    total += count;
                    depths.push(depth);
                }
                assert!(depths.windows(2).all(|two| two[0] == two[1]));
                (total, depths[0] + 1)
            }
        }
    }

    fn check(ranks: &Ranks, model: &[u32], seed: u64) {
        let mut nodes = Nodes { leaves: 0, branches: 0 };
        assert_eq!(walk(&ranks.root, &mut nodes).0, model.len(), "seed {seed}");
        assert_eq!((ranks.nodes.leaves, ranks.nodes.branches), (nodes.leaves, nodes.branches), "seed {seed}");
        assert!(ranks.iter(0..model.len()).map(|ranked| ranked.number).eq(model.iter().copied()), "seed {seed}");
        let backward = ranks.iter(0..model.len()).rev().map(|ranked| ranked.number);
        assert!(backward.eq(model.iter().rev().copied()), "seed {seed}");
    }

    #[test]
    fn it_is_what_a_vector_would_be() {
        for seed in 0..120 {
            let mut chance = Chance::new(seed);
            let (mut ranks, mut model): (Ranks, Vec<u32>) = (Ranks::default(), Vec::new());
            let (way, most) = (chance.below(4), 1 + chance.below(9_000));
            for number in 0..most as u32 {
                let at = match way {
                    0 => model.len(),
                    1 => 0,
                    2 => model.len() / 2,
                    _ => chance.below(model.len() + 1),
                };
                ranks.insert(at, Ranked { score: f64::from(number), number });
                model.insert(at, number);
            }
            check(&ranks, &model, seed);
            let order: Vec<u32> = model.clone();
            for number in &order {
                if chance.below(3) == 0 {
                    continue;
                }
                let at = if chance.below(2) == 0 { chance.below(model.len()) } else { 0 };
                assert_eq!(ranks.get(at).number, model[at], "seed {seed}");
                assert_eq!(ranks.remove(at).number, model.remove(at), "seed {seed}");
                if chance.below(10) == 0 && !model.is_empty() {
                    let at = chance.below(model.len());
                    ranks.renumber(at, *number + 100_000);
                    model[at] = *number + 100_000;
                }
            }
            check(&ranks, &model, seed);
            while ranks.len > 0 {
                ranks.remove(chance.below(ranks.len));
            }
            check(&ranks, &[], seed);
        }
    }

    #[test]
    fn what_is_at_the_beginning_is_counted() {
        for len in [0, 1, 63, 64, 65, 5_000] {
            let mut ranks = Ranks::default();
            for number in 0..len {
                ranks.insert(number as usize, Ranked { score: f64::from(number), number });
            }
            for bound in [0, 1, 2, 63, 64, 65, 66, 2_047, 2_048, 2_049, 4_999, 5_000, 6_000] {
                let counted = ranks.partition(|ranked| ranked.score < f64::from(bound));
                assert_eq!(counted, bound.min(len) as usize, "{bound} of {len}");
            }
        }
    }
}
