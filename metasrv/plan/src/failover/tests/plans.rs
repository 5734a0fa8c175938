use super::*;
use greptime_types::RegionId;

fn snapshot(regions: impl IntoIterator<Item = RegionSeen>) -> Snapshot {
    let regions = regions.into_iter().enumerate();
    Snapshot {
        regions: regions.map(|(i, r)| (id(i as u32), r)).collect(),
    }
}

fn id(number: u32) -> RegionId {
    RegionId::new(7, number)
}

fn killed_leader() -> RegionSeen {
    region([killed(), alive(), alive()])
}

#[test]
fn a_plan_has_the_steps_and_the_report_the_rest() {
    let steps = [
        killed_leader(),
        region([alive(), alive(), alive()]),
        region([unwell(), alive(), alive()]),
        region([killed(), killed(), alive()]),
        region([suspect(), alive(), alive()]),
        region([unwell(), unwell(), unwell()]),
    ];
    let (plan, report) = plan(&snapshot(steps), &Policy::default(), NOW);
    let numbers = |ids: Vec<&RegionId>| ids.iter().map(|id| id.number()).collect::<Vec<_>>();
    assert_eq!(
        plan.campaigns,
        [Campaign {
            region: id(0),
            node: 2,
            raft_id: 101,
            seen_term: 5
        }]
    );
    assert_eq!(
        plan.transfers,
        [Transfer {
            region: id(2),
            from: 1,
            to: 2
        }]
    );
    assert_eq!(numbers(plan.withheld.iter().collect()), [0]);
    assert_eq!(numbers(report.unserved.keys().collect()), [0, 3, 4]);
    assert_eq!(numbers(report.misplaced.keys().collect()), [2, 5]);
}

#[test]
fn campaigns_have_a_limit_that_counts_those_under_way() {
    let policy = Policy {
        campaigns_at_once: 3,
        ..Policy::default()
    };
    let mut regions = vec![killed_leader(); 5];
    regions[1].tried.push(tried(Attempt::Campaign, 2, 50));
    let (plan, report) = plan(&snapshot(regions), &policy, NOW);
    let sent: Vec<u32> = plan.campaigns.iter().map(|c| c.region.number()).collect();
    assert_eq!(sent, [0, 2]);
    assert_eq!(
        report.unserved[&id(3)].to_string(),
        "waits for its turn: 3 at once are under way"
    );
    assert_eq!(report.unserved.len(), 5);
    assert_eq!(plan.withheld.len(), 5, "also those that wait for their turn");
}

#[test]
fn a_campaign_that_never_has_an_effect_starves_nobody() {
    let policy = Policy {
        campaigns_at_once: 1,
        ..Policy::default()
    };
    let mut regions = vec![killed_leader(); 3];
    let mut sent = vec![];
    for _ in 0..6 {
        let (plan, report) = plan(&snapshot(regions.clone()), &policy, NOW);
        assert_eq!(report.unserved.len(), 3);
        let number = plan.campaigns[0].region.number();
        sent.push(number);
        let tried = tried(Attempt::Campaign, plan.campaigns[0].node, 1_000);
        regions[number as usize].tried.push(tried);
    }
    assert_eq!(sent, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn who_leads_badly_hands_over_before_who_only_leads_cold() {
    let policy = Policy {
        transfers_at_once: 1,
        ..Policy::default()
    };
    let mut cold = region([alive(), alive(), alive()]);
    cold.voters[0].leads = None;
    cold.voters[2].leads = Some(5);
    let (plan, report) = plan(
        &snapshot([cold, region([unwell(), alive(), alive()])]),
        &policy,
        NOW,
    );
    assert_eq!(plan.transfers.len(), 1);
    assert_eq!(plan.transfers[0].region, id(1));
    assert_eq!(report.misplaced.len(), 2);
    assert!(report.unserved.is_empty());
}
