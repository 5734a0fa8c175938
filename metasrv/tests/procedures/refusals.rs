//! What cannot be begun, and why.

use greptime_proto::v1;
use greptime_types::RegionId;

use crate::cluster::{Cluster, refusal};
use crate::datanodes::Act;

#[tokio::test]
async fn a_region_that_moves_is_moved_nowhere_else_meanwhile() {
    let (cluster, of) = Cluster::with_region().await;
    let id = cluster.migrate_until(&of, Act::Open, "joining").await;
    assert_eq!(
        cluster.migrate(of.request()).await.unwrap(),
        id,
        "it is asked for twice"
    );
    for (from_node, to_node) in [(of.stay[0], of.to), (of.from, of.stay[0]), (of.from, of.from)] {
        let other = v1::MigrateRegion {
            from_node,
            to_node,
            ..of.request()
        };
        let why = format!(
            "region {} moves already, by procedure {id}; wait for it, or abort it",
            of.region
        );
        assert_eq!(refusal(cluster.migrate(other).await), why);
    }
    assert_eq!(cluster.world.procedures().len(), 1);
    cluster.abort(&id).await.unwrap();
    cluster.until_phase(&id, "aborted").await;
    let again = cluster.migrate(of.request()).await.unwrap();
    assert_ne!(again, id);
}

#[tokio::test]
async fn what_cannot_move_is_refused_with_what_there_is() {
    let (mut cluster, of) = Cluster::with_region().await;
    let [second, third] = of.stay;
    let good = of.request();
    let unknown = RegionId::new(77, 0);
    let request = |region: RegionId, from_node, to_node| v1::MigrateRegion {
        region_id: region.as_u64(),
        from_node,
        to_node,
        ..good
    };
    let refused = [
        (
            request(unknown, of.from, of.to),
            format!("region {unknown} does not exist"),
        ),
        (
            request(RegionId::new(of.region.table(), 5), of.from, of.to),
            format!("region {}:5 does not exist", of.region.table()),
        ),
        (
            request(of.region, of.to, of.from),
            format!(
                "region {} is not on datanode {}; it is on [{}, {second}, {third}]",
                of.region, of.to, of.from
            ),
        ),
        (
            request(of.region, of.from, 9),
            "datanode 9 does not exist; there are [0, 1, 2, 3]".into(),
        ),
        (
            request(of.region, of.from, of.from),
            format!(
                "region {} is on datanode {} already; name another to move it to",
                of.region, of.from
            ),
        ),
        (
            request(of.region, second, third),
            format!(
                "datanode {third} has a replica of region {} already, and datanode {second} does not lead it: nothing \
                 can move between them",
                of.region
            ),
        ),
    ];
    for (request, why) in refused {
        assert_eq!(refusal(cluster.migrate(request).await), why);
    }
    cluster.down(of.to).await;
    let away = format!("datanode {} is away; nothing can move there", of.to);
    assert_eq!(refusal(cluster.migrate(of.request()).await), away);
    let unknown = "datanode 9 does not exist; there are [0, 1, 2, 3]";
    assert_eq!(refusal(cluster.migrate_node(9).await), unknown);
    assert_eq!(
        refusal(cluster.abort("nosuch").await),
        "procedure nosuch is not known"
    );
    assert!(cluster.world.procedures().is_empty());
    let whole = [of.from, second, third];
    cluster.until_whole(of.region, whole).await;
}
