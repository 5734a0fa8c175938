//! Until datanodes can be drained, the StatefulSet of the datanodes is never lowered.

use greptime_operator_plan::{Fact, PlannedEvent, Role, condition_types as types};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{World, condition, datanodes, healthy, minimal, region, stateful_set, told};

#[derive(Clone, Debug)]
enum Step {
    Ask(i32),
    BreakSpec,
    MendSpec,
    DeleteStatefulSet,
    MetasrvIsSilent,
    MetasrvAnswers,
    PodsBecomeReady,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..9).prop_map(Step::Ask),
        1 => Just(Step::BreakSpec),
        1 => Just(Step::MendSpec),
        1 => Just(Step::DeleteStatefulSet),
        1 => Just(Step::MetasrvIsSilent),
        1 => Just(Step::MetasrvAnswers),
        2 => Just(Step::PodsBecomeReady),
    ];
    prop::collection::vec(step, 1..40)
}

fn take(world: &mut World, step: &Step) {
    match step {
        Step::Ask(replicas) => world.edit(|spec| spec["datanode"]["replicas"] = json!(replicas)),
        Step::BreakSpec => world.edit(|spec| spec["objectStorage"]["s3"]["bucket"] = json!("")),
        Step::MendSpec => world.edit(|spec| spec["objectStorage"]["s3"]["bucket"] = json!("rows")),
        Step::DeleteStatefulSet => {
            // Somebody who deletes it while no pod runs yet has lost nothing that the operator could know of.
            let name = Role::Datanode.child_name(&world.observed.cluster);
            let told = world
                .observed
                .cluster
                .status
                .as_ref()
                .map_or(0, |status| status.datanode.replicas);
            let wanted = world
                .observed
                .stateful_sets
                .get(&name)
                .and_then(|set| set.spec.replicas);
            if wanted == Some(told) {
                world.observed.stateful_sets.remove(&name);
            }
        }
        Step::MetasrvIsSilent => world.observed.metasrv = Fact::Unknown("timed out".to_owned()),
        Step::MetasrvAnswers => world.observed.metasrv = Fact::Known(healthy()),
        Step::PodsBecomeReady => world.pods_become_ready(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_number_never_falls(steps in steps()) {
        let mut world = World::settled(minimal());
        let mut highest = 3;
        for step in &steps {
            take(&mut world, step);
            let (plan, report) = world.reconcile();
            let Some(planned) = datanodes(&plan) else { continue };
            prop_assert!(planned >= highest, "{planned} after {highest} at {step:?}");
            highest = planned;
            let asked = world.observed.cluster.spec.datanode.replicas;
            let blocked = condition(&report, types::SCALE_IN_BLOCKED).status == "True";
            prop_assert_eq!(blocked, asked < planned);
            prop_assert!(asked >= planned || condition(&report, types::SCALE_IN_BLOCKED).message.contains("set spec"));
        }
    }

    #[test]
    fn a_second_look_at_an_unchanged_world_says_the_same_and_tells_nothing(steps in steps()) {
        let mut world = World::settled(minimal());
        for step in &steps {
            take(&mut world, step);
            let _ = world.reconcile();
            // Planning from what was just written may still conclude something; from then on nothing.
            let settled = world.reconcile();
            world.observed.now = "2030-01-01T00:00:00Z".to_owned();
            let (plan, report) = world.reconcile();
            prop_assert_eq!(&plan, &settled.0);
            prop_assert_eq!(&report.status, &settled.1.status);
            prop_assert!(report.events.is_empty());
        }
    }
}

#[test]
fn a_smaller_number_is_refused_and_the_rest_of_the_spec_still_applies() {
    let mut world = World::settled(minimal());
    world.edit(|spec| {
        spec["datanode"]["replicas"] = json!(1);
        spec["datanode"]["config"] = json!({"log.level": "debug"});
    });
    let before = world.live_mut(Role::Datanode).spec.template.clone();
    let (plan, report) = world.plan();
    assert_eq!(datanodes(&plan), Some(3));
    assert_ne!(stateful_set(&plan, Role::Datanode).unwrap().spec.template, before);
    assert_eq!(told(&report, types::SCALE_IN_BLOCKED), "True DrainNotSupported");
    assert!(
        report
            .events
            .iter()
            .any(|event| event.reason == "DrainNotSupported")
    );
}

#[test]
fn a_refused_number_does_not_disturb_readiness_and_asking_for_what_is_there_ends_it() {
    let mut world = World::settled(minimal());
    world.edit(|spec| spec["datanode"]["replicas"] = json!(2));
    let report = world.settle();
    assert_eq!(told(&report, types::READY), "True AllReady");
    assert_eq!(report.status.observed_generation, Some(2));
    world.edit(|spec| spec["datanode"]["replicas"] = json!(3));
    let (_, report) = world.reconcile();
    assert_eq!(told(&report, types::SCALE_IN_BLOCKED), "False NotAsked");
    assert!(
        report
            .events
            .iter()
            .any(|event| event.reason == "ScaleInUnblocked")
    );
}

#[test]
fn a_statefulset_lowered_by_hand_is_raised_to_where_the_regions_are() {
    let mut world = World::settled(minimal());
    world.edit(|spec| spec["datanode"]["replicas"] = json!(2));
    world.live_mut(Role::Datanode).spec.replicas = Some(2);
    let mut report = healthy();
    report.regions = vec![region("no_leader", &[2])];
    world.observed.metasrv = Fact::Known(report);
    assert_eq!(datanodes(&world.plan().0), Some(3));
}

#[test]
fn a_metasrv_that_speaks_of_absurd_nodes_is_not_obeyed() {
    let mut world = World::settled(minimal());
    let mut report = healthy();
    report.regions = vec![region("leading", &[u64::MAX])];
    world.observed.metasrv = Fact::Known(report);
    assert_eq!(datanodes(&world.plan().0), Some(3));
}

#[test]
fn a_datanode_statefulset_that_vanished_comes_back_as_large_as_it_was() {
    let mut spec = minimal();
    spec["datanode"] = json!({"replicas": 5});
    let mut world = World::settled(spec);
    world.edit(|spec| spec["datanode"]["replicas"] = json!(1));
    let _ = world.settle();
    world.observed.stateful_sets.remove("demo-datanode");
    // The first attempt may fail after the status was written.
    let (_, report) = world.plan();
    world.observed.cluster.status = Some(report.status);
    assert_eq!(datanodes(&world.plan().0), Some(5));
}

#[test]
fn more_datanodes_are_simply_made() {
    let mut world = World::settled(minimal());
    world.edit(|spec| spec["datanode"]["replicas"] = json!(6));
    assert_eq!(datanodes(&world.plan().0), Some(6));
}

#[test]
fn a_statefulset_raised_by_hand_stays_raised_and_is_told_as_blocked() {
    let mut world = World::settled(minimal());
    world.live_mut(Role::Datanode).spec.replicas = Some(5);
    let (plan, report) = world.plan();
    assert_eq!(datanodes(&plan), Some(5));
    assert_eq!(told(&report, types::SCALE_IN_BLOCKED), "True DrainNotSupported");
    let message = &condition(&report, types::SCALE_IN_BLOCKED).message;
    assert!(
        message.contains("3 datanodes are asked for, 5 are kept"),
        "{message}"
    );
}

/// What a spec begins with, what is asked for later, and what the volumes have.
fn storage_changes() -> Vec<(Value, Value, &'static str)> {
    let classed = json!({"size": "100Gi", "storageClassName": "fast"});
    vec![
        (json!({}), json!({"size": "20Gi"}), "volumes have 10Gi:"),
        (json!({}), json!({"size": "5Gi"}), "volumes have 10Gi:"),
        (
            json!({}),
            json!({"storageClassName": "fast"}),
            "volumes have 10Gi:",
        ),
        (
            classed.clone(),
            json!({"size": "100Gi"}),
            "volumes have 100Gi of class fast:",
        ),
        (classed, json!({}), "volumes have 100Gi of class fast:"),
    ]
}

#[test]
fn volumes_keep_their_size_and_class_and_the_condition_says_so_until_the_spec_is_set_back() {
    for (first, asked, said) in storage_changes() {
        let mut spec = minimal();
        spec["datanode"] = json!({"storage": first});
        let mut world = World::settled(spec);
        let before = world.live_mut(Role::Datanode).spec.clone();
        world.edit(|spec| spec["datanode"]["storage"] = asked.clone());
        let (plan, report) = world.reconcile();
        assert_eq!(
            stateful_set(&plan, Role::Datanode).unwrap().spec,
            before,
            "{asked}"
        );
        assert_eq!(
            told(&report, types::STORAGE_CHANGE_BLOCKED),
            "True ResizeNotSupported"
        );
        let message = &condition(&report, types::STORAGE_CHANGE_BLOCKED).message;
        assert!(message.contains(said), "{message}");
        world.edit(|spec| spec["datanode"]["storage"] = first.clone());
        let (_, report) = world.reconcile();
        assert_eq!(told(&report, types::STORAGE_CHANGE_BLOCKED), "False NotAsked");
        let unblocked = |event: &PlannedEvent| event.reason == "StorageChangeUnblocked";
        assert!(report.events.iter().any(unblocked));
    }
}

#[test]
fn a_size_may_be_written_in_another_way() {
    let mut world = World::settled(minimal());
    world.edit(|spec| spec["datanode"]["storage"] = json!({"size": "10240Mi"}));
    assert_eq!(
        told(&world.plan().1, types::STORAGE_CHANGE_BLOCKED),
        "False NotAsked"
    );
}

#[test]
fn a_statefulset_takes_its_volumes_along_only_if_the_spec_itself_says_so() {
    let cases = [
        ("Delete", json!({}), "Retain"),
        ("Delete", json!({"whenDeleted": "Retain"}), "Retain"),
        ("Delete", json!({"whenDeleted": "Delete"}), "Delete"),
        ("Retain", json!({"whenDeleted": "Delete"}), "Delete"),
    ];
    for (policy, retention, expected) in cases {
        let mut spec = minimal();
        spec["deletionPolicy"] = json!(policy);
        spec["datanode"] = json!({"retention": retention});
        let (plan, _) = World::new(spec).plan();
        let set = stateful_set(&plan, Role::Datanode).unwrap();
        let rendered = set.spec.persistent_volume_claim_retention_policy.clone().unwrap();
        assert_eq!(
            rendered.when_deleted.as_deref(),
            Some(expected),
            "{policy} {retention}"
        );
    }
}
