//! Which files of this database count, read from its manifests.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

#[derive(Deserialize)]
struct Edit {
    #[serde(default)]
    add: Vec<File>,
    #[serde(default)]
    remove: Vec<String>,
    files_before: Option<Vec<File>>,
}

#[derive(Deserialize)]
struct File {
    name: String,
}

/// Names, without extension, of the files of every region below `objects`.
pub fn live_files(objects: &Path) -> BTreeSet<String> {
    let mut live = BTreeSet::new();
    for entry in objects
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
    {
        match entry.file_name().is_some_and(|n| n == "manifest") {
            true => live.extend(fold(&entry)),
            false if entry.is_dir() => live.extend(live_files(&entry)),
            false => {}
        }
    }
    live
}

/// What the edits of one region add up to; their names sort by version.
fn fold(manifest: &Path) -> BTreeSet<String> {
    let mut edits: Vec<_> = manifest
        .read_dir()
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    edits.sort();
    let mut live = BTreeSet::new();
    for path in edits {
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let Ok(edit) = serde_json::from_slice::<Edit>(&bytes) else {
            continue;
        };
        if let Some(files) = edit.files_before {
            live = files.into_iter().map(|f| f.name).collect();
        }
        live.extend(edit.add.into_iter().map(|f| f.name));
        live.retain(|name| !edit.remove.contains(name));
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = dir.path().join("1024/0/manifest");
        std::fs::create_dir_all(&manifest).unwrap();
        let write =
            |version: u32, text: &str| std::fs::write(manifest.join(format!("{version:020}")), text).unwrap();
        write(1, r#"{"add":[{"name":"a"}],"remove":[],"files_before":[]}"#);
        write(2, r#"{"add":[{"name":"b"}],"remove":[]}"#);
        write(3, r#"{"add":[{"name":"c"}],"remove":["a","b"]}"#);
        write(10, r#"{"add":[{"name":"d"}],"remove":[]}"#);
        let live: Vec<String> = live_files(dir.path()).into_iter().collect();
        assert_eq!(live, ["c", "d"]);
    }
}
