//! Leader election against an API server in memory.

mod support;

use std::sync::Arc;
use std::time::Duration;

use greptime_clock::ManualClock;
use greptime_operator::lease::{Elector, LEASE};

use support::{ApiServer, Fault};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases";

struct Pair {
    api: ApiServer,
    clock: Arc<ManualClock>,
    a: Elector,
    b: Elector,
}

fn pair() -> Pair {
    let api = ApiServer::new();
    let clock = ManualClock::shared();
    let elector = |identity: &str| Elector::new(api.client(), "system", "lease", identity, clock.clone());
    Pair {
        a: elector("a"),
        b: elector("b"),
        clock: clock.clone(),
        api: api.clone(),
    }
}

#[tokio::test]
async fn the_first_one_leads_and_the_second_waits_while_it_renews() {
    let Pair {
        clock,
        mut a,
        mut b,
        api,
    } = pair();
    assert_eq!(a.attempt().await, Ok(true));
    for _ in 0..10 {
        assert_eq!(b.attempt().await, Ok(false));
        clock.advance(Duration::from_secs(5));
        assert_eq!(a.attempt().await, Ok(true));
    }
    assert_eq!(api.get(LEASES, "lease").unwrap()["spec"]["holderIdentity"], "a");
}

#[tokio::test]
async fn a_leader_that_is_gone_is_followed_after_its_lease() {
    let Pair {
        clock,
        mut a,
        mut b,
        api,
    } = pair();
    a.attempt().await.unwrap();
    assert_eq!(b.attempt().await, Ok(false));
    clock.advance(LEASE - Duration::from_secs(1));
    assert_eq!(b.attempt().await, Ok(false));
    clock.advance(Duration::from_secs(1));
    assert_eq!(b.attempt().await, Ok(true));
    // And the first one, should it still live, learns that it lost.
    assert_eq!(a.attempt().await, Ok(false));
    let spec = api.get(LEASES, "lease").unwrap()["spec"].clone();
    assert_eq!(
        (spec["holderIdentity"].as_str(), spec["leaseTransitions"].as_i64()),
        (Some("b"), Some(1))
    );
}

#[tokio::test]
async fn a_lease_that_is_given_back_is_free_at_once() {
    let Pair { mut a, mut b, .. } = pair();
    a.attempt().await.unwrap();
    assert_eq!(b.attempt().await, Ok(false));
    a.release().await;
    assert_eq!(b.attempt().await, Ok(true));
    // What is not one's own is not given back.
    a.release().await;
    assert_eq!(b.attempt().await, Ok(true));
}

#[tokio::test]
async fn of_two_who_try_at_once_one_gets_it() {
    let Pair {
        api,
        mut a,
        mut b,
        clock,
    } = pair();
    a.attempt().await.unwrap();
    assert_eq!(b.attempt().await, Ok(false));
    clock.advance(LEASE);
    api.fail(Fault {
        method: "PUT",
        path: "leases",
        code: 409,
        reason: "Conflict",
        times: 1,
    });
    assert_eq!(b.attempt().await, Ok(false));
    assert!(b.attempt().await.is_ok());
}

#[tokio::test]
async fn a_container_that_restarts_in_its_pod_goes_on_with_its_own_lease() {
    let Pair {
        api, clock, mut a, ..
    } = pair();
    a.attempt().await.unwrap();
    let mut again = Elector::new(api.client(), "system", "lease", "a", clock);
    assert_eq!(again.attempt().await, Ok(true));
}

#[tokio::test]
async fn an_api_server_in_trouble_is_an_error_and_not_a_loss() {
    let Pair { api, mut a, .. } = pair();
    a.attempt().await.unwrap();
    api.fail(Fault {
        method: "GET",
        path: "leases",
        code: 500,
        reason: "InternalError",
        times: 1,
    });
    assert!(a.attempt().await.is_err());
    assert_eq!(a.attempt().await, Ok(true));
}
