//! Compactions and deletions on a node whose bucket fails, whose power goes, and whose place others take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use greptime_object_store::Bucket;
use greptime_proto::v1;
use greptime_types::{Change, ErrorKind};
use object_store::ObjectStoreExt;
use object_store::path::Path;

use crate::compaction::{CleanPolicy, Step, Wanted};
use crate::config::DatanodeConfig;
use crate::manifest::{ManifestStore, View};
use crate::region::Region;
use crate::testing::{
    Dice, Node, PutFault, Row, SkewedClock, WriteOptions, batch, row, rows_of, seeds, table,
};

const EVERYTHING: Wanted = Wanted {
    everything: true,
    quiet: true,
};

/// What is over is deleted at once; nothing is listed by itself.
const NOW: CleanPolicy = CleanPolicy {
    grace: Duration::ZERO,
    listing: Duration::from_secs(3600),
};
const LATER: CleanPolicy = CleanPolicy {
    grace: Duration::from_secs(3600),
    listing: Duration::from_secs(3600),
};

fn region(node: &Node) -> Arc<Region> {
    Arc::clone(&node.datanode.regions().all()[0])
}

fn manifest(node: &Node) -> ManifestStore {
    let bucket = Bucket {
        store: node.store.clone(),
        root: Path::from("test/root"),
    };
    ManifestStore::new(bucket, node.region)
}

async fn view(node: &Node) -> View {
    manifest(node).load(0).await.unwrap()
}

async fn files(node: &Node) -> Vec<String> {
    let keys = node.store.keys().await.into_iter();
    keys.filter(|k| k.contains("/sst/")).collect()
}

fn sst(name: &str) -> Path {
    Path::from(format!("test/root/1024/0/sst/{name}.parquet"))
}

/// One file for each of the given batches of rows.
async fn flushed(node: &Node, batches: &[&[Row]]) {
    for rows in batches {
        node.write(rows).await.unwrap();
        node.flush().await.unwrap();
    }
}

async fn delete(node: &Node, host: &str, ts: i64) {
    let options = WriteOptions {
        op: v1::WriteOp::Delete,
        ..node.options()
    };
    let identity = batch(&[row(host, ts, 0.0)]).project(&[0, 1]).unwrap();
    node.write_batch(options, &identity).await.unwrap();
}

async fn known(node: &Node) {
    node.wait_for("files are known", || region(node).snapshot().is_ok())
        .await;
}

/// Nothing is compacted by itself.
pub(super) fn by_hand() -> DatanodeConfig {
    DatanodeConfig {
        compaction_active_runs: 1000,
        compaction_inactive_runs: 1000,
        compaction_soft_runs: 10_000,
        compaction_hard_runs: 20_000,
        ..DatanodeConfig::default()
    }
}

async fn four_files() -> (Node, Vec<Row>) {
    let node = Node::with(by_hand(), false).await;
    flushed(
        &node,
        &[
            &[row("a", 1, 1.0), row("b", 1, 1.0), row("c", 1, 1.0)],
            &[row("a", 1, 2.0), row("d", 2, 2.0)],
            &[row("e", 3, 3.0)],
            &[row("a", 1, 4.0)],
        ],
    )
    .await;
    let rows = node.read().await.unwrap();
    (node, rows)
}

#[tokio::test]
async fn everything_becomes_one_file_with_the_same_rows() {
    let (node, rows) = four_files().await;
    let request = v1::CompactRequest {
        header: node.header(),
        region_id: node.region.as_u64(),
    };
    let answer = node.datanode.compact(request).await.unwrap();
    let view = view(&node).await;
    assert_eq!(view.files.len(), 1);
    assert_eq!((answer.files_before, answer.files_after), (4, 1));
    let metrics = &node.datanode.metrics;
    assert_eq!(metrics.flush_bytes.get(), answer.bytes_read);
    assert_eq!(metrics.compaction_bytes_written.get(), answer.bytes_written);
    assert_eq!(
        (metrics.compactions.get(), metrics.compaction_files.get()),
        (1, 4)
    );
    let file = view.files.values().next().unwrap();
    assert_eq!(file.rows, rows.len() as u64, "overwritten rows are gone");
    assert_eq!(file.level, 1);
    assert_eq!(node.read().await.unwrap(), rows);
    // What is newer than the merged file wins.
    node.write(&[row("a", 1, 5.0)]).await.unwrap();
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap()[0], row("a", 1, 5.0));
    let node = node.crash().await;
    known(&node).await;
    assert_eq!(node.read().await.unwrap()[0], row("a", 1, 5.0));
}

#[tokio::test]
async fn an_appending_table_keeps_every_row() {
    let node = Node::with(by_hand(), true).await;
    flushed(
        &node,
        &[
            &[row("a", 1, 1.0)],
            &[row("a", 1, 1.0), row("b", 2, 2.0)],
            &[row("a", 1, 1.0)],
        ],
    )
    .await;
    let rows = node.read().await.unwrap();
    node.datanode.compact_one(&region(&node)).await.unwrap();
    assert_eq!(view(&node).await.files.len(), 1);
    assert_eq!(node.read().await.unwrap(), rows);
    assert_eq!(rows.len(), 4);
}

#[tokio::test]
async fn deletes_go_when_nothing_older_is_left_and_stay_before() {
    let node = Node::with(by_hand(), false).await;
    flushed(&node, &[&[row("a", 1, 1.0), row("b", 1, 1.0)]]).await;
    delete(&node, "a", 1).await;
    node.flush().await.unwrap();
    flushed(&node, &[&[row("c", 1, 1.0)]]).await;
    // The two newest alone: the delete hides a row of the oldest.
    let region = region(&node);
    let mut decision = node.datanode.compactor.decide(&region, EVERYTHING).unwrap();
    let crate::compaction::Plan::Merge(merge) = &mut decision.plan else {
        panic!("there is something to merge");
    };
    let mut by_age: Vec<_> = decision.view.files.values().cloned().collect();
    by_age.sort_by_key(|f| f.max_sequence);
    merge.inputs = by_age[1..].iter().map(|f| f.name.clone()).collect();
    merge.inputs.sort();
    (merge.min_sequence, merge.drop_deletes) = (by_age[1].min_sequence, false);
    let step = node
        .datanode
        .compactor
        .carry_out(&region, decision)
        .await
        .unwrap();
    assert!(
        matches!(step, Step::Merged(m) if (m.inputs, m.outputs) == (2, 1)),
        "{step:?}"
    );
    assert_eq!(node.read().await.unwrap(), [row("b", 1, 1.0), row("c", 1, 1.0)]);
    node.datanode.compact_one(&region).await.unwrap();
    let view = view(&node).await;
    let file = view.files.values().next().unwrap();
    assert_eq!((view.files.len(), file.rows, file.deletes), (1, 2, 0));
    assert_eq!(node.read().await.unwrap(), [row("b", 1, 1.0), row("c", 1, 1.0)]);
}

#[tokio::test]
async fn too_many_runs_are_merged_without_being_asked() {
    let config = DatanodeConfig {
        compaction_active_runs: 2,
        ..DatanodeConfig::default()
    };
    let node = Node::with(config, false).await;
    for i in 0..12 {
        flushed(&node, &[&[row("a", i, i as f64), row("b", 0, i as f64)]]).await;
    }
    let few = || region(&node).with_state(|s| s.view().is_some_and(|v| v.files.len() <= 6));
    node.wait_for("few files are left", few).await;
    let rows = node.read().await.unwrap();
    assert_eq!(rows.len(), 13);
    assert_eq!(rows[12], row("b", 0, 11.0));
}

#[tokio::test]
async fn a_flush_goes_on_while_files_are_merged_and_both_count() {
    let (node, _) = four_files().await;
    let region = region(&node);
    node.store.hold_puts("/sst/", 1);
    let meanwhile = async {
        node.wait_for("the outcome is being uploaded", || node.store.holding() == 1)
            .await;
        node.write(&[row("a", 1, 9.0), row("f", 9, 9.0)]).await.unwrap();
        let flush = tokio::time::timeout(Duration::from_secs(5), node.flush());
        flush.await.expect("a flush waits for a merge").unwrap();
        assert_eq!(view(&node).await.files.len(), 5);
        node.store.release_puts();
    };
    let (compacted, ()) = tokio::join!(node.datanode.compact_one(&region), meanwhile);
    compacted.unwrap();
    let rows = node.read().await.unwrap();
    assert_eq!(rows[0], row("a", 1, 9.0), "{rows:?}");
    assert_eq!(rows.len(), 6);
    assert_eq!(view(&node).await.files.len(), 1);
}

/// A compaction that waits before its edit, and what somebody else puts meanwhile.
async fn while_merging(node: &Node, meanwhile: impl AsyncFnOnce(&View)) -> greptime_types::Result<Step> {
    let region = region(node);
    let decision = node.datanode.compactor.decide(&region, EVERYTHING).unwrap();
    let view = Arc::clone(&decision.view);
    node.store.hold_puts("/manifest/", 1);
    let compaction = node.datanode.compactor.carry_out(&region, decision);
    let intrusion = async {
        node.wait_for("the edit is being put", || node.store.holding() == 1)
            .await;
        meanwhile(&view).await;
        node.store.release_puts();
    };
    let (step, ()) = tokio::join!(compaction, intrusion);
    step
}

async fn intrude(node: &Node, edit: crate::manifest::Edit) {
    let key = manifest(node).key(edit.version);
    node.store.put(&key, edit.encode().unwrap().into()).await.unwrap();
}

#[tokio::test]
async fn an_edit_that_lost_its_version_is_made_anew_if_its_files_still_fit() {
    let (node, rows) = four_files().await;
    let step = while_merging(&node, async |view| {
        intrude(&node, view.edit_files(1, "another".into()).unwrap()).await;
    });
    let step = step.await.unwrap();
    assert!(
        matches!(step, Step::Merged(m) if (m.inputs, m.outputs) == (4, 1)),
        "{step:?}"
    );
    let after = view(&node).await;
    assert_eq!((after.version, after.files.len()), (6, 1));
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn outputs_are_thrown_away_when_an_input_has_gone() {
    let (node, _) = four_files().await;
    let before = files(&node).await;
    let step = while_merging(&node, async |view| {
        let mut edit = view.edit_files(1, "another".into()).unwrap();
        let oldest = view.files.values().min_by_key(|f| f.max_sequence).unwrap();
        edit.remove.push(oldest.name.clone());
        intrude(&node, edit).await;
    });
    assert_eq!(step.await.unwrap(), Step::Overtaken);
    assert_eq!(
        files(&node).await,
        before,
        "the upload that no edit names is deleted, and nothing else"
    );
    let rows = node.read().await.unwrap();
    assert_eq!(rows, [row("a", 1, 4.0), row("d", 2, 2.0), row("e", 3, 3.0)]);
    node.datanode.compact_one(&region(&node)).await.unwrap();
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_stale_leader_stops_at_its_edit_and_deletes_nothing() {
    let (node, _) = four_files().await;
    let before = files(&node).await;
    let step = while_merging(&node, async |view| {
        intrude(&node, view.edit_files(1000, "the new leader".into()).unwrap()).await;
    });
    assert_eq!(step.await.unwrap_err().kind, ErrorKind::Conflict);
    let report = &node.datanode.reports()[0];
    assert_eq!(report.role, i32::from(v1::RegionRole::Failed));
    let error = node
        .datanode
        .compactor
        .clean(&region(&node), NOW)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let after = files(&node).await;
    assert!(before.iter().all(|f| after.contains(f)), "an input was deleted");
    assert_eq!(view(&node).await.files.len(), 4);
}

#[tokio::test]
async fn after_an_edit_whose_outcome_is_unknown_its_files_stay() {
    let (node, _) = four_files().await;
    let before = files(&node).await;
    // What lies at the version cannot be read: it may be the own edit, damaged.
    let step = while_merging(&node, async |view| {
        let key = manifest(&node).key(view.version + 1);
        node.store.put(&key, "?".into()).await.unwrap();
    });
    let error = step.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corruption, "{error}");
    assert_eq!(
        files(&node).await.len(),
        before.len() + 1,
        "the upload may be named"
    );
}

#[tokio::test]
async fn a_put_that_happened_but_answered_an_error_is_found() {
    for key in ["/manifest/", "/sst/"] {
        let (node, rows) = four_files().await;
        node.store.fail_puts(key, PutFault::AnswerLost, 1);
        while node.datanode.compact_one(&region(&node)).await.is_err() {}
        assert_eq!(node.store.faults_left(), 0);
        let view = view(&node).await;
        assert_eq!((view.version, view.files.len()), (5, 1), "one edit, not two");
        assert_eq!(node.read().await.unwrap(), rows);
    }
}

#[tokio::test]
async fn replaced_files_are_deleted_after_the_grace_period_and_not_before() {
    let (node, rows) = four_files().await;
    let region = region(&node);
    node.datanode.compact_one(&region).await.unwrap();
    let compactor = &node.datanode.compactor;
    assert_eq!(compactor.clean(&region, LATER).await.unwrap(), 0);
    assert_eq!(files(&node).await.len(), 5);
    assert_eq!(view(&node).await.removed.len(), 4);
    assert_eq!(compactor.clean(&region, NOW).await.unwrap(), 4);
    assert_eq!(files(&node).await.len(), 1);
    assert_eq!(compactor.clean(&region, NOW).await.unwrap(), 0, "once");
    assert_eq!(node.read().await.unwrap(), rows);
    // The next edit says so.
    flushed(&node, &[&[row("x", 1, 1.0)]]).await;
    node.datanode.compact_one(&region).await.unwrap();
    assert_eq!(
        view(&node).await.removed.len(),
        2,
        "the four are forgotten, two are new"
    );
}

#[tokio::test]
async fn a_wall_clock_that_jumps_does_not_shorten_the_grace_period() {
    let clock = SkewedClock::at(1_800_000_000_000);
    let node = Node::with_clock(by_hand(), table(1024, false), clock.clone()).await;
    flushed(&node, &[&[row("a", 1, 1.0)], &[row("b", 1, 1.0)]]).await;
    let region = region(&node);
    node.datanode.compact_one(&region).await.unwrap();
    for wall_ms in [1_800_000_000_000, 1_900_000_000_000] {
        clock.set_wall_ms(wall_ms);
        assert_eq!(node.datanode.compactor.clean(&region, LATER).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_restarted_leader_deletes_what_its_predecessor_removed_but_first_makes_itself_known() {
    let (node, rows) = four_files().await;
    node.datanode.compact_one(&region(&node)).await.unwrap();
    let node = node.crash().await;
    known(&node).await;
    let region = region(&node);
    let compactor = &node.datanode.compactor;
    assert_eq!(
        compactor.clean(&region, LATER).await.unwrap(),
        0,
        "readers get the whole period again"
    );
    // An edit cannot be put, so nothing is deleted.
    node.store.hold_puts("/manifest/", usize::MAX);
    let cleaning = compactor.clean(&region, NOW);
    tokio::time::timeout(Duration::from_millis(100), cleaning)
        .await
        .unwrap_err();
    assert_eq!(files(&node).await.len(), 5);
    node.store.release_puts();
    assert_eq!(compactor.clean(&region, NOW).await.unwrap(), 4);
    assert_eq!(files(&node).await.len(), 1);
    let view = view(&node).await;
    assert_eq!(view.epoch, node.datanode.reports()[0].epoch);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_delete_that_fails_is_tried_again() {
    let (node, rows) = four_files().await;
    let region = region(&node);
    node.datanode.compact_one(&region).await.unwrap();
    node.store.fail_deletes(2);
    let compactor = &node.datanode.compactor;
    assert_eq!(compactor.clean(&region, NOW).await.unwrap(), 2);
    assert_eq!(compactor.clean(&region, NOW).await.unwrap(), 2);
    assert_eq!(files(&node).await.len(), 1);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_reader_that_began_before_goes_on_with_replaced_files_and_a_new_one_does_without() {
    let (node, rows) = four_files().await;
    let region = region(&node);
    let request = node.scan_request(node.spec());
    let reading = node.datanode.query(request).await.unwrap().rows;
    node.datanode.compact_one(&region).await.unwrap();
    node.datanode.compactor.clean(&region, LATER).await.unwrap();
    let batches: Vec<_> = reading.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|b| b.num_rows()).sum::<usize>(), rows.len());
    node.datanode.compactor.clean(&region, NOW).await.unwrap();
    assert_eq!(files(&node).await.len(), 1);
    let mut found: Vec<Row> = node
        .scan(node.spec())
        .await
        .unwrap()
        .iter()
        .flat_map(rows_of)
        .collect();
    found.sort_by(|a, b| a.partial_cmp(b).unwrap());
    assert_eq!(found, rows);
}

#[tokio::test]
async fn only_files_of_older_epochs_that_nothing_names_are_orphans() {
    let (node, rows) = four_files().await;
    let node = node.crash().await;
    known(&node).await;
    let (region, epoch) = (region(&node), node.datanode.reports()[0].epoch);
    let before = files(&node).await;
    let strangers = [
        format!("{epoch}-own"),
        format!("{}-later", epoch + 1),
        "unknown".into(),
    ];
    for name in strangers.iter().chain([&format!("{}-orphan", epoch - 1)]) {
        node.store.put(&sst(name), "x".into()).await.unwrap();
    }
    let compactor = &node.datanode.compactor;
    assert_eq!(
        compactor.collect(&region, epoch, LATER).await.unwrap(),
        0,
        "it is too young"
    );
    let deleted = compactor.collect(&region, epoch, NOW).await.unwrap();
    assert_eq!(deleted, 1);
    let left = files(&node).await;
    let expected = before
        .iter()
        .cloned()
        .chain(strangers.iter().map(|s| sst(s).to_string()));
    assert!(expected.clone().all(|f| left.contains(&f)), "{left:?}");
    assert_eq!(left.len(), before.len() + 3);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn without_an_own_edit_the_collector_deletes_nothing() {
    let (node, _) = four_files().await;
    let node = node.crash().await;
    known(&node).await;
    let (region, epoch) = (region(&node), node.datanode.reports()[0].epoch);
    let name = format!("{}-of-a-stale-leader", epoch - 1);
    node.store.put(&sst(&name), "x".into()).await.unwrap();
    // The stale leader is about to put its edit; this leader's own edit does not get through.
    node.store.hold_puts("/manifest/", usize::MAX);
    let collecting = node.datanode.compactor.collect(&region, epoch, NOW);
    tokio::time::timeout(Duration::from_millis(100), collecting)
        .await
        .unwrap_err();
    node.store.head(&sst(&name)).await.unwrap();
}

#[tokio::test]
async fn a_listing_that_lags_harms_nobody() {
    let (node, _) = four_files().await;
    let node = node.crash().await;
    known(&node).await;
    let (region, epoch) = (region(&node), node.datanode.reports()[0].epoch);
    let compactor = &node.datanode.compactor;
    node.store.set_listing_lags(true).await;
    // Replaced files are deleted and still listed; the merged file is there and is not.
    node.datanode.compact_one(&region).await.unwrap();
    flushed(&node, &[&[row("new", 1, 1.0)]]).await;
    let rows = node.read().await.unwrap();
    compactor.clean(&region, NOW).await.unwrap();
    compactor.collect(&region, epoch, NOW).await.unwrap();
    node.store.set_listing_lags(false).await;
    compactor.collect(&region, epoch, NOW).await.unwrap();
    assert_eq!(files(&node).await.len(), 2);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn rows_live_their_time_whole_files_first() {
    let mut of = table(1024, false);
    of.options.ttl = Some("1d".parse().unwrap());
    let node = Node::of(by_hand(), of).await;
    let now = node.datanode.clock.wall_ms();
    let region = region(&node);
    // Nothing is dropped by itself for now.
    let guard = region.compaction.lock().await;
    let (day, hour) = (86_400_000, 3_600_000);
    flushed(
        &node,
        &[
            &[row("old", now - 3 * day, 1.0), row("old", now - 2 * day, 1.0)],
            &[
                row("half", now - day - 60_000, 1.0),
                row("half", now - day + hour, 1.0),
            ],
            &[row("new", now - day + hour / 2, 1.0)],
        ],
    )
    .await;
    let expired = view(&node)
        .await
        .files
        .values()
        .filter(|f| f.max_time < now - day)
        .count();
    let decision = node
        .datanode
        .compactor
        .decide(&region, Wanted::default())
        .unwrap();
    let step = node
        .datanode
        .compactor
        .carry_out(&region, decision)
        .await
        .unwrap();
    assert!(expired >= 2, "rows of several days are in several files");
    assert_eq!(step, Step::Dropped { files: expired });
    drop(guard);
    node.datanode.compact_one(&region).await.unwrap();
    let view = view(&node).await;
    let rows: u64 = view.files.values().map(|f| f.rows).sum();
    assert_eq!(rows, 2, "of the rows named half one is left: {:?}", view.files);
    assert!(view.files.values().all(|f| f.min_time >= now - day));
}

#[tokio::test]
async fn rows_that_have_lived_their_time_are_not_shown_wherever_they_lie() {
    let mut of = table(1024, false);
    of.options.ttl = Some("1d".parse().unwrap());
    let node = Node::of(by_hand(), of).await;
    let region = region(&node);
    let _nothing_is_merged = region.compaction.lock().await;
    let now = node.datanode.clock.wall_ms();
    let (day, hour) = (86_400_000, 3_600_000);
    let young = row("a", now - hour, 1.0);
    let rows = [row("a", now - day - hour, 1.0), young];
    node.write(&rows).await.unwrap();
    assert_eq!(node.read().await.unwrap(), rows[1..], "in memory");
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), rows[1..], "in files");
}

#[tokio::test]
async fn a_merge_larger_than_a_file_becomes_several_that_share_no_identity() {
    let config = DatanodeConfig {
        compaction_file_size: 1 << 20,
        ..by_hand()
    };
    let node = Node::with(config, false).await;
    let mut state = 1_u64;
    let mut host = || {
        let letters = (0..600).map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            char::from(b'!' + ((state >> 33) % 90) as u8)
        });
        letters.collect::<String>()
    };
    for _ in 0..2 {
        let rows: Vec<Row> = (0..3000).map(|i| row(&host(), i % 3, 1.0)).collect();
        flushed(&node, &[&rows]).await;
    }
    let rows = node.read().await.unwrap();
    node.datanode.compact_one(&region(&node)).await.unwrap();
    let view = view(&node).await;
    assert!(view.files.len() >= 3, "{} files", view.files.len());
    for file in view.files.values() {
        assert!(file.bytes <= 1 << 20, "{} bytes", file.bytes);
    }
    assert_eq!(region(&node).runs(), 0, "they are one run, and a full one");
    assert_eq!(view.files.values().map(|f| f.rows).sum::<u64>(), 6000);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn windows_of_time_have_files_of_their_own() {
    let mut of = table(1024, false);
    let option = "compaction.twcs.time_window".to_owned();
    of.options.extra.insert(option, "7days".into());
    let node = Node::of(by_hand(), of).await;
    let week = 7 * 86_400_000;
    flushed(
        &node,
        &[
            &[row("a", 0, 1.0), row("a", 1000, 1.0)],
            &[row("a", 5, 1.0), row("b", 6, 1.0)],
            &[row("late", 3 * week, 1.0), row("a", 5, 2.0)],
        ],
    )
    .await;
    let rows = node.read().await.unwrap();
    node.datanode.compact_one(&region(&node)).await.unwrap();
    let view = view(&node).await;
    let mut times: Vec<_> = view.files.values().map(|f| (f.min_time, f.max_time)).collect();
    times.sort_unstable();
    assert_eq!(times, [(0, 1000), (3 * week, 3 * week)]);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_window_that_is_set_later_cuts_what_was_merged_before() {
    let mut node = Node::with(by_hand(), false).await;
    let hour = 3_600_000;
    flushed(
        &node,
        &[
            &[row("a", 0, 1.0), row("a", 5 * hour, 1.0)],
            &[row("a", 1000, 1.0), row("b", 5 * hour + 1, 1.0)],
        ],
    )
    .await;
    let rows = node.read().await.unwrap();
    let merged = async |node: &Node| {
        let request = v1::CompactRequest {
            header: node.header(),
            region_id: node.region.as_u64(),
        };
        node.datanode.compact(request).await.unwrap();
        let files = view(node).await.files;
        let mut times: Vec<_> = files.values().map(|f| (f.min_time, f.max_time)).collect();
        times.sort_unstable();
        times
    };
    assert_eq!(merged(&node).await, [(0, 5 * hour + 1)]);
    let length = Some("2h".to_owned());
    node.alter(&[Change::SetTimeWindow { length }]).await;
    assert_eq!(merged(&node).await, [(0, 1000), (5 * hour, 5 * hour + 1)]);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn writers_wait_and_then_are_refused_while_files_are_too_many() {
    let node = Node::new().await;
    let region = region(&node);
    region.set_runs(node.config.compaction_hard_runs);
    let error = node.write(&[row("a", 1, 1.0)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ResourceExhausted);
    assert!(
        error.is_retryable() && error.message.contains("compaction_hard_runs"),
        "{error}"
    );
    region.set_runs(node.config.compaction_soft_runs + 10);
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    assert_eq!(node.datanode.metrics.writes_slowed.get(), 1);
    region.set_runs(0);
    node.write(&[row("a", 2, 1.0)]).await.unwrap();
    assert_eq!(node.datanode.metrics.writes_slowed.get(), 1);
}

#[tokio::test]
async fn runs_that_cannot_be_merged_count_until_they_are() {
    let config = DatanodeConfig {
        compaction_active_runs: 2,
        compaction_soft_runs: 9,
        compaction_hard_runs: 10,
        ..DatanodeConfig::default()
    };
    let node = Node::with(config, false).await;
    let permits = node.datanode.compactor.permits.acquire().await.unwrap();
    let refused = loop {
        match node.write(&[row("a", 1, 1.0)]).await {
            Ok(_) => drop(node.flush().await.unwrap()),
            Err(error) => break error,
        }
        let files = region(&node).with_state(|s| s.view().map_or(0, |v| v.files.len()));
        node.wait_for("the files are counted", || region(&node).runs() == files)
            .await;
    };
    assert!(refused.message.contains("compaction_hard_runs"), "{refused}");
    drop(permits);
    node.wait_for("compactions caught up", || region(&node).runs() <= 2)
        .await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
}

#[tokio::test]
async fn a_merge_that_fails_leaves_nothing_behind() {
    let (node, rows) = four_files().await;
    let before = files(&node).await;
    node.store.fail_puts("/sst/", PutFault::AnswerLost, 1);
    let error = node.datanode.compact_one(&region(&node)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(files(&node).await, before);
    node.store.fail_puts("/sst/", PutFault::AnswerLost, 1);
    node.store.fail_deletes(1);
    node.datanode.compact_one(&region(&node)).await.unwrap_err();
    assert_eq!(files(&node).await.len(), 5, "it could not be deleted");
    node.datanode
        .compactor
        .clean(&region(&node), LATER)
        .await
        .unwrap();
    assert_eq!(files(&node).await, before);
    assert_eq!(node.read().await.unwrap(), rows);
}

#[tokio::test]
async fn a_flush_that_fails_leaves_nothing_behind() {
    let node = Node::with(by_hand(), false).await;
    let day = 86_400_000;
    // Of several days, so that there are several files.
    node.write(&[row("a", 0, 1.0), row("a", 40 * day, 1.0), row("a", 80 * day, 1.0)])
        .await
        .unwrap();
    node.store.fail_puts("/sst/", PutFault::AnswerLost, 1);
    node.store.fail_deletes(1);
    node.flush().await.unwrap_err();
    assert_eq!(files(&node).await.len(), 1, "it could not be deleted");
    node.flush().await.unwrap();
    node.datanode
        .compactor
        .clean(&region(&node), LATER)
        .await
        .unwrap();
    assert_eq!(files(&node).await.len(), view(&node).await.files.len());
    assert_eq!(node.read().await.unwrap().len(), 3);
}

/// A region against a map, over a random program; files are merged by themselves, too.
async fn behaves_like_a_map(seed: u64) {
    let mut dice = Dice::new(seed);
    let config = DatanodeConfig {
        compaction_active_runs: 1 + dice.roll(3) as usize,
        compaction_inactive_runs: 1,
        ..DatanodeConfig::default()
    };
    let mut of = table(1024, false);
    let option = "compaction.twcs.time_window".to_owned();
    of.options.extra.insert(option, "1s".into());
    let mut node = Node::of(config, of).await;
    let mut map: BTreeMap<(String, i64), f64> = BTreeMap::new();
    for step in 0..60 {
        match dice.roll(20) {
            0..7 => {
                let (host, ts) = (format!("h{}", dice.roll(4)), dice.roll(3000) as i64 / 100 * 100);
                map.insert((host.clone(), ts), step as f64);
                node.write(&[row(&host, ts, step as f64)]).await.unwrap();
            }
            7..10 => {
                let some = map.keys().nth(dice.roll(8) as usize).cloned();
                let (host, ts) = some.unwrap_or(("h0".into(), 0));
                map.remove(&(host.clone(), ts));
                delete(&node, &host, ts).await;
            }
            10..17 => drop(node.flush().await.unwrap()),
            17 => drop(node.datanode.compact_one(&region(&node)).await.unwrap()),
            18 => drop(node.datanode.compactor.clean(&region(&node), NOW).await.unwrap()),
            _ => {
                node = node.crash().await;
                known(&node).await;
            }
        }
        if dice.roll(3) == 0 {
            let expected: Vec<Row> = map.iter().map(|((host, ts), v)| row(host, *ts, *v)).collect();
            assert_eq!(node.read().await.unwrap(), expected, "seed {seed}, step {step}");
        }
    }
    node.flush().await.unwrap();
    node.datanode.compact_one(&region(&node)).await.unwrap();
    let expected: Vec<Row> = map.iter().map(|((host, ts), v)| row(host, *ts, *v)).collect();
    assert_eq!(node.read().await.unwrap(), expected, "seed {seed}, at the end");
    let view = view(&node).await;
    let (rows, deletes) = view
        .files
        .values()
        .fold((0, 0), |n, f| (n.0 + f.rows, n.1 + f.deletes));
    assert_eq!(
        (rows, deletes),
        (map.len() as u64, 0),
        "seed {seed}: nothing is kept that is not needed"
    );
}

#[tokio::test]
async fn rows_are_as_in_a_map_whatever_is_merged_and_when() {
    for seed in 0..seeds(15) {
        behaves_like_a_map(seed).await;
    }
}

/// Kills the bucket in the middle of a program of flushes, compactions and deletions, then the node.
async fn survives_a_crash_at(seed: u64) {
    let mut dice = Dice::new(seed);
    let mut node = Node::with(by_hand(), true).await;
    let mut rows: Vec<Row> = Vec::new();
    for life in 0..3 {
        let fault = [PutFault::Refused, PutFault::AnswerLost][dice.roll(2) as usize];
        node.store.away_at_change(1 + dice.roll(25), fault);
        for step in 0..12 {
            let written = row("a", life * 100 + step, 1.0);
            node.write(std::slice::from_ref(&written)).await.unwrap();
            rows.push(written);
            let region = region(&node);
            let compactor = &node.datanode.compactor;
            let work = async {
                match dice.roll(4) {
                    0 => drop(compactor.clean(&region, NOW).await),
                    1 => drop(node.datanode.compact_one(&region).await),
                    _ => drop(node.flush().await),
                }
            };
            // An edit is tried for as long as the bucket is away.
            if tokio::time::timeout(Duration::from_millis(150), work)
                .await
                .is_err()
            {
                break;
            }
        }
        node.store.set_away(true);
        node = node.crash().await;
        node.store.set_away(false);
        known(&node).await;
        let (region, epoch) = (region(&node), node.datanode.reports()[0].epoch);
        assert_eq!(node.read().await.unwrap(), rows, "seed {seed}, life {life}");
        // A region without any edit has nothing that could be compared with a listing.
        node.flush().await.unwrap();
        node.datanode.compact_one(&region).await.unwrap();
        let named = view(&node).await.files.len();
        for _ in 0..100 {
            node.datanode.compactor.clean(&region, NOW).await.unwrap();
            node.datanode
                .compactor
                .collect(&region, epoch, NOW)
                .await
                .unwrap();
            if files(&node).await.len() == named {
                break;
            }
            // A put of the process that died may arrive late.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            node.read().await.unwrap(),
            rows,
            "seed {seed}, life {life}, after cleaning up"
        );
        assert_eq!(
            files(&node).await.len(),
            named,
            "seed {seed}, life {life}: files that nothing names"
        );
    }
}

#[tokio::test]
async fn no_row_is_lost_or_doubled_wherever_a_compaction_is_interrupted() {
    for seed in 0..seeds(30) {
        survives_a_crash_at(seed).await;
    }
}
