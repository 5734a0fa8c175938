use super::*;

#[test]
fn libraries_are_what_the_linker_would_load() {
    let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
    let found: Vec<_> = parse_ldd(text)
        .unwrap()
        .into_iter()
        .map(|p| p.display().to_string())
        .collect();
    assert_eq!(
        found,
        ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
    );
    assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    assert!(
        parse_ldd("\tlibz.so.1 => not found\n")
            .unwrap_err()
            .to_string()
            .contains("libz")
    );
}

#[test]
fn equal_programs_give_equal_images() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ImageSpec::new("registry.lab/cat:1", "/bin/cat", "/cat");
    let first = write_layout(&spec, &dir.path().join("a")).unwrap();
    let second = write_layout(&spec, &dir.path().join("b")).unwrap();
    assert_eq!(first, second);
    let other = ImageSpec::new("registry.lab/cat:1", "/bin/ls", "/cat");
    assert_ne!(write_layout(&other, &dir.path().join("b")).unwrap(), first);
    // The layout is whole: what the index names is there.
    let name = first.strip_prefix("sha256:").unwrap();
    let manifest = fs::read(dir.path().join("a/blobs/sha256").join(name)).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let file = dir
            .path()
            .join("a/blobs/sha256")
            .join(&layer["digest"].as_str().unwrap()[7..]);
        assert_eq!(fs::metadata(file).unwrap().len(), layer["size"].as_u64().unwrap());
    }
}

#[test]
fn only_names_of_the_registry_can_be_pushed() {
    assert_eq!(name_in_registry("registry.lab/a/b:1").unwrap(), "a/b:1");
    assert!(name_in_registry("registry.lab/a").is_err());
    assert!(name_in_registry("docker.io/a:1").is_err());
}
