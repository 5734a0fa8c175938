//! Everything that a datanode keeps, as bytes of each format that there ever was: they are read, and what is written
//! today is the same.
//!
//! A failure here says that a format has changed. Programs of before would misread what is written now, unless it
//! carries a version that they refuse: raise it, keep the old file and its test, and let
//! [`the_golden_files_are_written_anew`] write the new one beside it (it never overwrites).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use greptime_rows::{Encoded, SeriesBatch};
use greptime_rules::Mark;
use greptime_types::{Finished, RegionId, RequestId};
use parquet::file::reader::{FileReader, SerializedFileReader};

use crate::manifest::{Edit, FileMeta, RemovedFile, View};
use crate::region::{
    Checkpoint, RegionEntry, RequestTable, RowOp, TruncateEntry, WriteEntry, check_rows, read_rows,
};
use crate::sst::Footer;
use crate::sst::{FLOATS_KEY, FORMAT_KEY, TABLE_KEY};
use crate::testing::{Node, Row, batch, ipc, row, table};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn read(name: &str) -> Bytes {
    let file = golden(name);
    std::fs::read(&file)
        .unwrap_or_else(|e| panic!("{}: {e}", file.display()))
        .into()
}

/// Rows of both kinds, a missing tag, and a missing value.
fn rows() -> Vec<Row> {
    vec![row("a", 1, 1.5), row("b", -2, 2.5), (None, 3, None)]
}

fn request() -> RequestId {
    RequestId {
        incarnation: 0x1122_3344_5566_7788,
        number: 42,
    }
}

fn given_up() -> Finished {
    Finished {
        lowest_unfinished: 40,
        given_up: vec![43..=45, 47..=47],
    }
}

fn quiet() -> (u64, Mark) {
    let mark = Mark {
        lowest: 40,
        applied: 2,
        newest: 46,
    };
    (request().incarnation, mark)
}

fn write(finished: Finished, rows: Encoded) -> RegionEntry {
    RegionEntry::Write(WriteEntry {
        request: request(),
        finished,
        schema_version: 1,
        op: RowOp::Put,
        rows,
    })
}

fn series() -> SeriesBatch {
    SeriesBatch::from_named(&batch(&rows()), &table(1024, false).schema).unwrap()
}

/// Entries whose bytes are ours; rows are Arrow's.
fn entries() -> Vec<(&'static str, RegionEntry)> {
    let truncate = |finished| {
        RegionEntry::Truncate(TruncateEntry {
            request: request(),
            finished,
        })
    };
    vec![
        ("entry-1-alter", RegionEntry::Alter(Box::new(table(1024, false)))),
        ("entry-1-truncate", truncate(Finished::below(40))),
        ("entry-5-truncate", truncate(given_up())),
        (
            "entry-6-forget",
            RegionEntry::Forget(vec![(1, Mark::default()), quiet()]),
        ),
    ]
}

fn requests() -> RequestTable {
    let mut requests = RequestTable::default();
    requests.apply(request(), &Finished::below(40));
    requests.apply(
        RequestId {
            number: 44,
            ..request()
        },
        &Finished::below(41),
    );
    requests
}

fn checkpoint_of_given_up() -> Checkpoint {
    let mut checkpoint = checkpoint();
    let id = RequestId {
        number: 46,
        ..request()
    };
    checkpoint.requests.apply(id, &given_up());
    checkpoint
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        format: 1,
        table: table(1024, false),
        flushed_seq: 17,
        manifest_version: 3,
        requests: requests(),
    }
}

/// Of a version that carries all files.
fn edit() -> Edit {
    let file = |name: &str| FileMeta {
        name: name.into(),
        home: RegionId::new(1024, 0),
        rows: 3,
        bytes: 1000,
        min_sequence: 2,
        max_sequence: 17,
        min_time: -2,
        max_time: 3,
        schema_version: 1,
        deletes: 1,
        level: 1,
    };
    let removed = RemovedFile {
        name: "2-removed".into(),
        home: RegionId::new(1024, 0),
    };
    Edit {
        format: 1,
        version: 33,
        epoch: 2,
        id: "3f0c".into(),
        add: vec![file("2-added")],
        remove: vec!["2-before".into()],
        flushed_seq: 17,
        truncated_seq: 1,
        table: table(1024, false),
        requests: requests(),
        files_before: Some(vec![file("2-before")]),
        deleted: vec!["2-deleted".into()],
        removed_before: vec![removed],
    }
}

/// A file as a flush writes it today.
async fn flushed_file() -> Bytes {
    let node = Node::new().await;
    node.write(&rows()).await.unwrap();
    node.flush().await.unwrap();
    let keys = node.store.keys().await;
    let key = keys.iter().find(|k| k.ends_with(".parquet")).expect("a file");
    let key = object_store::path::Path::from(key.as_str());
    let object = object_store::ObjectStoreExt::get(node.store.as_ref(), &key);
    object.await.unwrap().bytes().await.unwrap()
}

async fn all() -> Vec<(&'static str, Bytes)> {
    let named = Encoded {
        series: Bytes::new(),
        rows: ipc(&batch(&rows())),
    };
    let apart = series().encode().unwrap();
    let below = || Finished::below(40);
    let mut all = vec![
        ("entry-1-write", write(below(), named).encode().unwrap()),
        ("entry-2-write", write(below(), apart.clone()).encode().unwrap()),
        ("entry-5-write", write(given_up(), apart).encode().unwrap()),
        ("checkpoint-1", checkpoint().encode().unwrap()),
        (
            "checkpoint-1-given-up",
            checkpoint_of_given_up().encode().unwrap(),
        ),
        ("edit-1", edit().encode().unwrap()),
        ("file-1", flushed_file().await),
    ];
    all.extend(
        entries()
            .into_iter()
            .map(|(name, entry)| (name, entry.encode().unwrap())),
    );
    all
}

/// The generator. It writes what is not there.
#[tokio::test]
#[ignore = "writes files into the source"]
async fn the_golden_files_are_written_anew() {
    for (name, bytes) in all().await {
        if !golden(name).exists() {
            std::fs::write(golden(name), bytes).unwrap();
        }
    }
}

#[test]
fn writes_of_all_formats_are_read_and_written_as_ever() {
    for (name, finished) in [
        ("entry-1-write", Finished::below(40)),
        ("entry-2-write", Finished::below(40)),
        ("entry-5-write", given_up()),
    ] {
        let entry = RegionEntry::decode(read(name)).unwrap();
        let RegionEntry::Write(found) = entry.clone() else {
            panic!("{name} is no write");
        };
        assert_eq!(entry, write(finished, found.rows.clone()), "{name}");
        assert_eq!(entry.encode().unwrap(), read(name), "{name}");
        let table = table(1024, false);
        let written = read_rows(&found.rows, &table).unwrap();
        check_rows(&written, &table, RowOp::Put).unwrap();
        assert_eq!(written, series(), "{name}");
    }
}

#[test]
fn other_entries_are_read_and_written_as_ever() {
    for (name, entry) in entries() {
        assert_eq!(RegionEntry::decode(read(name)).unwrap(), entry, "{name}");
        assert_eq!(entry.encode().unwrap(), read(name), "{name}");
    }
}

#[test]
fn checkpoints_and_edits_are_read_and_written_as_ever() {
    assert_eq!(Checkpoint::decode(&read("checkpoint-1")).unwrap(), checkpoint());
    assert_eq!(checkpoint().encode().unwrap(), read("checkpoint-1"));
    let given_up = read("checkpoint-1-given-up");
    assert_eq!(Checkpoint::decode(&given_up).unwrap(), checkpoint_of_given_up());
    assert_eq!(checkpoint_of_given_up().encode().unwrap(), given_up);
    assert_eq!(Edit::decode(&read("edit-1"), "33").unwrap(), edit());
    assert_eq!(edit().encode().unwrap(), read("edit-1"));
    let view = View {
        version: 32,
        files: BTreeMap::from([("2-before".into(), edit().files_before.unwrap().remove(0))]),
        ..View::default()
    };
    let next = view.apply(&edit()).unwrap();
    assert_eq!(next.files.keys().collect::<Vec<_>>(), ["2-added"]);
}

fn footer_pairs(file: &Bytes) -> BTreeMap<String, String> {
    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let pairs = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let pairs = pairs.iter();
    pairs
        .map(|p| (p.key.clone(), p.value.clone().unwrap_or_default()))
        .collect()
}

#[tokio::test]
async fn footers_of_files_are_read_and_say_what_they_ever_did() {
    let (golden, today) = (read("file-1"), flushed_file().await);
    let crate::sst::Tail::Whole(footer) = Footer::from_tail(&golden, golden.len() as u64).unwrap() else {
        panic!("all of the file is there");
    };
    assert_eq!(footer.table, table(1024, false));
    let (golden, today) = (footer_pairs(&golden), footer_pairs(&today));
    let keys = |pairs: &BTreeMap<String, String>| pairs.keys().cloned().collect::<BTreeSet<_>>();
    // The golden one is of before this was said.
    let mut since = keys(&golden);
    since.insert(FLOATS_KEY.to_owned());
    assert_eq!(since, keys(&today));
    for key in [FORMAT_KEY, TABLE_KEY] {
        assert_eq!(golden[key], today[key]);
    }
}
