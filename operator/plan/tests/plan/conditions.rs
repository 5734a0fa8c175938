//! What the conditions and events say, from the first look to the last.

use std::time::Duration;

use greptime_operator_plan::{
    DependencyReport, EventType, Fact, Role, apply_failed, condition_types as types,
};
use serde_json::json;

use crate::support::{NOW, World, condition, healthy, minimal, region, told};

const LATER: &str = "2026-01-02T04:00:00Z";

#[test]
fn a_new_cluster_becomes_ready_step_by_step() {
    let mut world = World::new(minimal());
    let (_, report) = world.reconcile();
    assert_eq!(told(&report, types::READY), "False RollingOut");
    assert_eq!(told(&report, types::AVAILABLE), "False NoFrontend");
    assert_eq!(told(&report, types::PROGRESSING), "True RollingOut");
    assert_eq!(told(&report, types::DEGRADED), "False AsExpected");
    assert_eq!(told(&report, types::NOT_REPLICATED), "Unknown MetasrvUnreachable");
    assert_eq!(report.status.datanode.ready, "0/3");
    assert!(
        report.events.iter().all(|event| event.type_ == EventType::Normal),
        "{:?}",
        report.events
    );
    assert_eq!(report.requeue, Some(Duration::from_secs(1)));

    world.pods_become_ready();
    let (_, report) = world.reconcile();
    assert_eq!(told(&report, types::READY), "Unknown MetasrvUnreachable");

    world.observed.metasrv = Fact::Known(healthy());
    let (_, report) = world.reconcile();
    assert_eq!(told(&report, types::READY), "True AllReady");
    assert_eq!(told(&report, types::AVAILABLE), "True Serving");
    assert_eq!(told(&report, types::PROGRESSING), "False Settled");
    assert_eq!(told(&report, types::DEPENDENCIES_REACHABLE), "True Reachable");
    assert_eq!(told(&report, types::NOT_REPLICATED), "False Replicated");
    assert_eq!(report.status.cluster_id.as_deref(), Some("0198"));
    assert_eq!(report.status.version.as_deref(), Some("0.1.0"));
    assert_eq!(report.status.endpoints.postgres, "demo-frontend.shop.svc:4003");
    assert!(
        report
            .events
            .iter()
            .any(|event| event.reason == "AllReady" && event.type_ == EventType::Normal)
    );
}

#[test]
fn readiness_needs_every_statefulset_rolled_out_by_the_current_spec() {
    for role in Role::ALL {
        let broken: [fn(&mut World, Role); 5] = [
            |world, role| world.live_mut(role).status.as_mut().unwrap().ready_replicas = Some(0),
            |world, role| {
                world.live_mut(role).status.as_mut().unwrap().update_revision = Some("new".to_owned())
            },
            |world, role| world.live_mut(role).metadata.generation = Some(9),
            |world, role| world.live_mut(role).metadata.annotations = None,
            |world, role| world.live_mut(role).status = None,
        ];
        for (i, damage) in broken.into_iter().enumerate() {
            let mut world = World::settled(minimal());
            damage(&mut world, role);
            let (_, report) = world.plan();
            assert_eq!(condition(&report, types::READY).status, "False", "{role:?} {i}");
            assert!(condition(&report, types::READY).message.contains(role.as_str()));
        }
    }
}

#[test]
fn readiness_needs_a_leader_and_a_follower_knows_of_it() {
    let mut world = World::settled(minimal());
    let mut report = healthy();
    report.leader = false;
    world.observed.metasrv = Fact::Known(report.clone());
    assert_eq!(told(&world.plan().1, types::READY), "False NoLeader");
    assert_eq!(told(&world.plan().1, types::AVAILABLE), "False NoLeader");
    report.leader_address = Some("10.0.0.1:3002".to_owned());
    world.observed.metasrv = Fact::Known(report);
    assert_eq!(told(&world.plan().1, types::READY), "True AllReady");
}

#[test]
fn a_dependency_that_is_away_is_named_with_metasrvs_words_and_comes_back() {
    let mut world = World::settled(minimal());
    for (name, said) in [
        ("etcd", "connection refused"),
        ("object_store", "the bucket belongs to cluster 42"),
    ] {
        let mut report = healthy();
        let failing = DependencyReport {
            name: name.to_owned(),
            ok: false,
            message: said.to_owned(),
        };
        report.dependencies.push(failing);
        world.observed.metasrv = Fact::Known(report);
        world.observed.now = LATER.to_owned();
        let (_, told_now) = world.reconcile();
        for type_ in [types::DEPENDENCIES_REACHABLE, types::READY] {
            assert_eq!(told(&told_now, type_), "False DependencyUnreachable");
            assert_eq!(condition(&told_now, type_).message, format!("{name}: {said}"));
        }
        assert_eq!(told(&told_now, types::DEGRADED), "True DependencyUnreachable");
        assert!(
            told_now
                .events
                .iter()
                .any(|event| event.type_ == EventType::Warning)
        );
        world.observed.metasrv = Fact::Known(healthy());
        let (_, mended) = world.reconcile();
        assert_eq!(told(&mended, types::READY), "True AllReady");
        assert!(
            mended
                .events
                .iter()
                .any(|event| event.reason == "DependenciesReachable")
        );
    }
}

#[test]
fn not_knowing_is_told_as_not_knowing() {
    let mut world = World::settled(minimal());
    let mut one_voter = healthy();
    one_voter.regions = vec![region("leading", &[0])];
    world.observed.metasrv = Fact::Known(one_voter);
    let _ = world.reconcile();
    world.observed.metasrv = Fact::Unknown("no route to host".to_owned());
    let (_, report) = world.plan();
    for type_ in [types::READY, types::AVAILABLE, types::DEPENDENCIES_REACHABLE] {
        assert_eq!(told(&report, type_), "Unknown MetasrvUnreachable");
        assert!(condition(&report, type_).message.contains("no route to host"));
    }
    assert_eq!(
        told(&report, types::NOT_REPLICATED),
        "True SingleVoter",
        "what was known stays told"
    );
    assert_eq!(report.status.cluster_id.as_deref(), Some("0198"));
}

#[test]
fn pods_that_fail_after_having_been_ready_degrade_and_pods_that_start_do_not() {
    let mut world = World::settled(minimal());
    world
        .live_mut(Role::Datanode)
        .status
        .as_mut()
        .unwrap()
        .ready_replicas = Some(2);
    let (_, report) = world.plan();
    assert_eq!(told(&report, types::DEGRADED), "True PodsNotReady");
    assert_eq!(told(&report, types::PROGRESSING), "False Settled");
    assert_eq!(told(&report, types::READY), "False PodsNotReady");
    assert_eq!(
        condition(&report, types::READY).message,
        "datanode: 2 of 3 pods ready"
    );

    let mut world = World::new(minimal());
    let _ = world.reconcile();
    world.pods_become_ready();
    world
        .live_mut(Role::Datanode)
        .status
        .as_mut()
        .unwrap()
        .ready_replicas = Some(2);
    let (_, report) = world.plan();
    assert_eq!(told(&report, types::DEGRADED), "False AsExpected");
    assert_eq!(told(&report, types::PROGRESSING), "True Starting");
}

#[test]
fn a_bad_image_is_told_with_the_pods_own_words() {
    let mut world = World::settled(minimal());
    let pod = json!({"metadata": {"name": "demo-frontend-0"}, "status": {"containerStatuses": [{
        "name": "frontend", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "ImagePullBackOff", "message": "manifest for x not found"}},
    }]}});
    world.observed.pods = vec![serde_json::from_value(pod).unwrap()];
    let (_, report) = world.plan();
    assert_eq!(told(&report, types::DEGRADED), "True PodsFailing");
    assert_eq!(
        condition(&report, types::READY).message,
        "pod demo-frontend-0: ImagePullBackOff: manifest for x not found"
    );
}

#[test]
fn regions_that_nobody_serves_are_told_except_while_pods_roll() {
    let mut world = World::settled(minimal());
    let mut report = healthy();
    report.regions = vec![region("leading", &[0]), region("no_leader", &[1])];
    world.observed.metasrv = Fact::Known(report.clone());
    let (_, told_now) = world.plan();
    assert_eq!(told(&told_now, types::DEGRADED), "True RegionsUnavailable");
    assert_eq!(told(&told_now, types::AVAILABLE), "False RegionsUnavailable");
    assert_eq!(
        condition(&told_now, types::READY).message,
        "1 of 2 regions are not served; the first is 1024:0 of table public.cpu: no_leader"
    );
    world
        .live_mut(Role::Datanode)
        .status
        .as_mut()
        .unwrap()
        .updated_replicas = Some(1);
    world
        .live_mut(Role::Datanode)
        .status
        .as_mut()
        .unwrap()
        .update_revision = Some("new".to_owned());
    assert_eq!(told(&world.plan().1, types::DEGRADED), "False AsExpected");
    report.regions.push(region("disk_lost", &[2]));
    world.observed.metasrv = Fact::Known(report);
    assert_eq!(told(&world.plan().1, types::DEGRADED), "True RegionsUnavailable");
}

#[test]
fn what_is_lost_with_a_majority_and_what_there_is_to_be_done_is_told() {
    let mut world = World::settled(minimal());
    let mut report = healthy();
    let waits = "too few of its voters live, 2 are needed; lost: datanode 1, datanode 2; left: datanode 0";
    let mut lost = region("majority_lost", &[0, 1, 2]);
    lost.waiting = Some(waits.to_owned());
    report.regions = vec![region("no_leader", &[1]), lost];
    world.observed.metasrv = Fact::Known(report);
    let (_, told_now) = world.plan();
    assert_eq!(told(&told_now, types::AVAILABLE), "False RegionsUnavailable");
    assert_eq!(
        condition(&told_now, types::DEGRADED).message,
        format!(
            "2 of 2 regions are not served; the first is 1024:0 of table public.cpu: majority_lost, {waits}"
        )
    );
}

#[test]
fn logs_with_several_voters_are_replicated() {
    let mut world = World::settled(minimal());
    let mut report = healthy();
    report.regions = vec![region("leading", &[0, 1, 2])];
    world.observed.metasrv = Fact::Known(report.clone());
    assert_eq!(
        told(&world.reconcile().1, types::NOT_REPLICATED),
        "False Replicated"
    );
    report.regions.push(region("leading", &[0]));
    world.observed.metasrv = Fact::Known(report);
    let report = world.plan().1;
    assert_eq!(told(&report, types::NOT_REPLICATED), "True SingleVoter");
    let message = &condition(&report, types::NOT_REPLICATED).message;
    assert!(message.starts_with("the log of 1 of 2 regions"), "{message}");
}

#[test]
fn two_datanodes_cannot_keep_copies_and_this_is_told_with_what_to_do() {
    let mut spec = minimal();
    spec["datanode"] = json!({"replicas": 2});
    let report = World::settled(spec).plan().1;
    assert_eq!(told(&report, types::NOT_REPLICATED), "True TooFewDatanodes");
    let message = &condition(&report, types::NOT_REPLICATED).message;
    assert!(message.contains("set spec.datanode.replicas to 3"), "{message}");
}

#[test]
fn the_transition_time_moves_only_with_the_status() {
    let mut world = World::settled(minimal());
    let since = |report: &greptime_operator_plan::Report, type_: &str| {
        serde_json::to_value(&condition(report, type_).last_transition_time).unwrap()
    };
    world.observed.now = LATER.to_owned();
    world
        .live_mut(Role::Frontend)
        .status
        .as_mut()
        .unwrap()
        .ready_replicas = Some(0);
    let (_, report) = world.reconcile();
    assert_eq!(since(&report, types::READY), LATER);
    assert_eq!(since(&report, types::SPEC_VALID), NOW);
    world.observed.now = "2026-01-02T05:00:00Z".to_owned();
    world.observed.metasrv = Fact::Unknown("timed out".to_owned());
    let (_, report) = world.reconcile();
    assert_eq!(
        since(&report, types::READY),
        LATER,
        "another reason for the same status"
    );
}

#[test]
fn a_refused_apply_is_told_and_conditions_of_others_are_kept() {
    let mut world = World::settled(minimal());
    let mut foreign = condition(&world.plan().1, types::READY).clone();
    foreign.type_ = "BackupDone".to_owned();
    world
        .observed
        .cluster
        .status
        .as_mut()
        .unwrap()
        .conditions
        .push(foreign);
    let (_, report) = world.plan();
    let report = apply_failed(
        &world.observed,
        report,
        "StatefulSet demo-datanode: exceeded quota",
    );
    assert_eq!(told(&report, types::READY), "False ApplyFailed");
    assert_eq!(told(&report, types::DEGRADED), "True ApplyFailed");
    assert_eq!(told(&report, "BackupDone"), "True AllReady");
    let warned = report
        .events
        .iter()
        .any(|e| e.type_ == EventType::Warning && e.note.contains("exceeded quota"));
    assert!(warned && report.requeue.is_some());
}

#[test]
fn no_frontends_at_all_is_settled_but_not_available() {
    let mut spec = minimal();
    spec["frontend"] = json!({"replicas": 0});
    let world = World::settled(spec);
    let (_, report) = world.plan();
    assert_eq!(told(&report, types::PROGRESSING), "False Settled");
    assert_eq!(told(&report, types::AVAILABLE), "False NoFrontend");
}

#[test]
fn the_version_told_is_the_tag_of_the_image_that_runs() {
    let cases = [
        (None, None, Some("0.1.0")),
        (Some("0.2.0"), None, Some("0.2.0")),
        (Some("0.2.0"), Some("registry:5000/mine:7"), Some("7")),
        (Some("0.2.0"), Some("registry:5000/mine@sha256:ab"), None),
    ];
    for (version, image, expected) in cases {
        let mut spec = minimal();
        spec["version"] = json!(version);
        spec["image"] = json!(image);
        let (_, report) = World::new(spec).plan();
        assert_eq!(
            report.status.version.as_deref(),
            expected,
            "{version:?} {image:?}"
        );
    }
}
