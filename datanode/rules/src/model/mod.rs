//! A model of what surrounds the log, checked in every order of what may happen, up to small bounds. What it decides
//! it asks the crate, as the datanode does.

mod bucket;
mod checks;
mod leases;
mod process;
mod steps;
mod world;

use std::hash::Hash;

use stateright::{Checker, HasDiscoveries, Model};
use world::{Bounds, World};

/// Checks every state; panics with the shortest way to the first one in which something does not hold.
fn check<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Hash + Send + Sync + Clone + PartialEq + std::fmt::Debug,
    M::Action: Clone + PartialEq + std::fmt::Debug,
{
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    println!(
        "{name}: {} states, {} steps deep",
        checker.unique_state_count(),
        checker.max_depth()
    );
    for (property, path) in checker.discoveries() {
        if checker.model().property(property).expectation == stateright::Expectation::Always {
            let actions: Vec<_> = path.into_actions();
            panic!("counterexample: {property}\n{actions:#?}");
        }
    }
    checker.assert_properties();
}

/// Two processes, of which one leads after the other, and writes that arrive once each.
const BASE: Bounds = Bounds {
    processes: 2,
    terms: 2,
    writes: 2,
    copies: 2,
    answers: false,
    abandoned: 0,
    truncations: 0,
    flushes: 0,
    merges: 0,
    unsure: 0,
    given_up: 0,
    trims: 0,
    crashes: 0,
    lost_ends: 0,
    looks: 0,
    cleanings: 0,
    readers: 0,
    snapshots: 0,
    hot: false,
};

/// One process, and writes that arrive more than once.
const COPIES: Bounds = Bounds {
    processes: 1,
    terms: 1,
    writes: 3,
    copies: 5,
    answers: true,
    ..BASE
};

/// The manifest: a leader that was replaced and does not know it, edits whose puts are not answered, the trim.
#[test]
fn edits_of_two_leaders() {
    let bounds = Bounds {
        flushes: 2,
        unsure: 1,
        trims: 1,
        ..BASE
    };
    let happens = &[
        "a flush is there",
        "two epochs have edits",
        "a leader is deposed by the manifest",
    ];
    check("edits of two leaders", World { bounds, happens });
}

/// One voter: flush, trim, crash, copies of requests.
#[test]
fn restarts() {
    let bounds = Bounds {
        processes: 1,
        copies: 3,
        flushes: 2,
        trims: 1,
        crashes: 1,
        answers: true,
        ..BASE
    };
    let happens = &["a flush is there", "all requests are finished"];
    check("restarts", World { bounds, happens });
}

/// Copies of requests, in any order.
#[test]
fn copies_of_requests() {
    let bounds = COPIES;
    let happens = &["all requests are finished"];
    check("copies of requests", World { bounds, happens });
}

/// Copies of requests that the client has given up, while it goes on with an older one.
#[test]
fn requests_that_are_given_up() {
    let bounds = Bounds {
        abandoned: 2,
        ..COPIES
    };
    let happens = &[
        "all requests are finished",
        "a request is begun after one was given up above the mark",
    ];
    check("requests that are given up", World { bounds, happens });
}

/// A copy of a request that an earlier leader has taken.
#[test]
fn requests_at_two_leaders() {
    let bounds = Bounds {
        copies: 3,
        answers: true,
        flushes: 1,
        trims: 1,
        ..BASE
    };
    let happens = &["all requests are finished"];
    check("requests at two leaders", World { bounds, happens });
}

/// Files that take the place of others.
#[test]
fn merges_of_two_leaders() {
    let bounds = Bounds {
        writes: 3,
        copies: 3,
        flushes: 3,
        merges: 2,
        ..BASE
    };
    let happens = &["a merge is there", "a leader is deposed by the manifest"];
    check("merges of two leaders", World { bounds, happens });
}

/// A merge that ends while nobody knows what became of its edit, and a reader.
#[test]
fn merges_that_fail() {
    let bounds = Bounds {
        processes: 1,
        terms: 1,
        flushes: 2,
        merges: 2,
        unsure: 1,
        given_up: 1,
        looks: 1,
        cleanings: 2,
        readers: 1,
        ..BASE
    };
    let happens = &["a merge is there", "a removed file has gone"];
    check("merges that fail", World { bounds, happens });
}

/// Files that no edit names, or none yet.
#[test]
fn orphans_are_deleted() {
    let bounds = Bounds {
        flushes: 2,
        cleanings: 3,
        ..BASE
    };
    let happens = &["a claim is there"];
    check("orphans are deleted", World { bounds, happens });
}

/// A hot follower: what it does with trims and views, and what it shows once it leads.
#[test]
fn a_follower_comes_to_lead() {
    let bounds = Bounds {
        flushes: 2,
        trims: 1,
        snapshots: 1,
        hot: true,
        ..BASE
    };
    let happens = &["both have trimmed", "a leader has a follower's rows"];
    check("a follower comes to lead", World { bounds, happens });
}

/// What is older than a truncation does not come back.
#[test]
fn truncations() {
    let bounds = Bounds {
        processes: 1,
        truncations: 1,
        flushes: 2,
        trims: 1,
        crashes: 1,
        ..BASE
    };
    let happens = &["a truncation is in files"];
    check("truncations", World { bounds, happens });
}

/// A disk that is as it was before: nobody else has its log.
#[test]
fn a_log_loses_its_end() {
    let bounds = Bounds {
        processes: 1,
        flushes: 1,
        trims: 1,
        lost_ends: 2,
        looks: 1,
        ..BASE
    };
    let happens = &["a region has failed"];
    check("a log loses its end", World { bounds, happens });
}

/// Two metasrv, three voters, beats that come late or never, transfers, elections by metasrv's word and without it.
#[test]
fn leases() {
    let model = leases::Leases {
        session: 4,
        patience: 5,
        beats: 2,
    };
    check("leases", model);
}

/// The same where a metasrv loses its session while voters are still patient.
#[test]
fn leases_of_short_sessions() {
    let model = leases::Leases {
        session: 2,
        patience: 6,
        beats: 1,
    };
    check("leases of short sessions", model);
}
