use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// With so many regions of one replica.
fn node(node: NodeId, regions: usize) -> Candidate {
    Candidate {
        replicas: regions,
        leaders: regions,
        ..in_zone(node, "")
    }
}

/// A datanode for each of `count` regions of one replica.
fn place(count: usize, nodes: &[Candidate]) -> Result<Vec<NodeId>, Refusal> {
    let placed = place_replicated(count, 1, nodes)?;
    Ok(placed.regions.into_iter().flatten().collect())
}

fn in_zone(node: NodeId, zone: &str) -> Candidate {
    Candidate {
        node,
        alive: true,
        zone: (!zone.is_empty()).then(|| zone.to_owned()),
        replicas: 0,
        leaders: 0,
    }
}

fn in_zones(zones: &[&str]) -> Vec<Candidate> {
    zones
        .iter()
        .enumerate()
        .map(|(i, z)| in_zone(i as NodeId, z))
        .collect()
}

#[test]
fn three_regions_go_to_three_nodes() {
    let chosen = place(3, &[node(0, 5), node(1, 0), node(2, 2)]).unwrap();
    assert_eq!(chosen, [1, 2, 0]);
}

#[test]
fn a_refusal_says_what_is_missing() {
    assert_eq!(place(1, &[]), Err(Refusal::NoDatanode));
    let dead = Candidate {
        alive: false,
        ..node(0, 0)
    };
    assert_eq!(place(1, &[dead]), Err(Refusal::NoneAlive { known: 1 }));
    assert_eq!(
        place_replicated(1, 2, &in_zones(&["", "", ""])),
        Err(Refusal::Replicas { wanted: 2 })
    );
}

#[test]
fn three_regions_of_three_replicas_lead_on_three_nodes() {
    let placed = place_replicated(3, 3, &in_zones(&["", "", ""])).unwrap();
    assert_eq!(placed.regions, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    assert_eq!(placed.shortfall, None);
}

#[test]
fn zones_are_used_as_far_as_there_are_any() {
    let table: &[(&[&str], usize)] = &[
        (&["a", "a", "a", "b", "c"], 3),
        (&["a", "b", "c", "d"], 3),
        (&["a", "a", "a", "b"], 2),
        (&["a", "a", "", "b"], 3),
        (&["", "", "", ""], 1),
    ];
    for (zones, covered) in table {
        let placed = place_replicated(5, 3, &in_zones(zones)).unwrap();
        for region in placed.regions {
            let of: BTreeSet<&str> = region.iter().map(|n| zones[*n as usize]).collect();
            assert_eq!(of.len(), *covered, "{zones:?} {region:?}");
        }
    }
}

#[test]
fn two_living_nodes_give_one_voter_and_say_why() {
    let mut nodes = in_zones(&["", "", ""]);
    nodes[1].alive = false;
    let placed = place_replicated(2, 3, &nodes).unwrap();
    assert_eq!(placed.regions, [[0], [2]]);
    let said = placed.shortfall.unwrap().to_string();
    assert_eq!(
        said,
        "1 voter instead of 3: only 2 of 3 datanodes are alive; wait until others are back"
    );
    let placed = place_replicated(1, 3, &nodes[..1]).unwrap();
    let said = placed.shortfall.unwrap().to_string();
    assert_eq!(
        said,
        "1 voter instead of 3: there are only 1 datanodes; add others"
    );
}

#[test]
fn tables_of_one_region_do_not_all_lead_on_the_first_node() {
    let mut nodes = in_zones(&["", "", "", ""]);
    for _ in 0..8 {
        let region = place_replicated(1, 3, &nodes).unwrap().regions.remove(0);
        nodes[region[0] as usize].leaders += 1;
        for node in region {
            nodes[node as usize].replicas += 1;
        }
    }
    assert!(
        nodes.iter().all(|n| n.leaders == 2 && n.replicas == 6),
        "{nodes:?}"
    );
}

/// Of `nodes`, how often each appears.
fn counts(chosen: impl Iterator<Item = NodeId>, nodes: &[&Candidate]) -> BTreeMap<NodeId, usize> {
    let mut counts: BTreeMap<NodeId, usize> = nodes.iter().map(|n| (n.node, 0)).collect();
    for node in chosen {
        *counts.get_mut(&node).expect("only the living are chosen") += 1;
    }
    counts
}

fn unevenness(counts: &BTreeMap<NodeId, usize>) -> usize {
    counts.values().max().unwrap_or(&0) - counts.values().min().unwrap_or(&0)
}

fn candidates(zones: usize) -> impl Strategy<Value = Vec<Candidate>> {
    let one = (any::<bool>(), 0..=zones, 0usize..50, 0usize..20);
    prop::collection::vec(one, 0..12).prop_map(|nodes| {
        let candidate =
            |(i, (alive, zone, replicas, leaders)): (usize, (bool, usize, usize, usize))| Candidate {
                node: i as NodeId * 7,
                alive,
                zone: (zone > 0).then(|| zone.to_string()),
                replicas,
                leaders,
            };
        nodes.into_iter().enumerate().map(candidate).collect()
    })
}

/// The least sum of squares that any choice of one option for each thing has.
fn least_squares(options: &[Vec<usize>], load: &mut Vec<usize>) -> usize {
    let Some((first, rest)) = options.split_first() else {
        return load.iter().map(|n| n * n).sum();
    };
    let mut least = usize::MAX;
    for option in first {
        load[*option] += 1;
        least = least.min(least_squares(rest, load));
        load[*option] -= 1;
    }
    least
}

proptest! {
    #[test]
    fn a_table_is_spread_evenly_over_the_living(
        loads in prop::collection::vec((0usize..50, any::<bool>()), 1..20),
        count in 0usize..100,
    ) {
        let nodes: Vec<Candidate> = loads
            .iter()
            .enumerate()
            .map(|(i, (regions, alive))| Candidate { alive: *alive, ..node(i as NodeId, *regions) })
            .collect();
        let living: Vec<_> = nodes.iter().filter(|n| n.alive).collect();
        match place(count, &nodes) {
            Err(refusal) => prop_assert!(count > 0 && living.is_empty(), "{refusal}"),
            Ok(chosen) => {
                prop_assert_eq!(chosen.len(), count);
                let of = |n: &Candidate| chosen.iter().filter(|c| **c == n.node).count();
                prop_assert!(nodes.iter().filter(|n| !n.alive).all(|n| of(n) == 0));
                if let (Some(most), Some(least)) =
                    (living.iter().map(|n| of(n)).max(), living.iter().map(|n| of(n)).min())
                {
                    prop_assert!(most - least <= 1);
                }
                prop_assert_eq!(place(count, &nodes).unwrap(), chosen);
            }
        }
    }

    /// Every choice is within the rules, and every refusal and shortfall has its cause.
    #[test]
    fn replicas_are_apart_and_refusals_are_true(
        nodes in candidates(4),
        count in 0usize..40,
        replicas in 0usize..5,
    ) {
        let living: Vec<&Candidate> = nodes.iter().filter(|n| n.alive).collect();
        let placed = match place_replicated(count, replicas, &nodes) {
            Ok(placed) => placed,
            Err(Refusal::Replicas { wanted }) => {
                prop_assert!(wanted == replicas && replicas != 1 && replicas != 3);
                return Ok(());
            }
            Err(Refusal::NoDatanode) => {
                prop_assert!(nodes.is_empty());
                return Ok(());
            }
            Err(Refusal::NoneAlive { known }) => {
                prop_assert!(known == nodes.len() && living.is_empty() && count > 0);
                return Ok(());
            }
        };
        prop_assert!(replicas == 1 || replicas == 3);
        prop_assert!(!nodes.is_empty() && (count == 0 || !living.is_empty()));
        let given = if living.len() >= replicas { replicas } else { 1 };
        prop_assert_eq!(placed.shortfall.is_some(), given < replicas);
        prop_assert_eq!(placed.regions.len(), count);
        let zone = |node: &NodeId| nodes.iter().find(|n| n.node == *node).map(|n| n.zone.clone());
        let zones: BTreeSet<_> = living.iter().map(|n| n.zone.clone()).collect();
        for region in &placed.regions {
            prop_assert_eq!(region.len(), given);
            prop_assert_eq!(region.iter().collect::<BTreeSet<_>>().len(), given);
            let covered: BTreeSet<_> = region.iter().map(zone).collect();
            prop_assert_eq!(covered.len(), given.min(zones.len()));
        }
        counts(placed.regions.iter().flatten().copied(), &living);
        prop_assert_eq!(place_replicated(count, replicas, &nodes).unwrap(), placed);
    }

    /// Without zones, or with zones of equal size.
    #[test]
    fn replicas_leaders_and_hot_followers_are_spread_evenly(
        (per_zone, zones) in prop_oneof![
            (3usize..7, Just(1usize)),
            (1usize..5, 3usize..6),
        ],
        count in 0usize..60,
        load in prop::collection::vec((0usize..30, 0usize..10), 20),
    ) {
        let nodes: Vec<Candidate> = (0..per_zone * zones)
            .map(|i| Candidate {
                replicas: load[i].0,
                leaders: load[i].1,
                ..in_zone(i as NodeId, &(i % zones).to_string())
            })
            .collect();
        let all: Vec<&Candidate> = nodes.iter().collect();
        let placed = place_replicated(count, 3, &nodes).unwrap();
        let nth = |n: usize| counts(placed.regions.iter().map(|r| r[n]), &all);
        let replicas = counts(placed.regions.iter().flatten().copied(), &all);
        prop_assert!(unevenness(&replicas) <= 1, "replicas {replicas:?}");
        prop_assert!(unevenness(&nth(0)) <= 1, "leaders {:?}", nth(0));
        // They are dealt from what the leaders leave.
        prop_assert!(unevenness(&nth(1)) <= 2, "hot {:?}", nth(1));
    }

    #[test]
    fn nothing_can_be_dealt_more_evenly(
        options in prop::collection::vec(prop::collection::btree_set(0usize..5, 1..4), 0..7),
        before in prop::collection::vec(0usize..9, 5),
    ) {
        let options: Vec<Vec<usize>> = options.into_iter().map(|o| o.into_iter().collect()).collect();
        let slices: Vec<&[usize]> = options.iter().map(Vec::as_slice).collect();
        let mut load = [0; 5];
        for (owner, options) in deal(&slices, &before).into_iter().zip(&options) {
            let owner = owner.expect("every thing has an option");
            prop_assert!(options.contains(&owner));
            load[owner] += 1;
        }
        let squares: usize = load.iter().map(|n| n * n).sum();
        prop_assert_eq!(squares, least_squares(&options, &mut vec![0; 5]));
    }
}
