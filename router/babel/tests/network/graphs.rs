//! Graphs: pairs of nodes with a link between them.

/// A ring.
pub(crate) fn ring(nodes: usize) -> Vec<(usize, usize)> {
    (0..nodes).map(|node| (node, (node + 1) % nodes)).collect()
}

/// A square grid, full of equally good ways.
pub(crate) fn grid(side: usize) -> Vec<(usize, usize)> {
    let right = (0..side * side).filter(|node| (node + 1) % side != 0).map(|node| (node, node + 1));
    let down = (0..side * (side - 1)).map(|node| (node, node + side));
    right.chain(down).collect()
}

/// A connected graph: a random tree and as many links more as there are nodes, some of them parallel.
pub(crate) fn random(rng: &mut fastrand::Rng, nodes: usize) -> Vec<(usize, usize)> {
    let mut ends: Vec<_> = (1..nodes).map(|node| (rng.usize(0..node), node)).collect();
    for _ in 0..nodes {
        let (a, b) = (rng.usize(0..nodes), rng.usize(0..nodes));
        if a != b {
            ends.push((a, b));
        }
    }
    ends
}

/// Nodes strewn over a square, numbered from one side to the other: links between those who are near, about `degree` for each, and the shortest links more
/// that connect all.
pub(crate) fn geometric(rng: &mut fastrand::Rng, nodes: usize, degree: f64) -> Vec<(usize, usize)> {
    let mut places: Vec<_> = (0..nodes).map(|_| (rng.f64(), rng.f64())).collect();
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let near = (degree / (std::f64::consts::PI * nodes as f64)).sqrt();
    let mut pairs = pairs_within(&places, near * 8.0);
    pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut parts = Parts((0..nodes).collect());
    let needed = |(length, a, b): (f64, usize, usize)| (parts.join(a, b) || length <= near).then_some((a, b));
    pairs.into_iter().filter_map(needed).collect()
}

/// All pairs of places no farther apart: length, and who.
fn pairs_within(places: &[(f64, f64)], far: f64) -> Vec<(f64, usize, usize)> {
    let length = |a: usize, b: usize| (places[a].0 - places[b].0).hypot(places[a].1 - places[b].1);
    let all = (0..places.len()).flat_map(|b| (0..b).map(move |a| (length(a, b), a, b)));
    all.filter(|(length, ..)| *length <= far).collect()
}

/// Which nodes are connected: each points to another of its part, one to itself.
struct Parts(Vec<usize>);

impl Parts {
    /// Whether the two were apart.
    fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a] = b;
        a != b
    }

    fn root(&mut self, mut node: usize) -> usize {
        while self.0[node] != node {
            self.0[node] = self.0[self.0[node]];
            node = self.0[node];
        }
        node
    }
}
