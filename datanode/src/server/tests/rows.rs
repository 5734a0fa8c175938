//! Which rows a reader sees.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::{col, lit};
use greptime_proto::v1;
use greptime_query::RegionScanSpec;
use greptime_types::{Change, ColumnSchema, ColumnType, ErrorKind, Semantic};

use crate::config::DatanodeConfig;
use crate::testing::{Node, Row, batch, row};

#[tokio::test]
async fn a_row_is_overwritten_wherever_the_older_one_lies() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0), row("b", 1, 1.0), row("c", 1, 1.0)])
        .await
        .unwrap();
    node.flush().await.unwrap();
    node.write(&[row("a", 1, 2.0), row("b", 1, 2.0)]).await.unwrap();
    node.flush().await.unwrap();
    node.write(&[row("a", 1, 3.0)]).await.unwrap();
    assert_eq!(
        node.read().await.unwrap(),
        [row("a", 1, 3.0), row("b", 1, 2.0), row("c", 1, 1.0)]
    );
}

#[tokio::test]
async fn in_one_write_the_later_row_wins() {
    let node = Node::new().await;
    node.write(&[
        row("a", 1, 1.0),
        row("a", 2, 5.0),
        row("a", 1, 2.0),
        row("a", 1, 3.0),
    ])
    .await
    .unwrap();
    let expected = [row("a", 1, 3.0), row("a", 2, 5.0)];
    assert_eq!(node.read().await.unwrap(), expected);
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), expected);
}

#[tokio::test]
async fn null_is_a_tag_like_any_other() {
    let node = Node::new().await;
    let unnamed = |usage| -> Row { (None, 1, usage) };
    node.write(&[unnamed(Some(1.0)), row("", 1, 7.0)]).await.unwrap();
    node.flush().await.unwrap();
    node.write(&[unnamed(None)]).await.unwrap();
    assert_eq!(node.read().await.unwrap(), [unnamed(None), row("", 1, 7.0)]);
    let named = node.read_where(vec![col("host").is_not_null()]).await.unwrap();
    assert_eq!(named, [row("", 1, 7.0)]);
}

#[tokio::test]
async fn a_deleted_row_stays_away_until_it_is_written_again() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 1.0), row("b", 1, 1.0)]).await.unwrap();
    node.flush().await.unwrap();
    let delete = crate::testing::WriteOptions {
        op: v1::WriteOp::Delete,
        ..node.options()
    };
    let identity = batch(&[row("a", 1, 0.0)]).project(&[0, 1]).unwrap();
    node.write_batch(delete, &identity).await.unwrap();
    assert_eq!(node.read().await.unwrap(), [row("b", 1, 1.0)]);
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), [row("b", 1, 1.0)]);
    node.write(&[row("a", 1, 2.0)]).await.unwrap();
    assert_eq!(node.read().await.unwrap(), [row("a", 1, 2.0), row("b", 1, 1.0)]);
}

#[tokio::test]
async fn an_appending_table_keeps_equal_rows_and_refuses_deletes() {
    let node = Node::appending().await;
    node.write(&[row("a", 1, 1.0), row("a", 1, 1.0)]).await.unwrap();
    node.flush().await.unwrap();
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    assert_eq!(node.read().await.unwrap().len(), 3);
    let delete = crate::testing::WriteOptions {
        op: v1::WriteOp::Delete,
        ..node.options()
    };
    let error = node.write_with(delete, &[row("a", 1, 1.0)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_filter_on_a_field_does_not_uncover_an_overwritten_row() {
    let node = Node::new().await;
    node.write(&[row("a", 1, 10.0), row("b", 1, 10.0)]).await.unwrap();
    node.flush().await.unwrap();
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    let busy = node.read_where(vec![col("usage").gt(lit(5.0))]).await.unwrap();
    assert_eq!(busy, [row("b", 1, 10.0)]);
}

#[tokio::test]
async fn columns_are_projected_in_any_order_and_a_limit_ends_the_scan() {
    let node = Node::new().await;
    let rows: Vec<Row> = (0..100).map(|i| row("a", i, i as f64)).collect();
    node.write(&rows[..60]).await.unwrap();
    node.flush().await.unwrap();
    node.write(&rows[60..]).await.unwrap();
    let spec = RegionScanSpec {
        projection: Some(vec![2, 0]),
        limit: Some(70),
        ..node.spec()
    };
    let batches = node.scan(spec).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 70);
    let schema = batches[0].schema();
    let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["usage", "host"]);
    let count = node
        .scan(RegionScanSpec {
            projection: Some(vec![]),
            ..node.spec()
        })
        .await
        .unwrap();
    assert_eq!(count.iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
}

#[tokio::test]
async fn columns_can_be_added_while_rows_are_written() {
    let mut node = Node::new().await;
    node.write(&[row("a", 1, 1.0)]).await.unwrap();
    node.flush().await.unwrap();
    node.write(&[row("b", 1, 1.0)]).await.unwrap();

    let newer = crate::testing::WriteOptions {
        schema_version: 2,
        ..node.options()
    };
    let error = node.write_with(newer, &[row("c", 1, 1.0)]).await.unwrap_err();
    assert_eq!(
        error.kind,
        ErrorKind::Unavailable,
        "the region must first learn of the new schema: {error}"
    );

    let added = [
        ColumnSchema::new("dc", ColumnType::String, Semantic::Tag),
        ColumnSchema::new("note", ColumnType::String, Semantic::Field),
    ];
    let added = added.map(|column| Change::AddColumn {
        column,
        if_not_exists: false,
    });
    node.alter(&added).await;

    let with_dc = |host: &str, dc: &str| {
        let rows = batch(&[row(host, 1, 2.0)]);
        let mut fields: Vec<Field> = rows
            .schema()
            .fields()
            .iter()
            .map(|f| f.as_ref().clone())
            .collect();
        fields.push(Field::new("dc", DataType::Utf8, true));
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(StringArray::from(vec![dc])));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    };
    let newer = crate::testing::WriteOptions {
        schema_version: 2,
        ..node.options()
    };
    node.write_batch(newer, &with_dc("a", "east")).await.unwrap();
    // An older frontend writes on; its rows have no `dc`, so they overwrite those without one.
    node.write(&[row("a", 1, 3.0)]).await.unwrap();

    let expected = [row("a", 1, 2.0), row("a", 1, 3.0), row("b", 1, 1.0)];
    assert_eq!(node.read().await.unwrap(), expected);
    node.flush().await.unwrap();
    assert_eq!(node.read().await.unwrap(), expected);
    let east = node.read_where(vec![col("dc").eq(lit("east"))]).await.unwrap();
    assert_eq!(east, [row("a", 1, 2.0)]);

    // After a restart the schema comes from the checkpoint.
    let node = node.crash().await;
    node.wait_for("the manifest is loaded", || {
        node.datanode.regions().all()[0].snapshot().is_ok()
    })
    .await;
    assert_eq!(node.read().await.unwrap(), expected);
}

#[tokio::test]
async fn wrong_rows_are_refused_before_they_reach_the_log() {
    let node = Node::new().await;
    let syncs = node.log.syncs();
    let refused = async |rows: RecordBatch| {
        let error = node.write_batch(node.options(), &rows).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        error.message
    };
    let good = batch(&[row("a", 1, 1.0)]);
    let renamed = |name: &str, at: usize| {
        let mut fields: Vec<Field> = good
            .schema()
            .fields()
            .iter()
            .map(|f| f.as_ref().clone())
            .collect();
        fields[at] = fields[at].clone().with_name(name);
        RecordBatch::try_new(Arc::new(Schema::new(fields)), good.columns().to_vec()).unwrap()
    };
    assert!(refused(renamed("cpu", 2)).await.contains("no column `cpu`"));
    assert!(refused(renamed("usage", 0)).await.contains("is DOUBLE"));
    assert!(
        refused(good.project(&[0, 2]).unwrap())
            .await
            .contains("lack column `ts`")
    );
    let mut node = node;
    node.datanode.shutdown().await;
    assert_eq!(node.log.syncs(), syncs);

    let config = DatanodeConfig {
        max_write_size: 1024,
        ..DatanodeConfig::default()
    };
    node = Node::with(config, false).await;
    let many: Vec<Row> = (0..100).map(|i| row("host", i, 0.0)).collect();
    let error = node.write(&many).await.unwrap_err();
    assert!(error.message.contains("send smaller batches"), "{error}");
}

#[tokio::test]
async fn a_request_for_another_node_or_epoch_is_refused() {
    let node = Node::new().await;
    let epoch = node.write(&[row("a", 1, 1.0)]).await.unwrap().epoch;
    let old = crate::testing::WriteOptions {
        epoch: epoch - 1,
        ..node.options()
    };
    assert_eq!(
        node.write_with(old, &[]).await.unwrap_err().kind,
        ErrorKind::Conflict
    );
    let new = crate::testing::WriteOptions {
        epoch: epoch + 1,
        ..node.options()
    };
    assert_eq!(
        node.write_with(new, &[]).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    let header = v1::RequestHeader {
        target_node: 3,
        ..node.header().unwrap()
    };
    let request = v1::FlushRequest {
        header: Some(header),
        region_id: node.region.as_u64(),
    };
    let error = node.datanode.flush(request).await.unwrap_err();
    assert_eq!(error.message, "asked for node 3, this is node 0");
    let header = v1::RequestHeader {
        cluster_id: "other".into(),
        ..node.header().unwrap()
    };
    let request = v1::FlushRequest {
        header: Some(header),
        region_id: node.region.as_u64(),
    };
    let error = node.datanode.flush(request).await.unwrap_err();
    assert!(error.message.contains("cluster `other`"), "{error}");
}
