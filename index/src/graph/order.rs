//! The order in which nodes lie in a file: those that are linked close to each other, as far as a line allows.
//!
//! A search goes from a node to its links. Where these lie near each other, some come with the same page, and the
//! processor's table of pages is asked for fewer. The order is that of a walk in breadth from the entry: what a node is
//! linked with and was not met before lies side by side.

use std::collections::VecDeque;

use super::{FlatGraph, GraphRef, GraphShape, NO_LINK};

/// Which node comes first, second, and so on.
pub(crate) fn of(graph: &FlatGraph) -> Vec<u32> {
    let Some(shape) = graph.shape() else { return Vec::new() };
    let nodes = shape.nodes();
    let lent = GraphRef::new(&shape, &graph.layer0, &graph.upper);
    let mut met = vec![false; nodes as usize];
    let mut order = Vec::with_capacity(nodes as usize);
    let mut queue = VecDeque::new();
    for start in lent.entries().iter().copied().chain(0..nodes) {
        if std::mem::replace(&mut met[start as usize], true) {
            continue;
        }
        queue.push_back(start);
        while let Some(node) = queue.pop_front() {
            order.push(node);
            for link in lent.links(node) {
                if !std::mem::replace(&mut met[link as usize], true) {
                    queue.push_back(link);
                }
            }
        }
    }
    order
}

/// Puts the nodes of a graph into another order: `order` says which comes first, second, and so on.
pub(crate) fn arrange(graph: &mut FlatGraph, order: &[u32]) {
    let Some(shape) = graph.shape() else { return };
    let mut new_of = vec![NO_LINK; order.len()];
    (0..).zip(order).for_each(|(new, &old)| new_of[old as usize] = new);
    let renamed = |old: u32| if old == NO_LINK { NO_LINK } else { new_of[old as usize] };
    let width = shape.width();
    let row = |&old: &u32| &graph.layer0[old as usize * width..(old as usize + 1) * width];
    graph.layer0 = order.iter().flat_map(row).map(|&link| renamed(link)).collect();
    let GraphShape { entries, layers, .. } = &shape;
    let ids = layers.iter().map(|layer| layer.ids.clone());
    // Above layer 1, what is below is a place, and places stay as they are.
    let below = layers.first().map(|layer| layer.below.clone());
    for range in std::iter::once(4..4 + entries.len()).chain(ids).chain(below) {
        graph.upper[range].iter_mut().for_each(|node| *node = renamed(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring of six with two layers above it.
    fn ring() -> FlatGraph {
        let links = |i: u32| [(i + 1) % 6, (i + 5) % 6, NO_LINK, NO_LINK];
        let layer0 = (0..6).flat_map(links).collect();
        // Nodes 2 and 4 in layer 1, linked with each other; 4 in layer 2, at place 1 of layer 1.
        let upper = vec![6, 2, 2, 1, 4, 2, 2, 4, 2, 4, 1, NO_LINK, 0, NO_LINK, 1, 4, 1, NO_LINK, NO_LINK];
        FlatGraph { layer0, upper }
    }

    #[test]
    fn what_is_linked_lies_side_by_side_and_the_graph_is_the_same() {
        let mut graph = ring();
        let order = of(&graph);
        assert_eq!(order, [4, 5, 3, 0, 2, 1]);
        arrange(&mut graph, &order);
        let shape = graph.shape().expect("is a graph");
        let lent = GraphRef::new(&shape, &graph.layer0, &graph.upper);
        assert_eq!(lent.entries(), [0]);
        let before = ring();
        for (new, &old) in (0u32..).zip(&order) {
            let links: Vec<u32> = lent.links(new).map(|link| order[link as usize]).collect();
            assert_eq!(links, before.layer0[old as usize * 4..old as usize * 4 + 2], "node {old}");
        }
        assert_eq!(graph.upper, [6, 2, 2, 1, 0, 2, 4, 0, 4, 0, 1, NO_LINK, 0, NO_LINK, 1, 0, 1, NO_LINK, NO_LINK]);
    }
}
