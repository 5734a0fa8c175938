use super::*;

fn lease(holder: &str, version: &str) -> Lease {
    let mut lease = Lease::default();
    lease.metadata.resource_version = Some(version.into());
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(15),
        ..Default::default()
    });
    lease
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_lease_that_does_not_exist_is_created() {
    assert_eq!(decide(None, "a", None, at(0)).0, Step::Create);
}

#[test]
fn ones_own_lease_is_renewed_and_one_given_back_is_taken() {
    assert_eq!(decide(Some(&lease("a", "1")), "a", None, at(0)).0, Step::Renew);
    assert_eq!(decide(Some(&lease("", "1")), "a", None, at(0)).0, Step::TakeOver);
}

#[test]
fn a_lease_is_taken_only_after_it_stayed_the_same_for_its_whole_time() {
    let (step, seen) = decide(Some(&lease("b", "1")), "a", None, at(100));
    assert_eq!(step, Step::Wait);
    let (step, seen) = decide(Some(&lease("b", "1")), "a", seen, at(114));
    assert_eq!(step, Step::Wait);
    let (step, _) = decide(Some(&lease("b", "1")), "a", seen, at(115));
    assert_eq!(step, Step::TakeOver);
}

#[test]
fn a_renewal_starts_the_wait_again() {
    let (_, seen) = decide(Some(&lease("b", "1")), "a", None, at(0));
    let (step, seen) = decide(Some(&lease("b", "2")), "a", seen, at(14));
    assert_eq!(step, Step::Wait);
    assert_eq!(
        decide(Some(&lease("b", "2")), "a", seen.clone(), at(28)).0,
        Step::Wait
    );
    assert_eq!(
        decide(Some(&lease("b", "2")), "a", seen, at(29)).0,
        Step::TakeOver
    );
}
