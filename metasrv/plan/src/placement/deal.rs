//! Deals things out to owners, each thing to one of its own options, as evenly as the options allow.
//!
//! First everything goes to its least loaded option. Then, as long as some owner has two more than another that can
//! be reached from it, a thing is passed on along the way: `a` gives one to `b`, which gives another to `c`. Each such
//! pass makes the sum of squares smaller, so it ends; and when none is left, no other assignment has a smaller one
//! (this is the semi-matching of Harvey, Ladner, Lovász and Tamir, 2003).

use std::collections::VecDeque;

/// For each thing the chosen option; `None` where there are none. `before`: what each owner has already, which
/// decides between equals.
pub(super) fn deal(options: &[&[usize]], before: &[usize]) -> Vec<Option<usize>> {
    let mut load = vec![0usize; before.len()];
    let mut owner = Vec::with_capacity(options.len());
    for thing in options {
        let least = thing
            .iter()
            .copied()
            .min_by_key(|o| (load[*o], load[*o] + before[*o], *o));
        if let Some(least) = least {
            load[least] += 1;
        }
        owner.push(least);
    }
    while let Some(way) = way_down(options, &owner, &load) {
        for (thing, to) in way {
            if let Some(from) = owner[thing].replace(to) {
                load[from] -= 1;
            }
            load[to] += 1;
        }
    }
    owner
}

/// Things to pass on, from an owner to one that has at least two less.
fn way_down(options: &[&[usize]], owner: &[Option<usize>], load: &[usize]) -> Option<Vec<(usize, usize)>> {
    let mut owned: Vec<Vec<usize>> = vec![vec![]; load.len()];
    for (thing, owner) in owner.iter().enumerate() {
        if let Some(owner) = owner {
            owned[*owner].push(thing);
        }
    }
    let least = load.iter().min()?;
    let mut from: Vec<usize> = (0..load.len()).filter(|o| load[*o] >= least + 2).collect();
    from.sort_by_key(|o| (usize::MAX - load[*o], *o));
    from.into_iter()
        .find_map(|start| way_from(start, options, &owned, load))
}

/// The shortest such way from one owner.
fn way_from(
    start: usize,
    options: &[&[usize]],
    owned: &[Vec<usize>],
    load: &[usize],
) -> Option<Vec<(usize, usize)>> {
    // By what thing, and from whom, an owner was reached.
    let mut reached: Vec<Option<(usize, usize)>> = vec![None; load.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for thing in &owned[at] {
            for to in options[*thing] {
                if *to == start || reached[*to].is_some() {
                    continue;
                }
                reached[*to] = Some((*thing, at));
                if load[*to] + 2 <= load[start] {
                    return Some(way_back(*to, start, &reached));
                }
                queue.push_back(*to);
            }
        }
    }
    None
}

fn way_back(end: usize, start: usize, reached: &[Option<(usize, usize)>]) -> Vec<(usize, usize)> {
    let mut way = vec![];
    let mut at = end;
    while at != start {
        let Some((thing, from)) = reached[at] else { break };
        way.push((thing, at));
        at = from;
    }
    way
}
