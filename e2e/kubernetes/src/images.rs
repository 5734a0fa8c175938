//! Container images from scratch: a program, the libraries that it loads, and
//! the few files that every program expects. Nothing else is in them, so there
//! is nothing else to keep up to date.
//!
//! Equal inputs give equal digests: the layers hold no times, no owners and no
//! order but that of the names.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::addresses::{HOST_NETNS, REGISTRY_NAME, registry_address};
use crate::layout::Lab;
use crate::shell;

/// The user of the images: nobody in particular, and not root.
pub const USER_ID: u32 = 65532;

/// What to put into an image.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// `registry.lab/name:tag`
    pub name: String,
    pub binary: PathBuf,
    /// Where the program lies in the image, and what the image runs.
    pub entrypoint: String,
    /// Further files: from the machine, to the image.
    pub files: Vec<(PathBuf, String)>,
    /// Root, for programs that are part of the node itself.
    pub root: bool,
}

impl ImageSpec {
    pub fn new(name: &str, binary: impl Into<PathBuf>, entrypoint: &str) -> Self {
        let (name, binary, entrypoint) = (name.to_owned(), binary.into(), entrypoint.to_owned());
        Self {
            name,
            binary,
            entrypoint,
            files: Vec::new(),
            root: false,
        }
    }
}

/// Writes the image as an OCI layout and returns the digest of its manifest.
pub fn write_layout(spec: &ImageSpec, layout: &Path) -> Result<String> {
    let Some(program) = spec.entrypoint.strip_prefix('/') else {
        bail!("the entrypoint {:?} is not an absolute path", spec.entrypoint);
    };
    let stage = tempfile::tempdir()?;
    let (system, own) = (stage.path().join("system"), stage.path().join("own"));
    stage_system(&system, &spec.binary)?;
    place(&spec.binary, &own.join(program), 0o755)?;
    strip(&own.join(program))?;
    for (from, to) in &spec.files {
        place(from, &own.join(to.trim_start_matches('/')), 0o644)?;
    }
    let blobs = layout.join("blobs/sha256");
    if blobs.exists() {
        fs::remove_dir_all(&blobs)?;
    }
    fs::create_dir_all(&blobs)?;
    // Two layers, so that programs with the same libraries share the lower one.
    let layers = [add_layer(&blobs, &system)?, add_layer(&blobs, &own)?];
    let config = add_json(
        &blobs,
        &config(spec, &layers),
        "application/vnd.oci.image.config.v1+json",
    )?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": layers,
    });
    let mut manifest = add_json(&blobs, &manifest, "application/vnd.oci.image.manifest.v1+json")?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    manifest["annotations"] = json!({ "io.containerd.image.name": spec.name });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(digest)
}

fn config(spec: &ImageSpec, layers: &[Value]) -> Value {
    let layer_digests: Vec<_> = layers.iter().map(|l| &l["digest"]).collect();
    let user = if spec.root {
        "0:0".to_owned()
    } else {
        format!("{USER_ID}:{USER_ID}")
    };
    json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "User": user,
            "Entrypoint": [spec.entrypoint],
            "WorkingDir": "/",
            "Env": ["PATH=/usr/bin:/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "HOME=/tmp"],
        },
        // The layers are not compressed, so both digests are the same.
        "rootfs": { "type": "layers", "diff_ids": layer_digests },
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Libraries, certificates, time zones, users, and a place for temporary files.
fn stage_system(root: &Path, binary: &Path) -> Result<()> {
    for library in libraries(binary)? {
        place(&library, &root.join(library.strip_prefix("/")?), 0o755)?;
    }
    let certificates = "etc/ssl/certs/ca-certificates.crt";
    place(
        &Path::new("/").join(certificates),
        &root.join(certificates),
        0o644,
    )?;
    fs::create_dir_all(root.join("usr/share"))?;
    let zones = root.join("usr/share/zoneinfo");
    shell::run(
        "cp",
        &["-a".as_ref(), "/usr/share/zoneinfo".as_ref(), zones.as_os_str()],
    )?;
    let user = format!("nonroot:x:{USER_ID}:{USER_ID}:nonroot:/tmp:/sbin/nologin\n");
    fs::write(
        root.join("etc/passwd"),
        format!("root:x:0:0:root:/:/sbin/nologin\n{user}"),
    )?;
    fs::write(
        root.join("etc/group"),
        format!("root:x:0:\nnonroot:x:{USER_ID}:\n"),
    )?;
    fs::write(
        root.join("etc/nsswitch.conf"),
        "passwd: files\ngroup: files\nhosts: files dns\n",
    )?;
    let tmp = root.join("tmp");
    fs::create_dir_all(&tmp)?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))?;
    Ok(())
}

/// What the dynamic linker would load, the linker itself included.
fn libraries(binary: &Path) -> Result<BTreeSet<PathBuf>> {
    // A static program makes ldd fail; it has no libraries.
    let Ok(text) = shell::output("ldd", &[binary]) else {
        if !binary.exists() {
            bail!("there is no program {}", binary.display());
        }
        return Ok(BTreeSet::new());
    };
    parse_ldd(&text)
}

fn parse_ldd(text: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        found.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(found)
}

/// Copies what is behind links, with exactly this mode.
fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file needs a directory")?)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

/// Leaves the tables of source lines out, which are most of the file; the names of functions stay.
fn strip(program: &Path) -> Result<()> {
    let mut magic = [0; 4];
    fs::File::open(program)?.read_exact(&mut magic).ok();
    if magic == *b"\x7fELF" {
        shell::run("strip", &["--strip-debug".as_ref(), program.as_os_str()])?;
    }
    Ok(())
}

/// Makes a layer of a directory, and names it by its digest.
fn add_layer(blobs: &Path, root: &Path) -> Result<Value> {
    // The user's umask must not show in the digest.
    set_directory_modes(root)?;
    let tar = blobs.join("unfinished");
    let fixed = [
        "--sort=name",
        "--mtime=@0",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--format=ustar",
    ];
    let mut args: Vec<&std::ffi::OsStr> = fixed.iter().map(std::ffi::OsStr::new).collect();
    args.extend([
        "-C".as_ref(),
        root.as_os_str(),
        "-cf".as_ref(),
        tar.as_os_str(),
        ".".as_ref(),
    ]);
    shell::run("tar", &args)?;
    let (digest, size) = digest_of(&tar)?;
    fs::rename(&tar, blobs.join(&digest))?;
    Ok(descriptor(
        "application/vnd.oci.image.layer.v1.tar",
        &digest,
        size,
    ))
}

fn set_directory_modes(dir: &Path) -> Result<()> {
    let sticky = fs::metadata(dir)?.permissions().mode() & 0o1000 != 0;
    if !sticky {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            set_directory_modes(&entry.path())?;
        }
    }
    Ok(())
}

fn add_json(blobs: &Path, value: &Value, kind: &str) -> Result<Value> {
    let bytes = serde_json::to_vec(value)?;
    let digest = hex(&Sha256::digest(&bytes));
    fs::write(blobs.join(&digest), &bytes)?;
    Ok(descriptor(kind, &digest, bytes.len() as u64))
}

fn descriptor(kind: &str, digest: &str, size: u64) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size })
}

fn digest_of(file: &Path) -> Result<(String, u64)> {
    let mut input = fs::File::open(file)?;
    let (mut sha, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = input.read(&mut buffer)?;
        if n == 0 {
            return Ok((hex(&sha.finalize()), size));
        }
        sha.update(&buffer[..n]);
        size += n as u64;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Sends a layout to the laboratory's registry, from which the nodes pull.
pub fn push(lab: &Lab, layout: &Path, name: &str) -> Result<()> {
    let short = name_in_registry(name)?;
    let netns = format!("--net=/run/netns/{HOST_NETNS}");
    let (crane, layout) = (
        lab.tool("crane").display().to_string(),
        layout.display().to_string(),
    );
    let to = format!("{}/{short}", registry_address());
    shell::run(
        "nsenter",
        &[netns.as_str(), &crane, "push", "--insecure", &layout, &to],
    )
    .with_context(|| format!("pushing {name}"))
}

/// Builds an image and sends it to the registry; returns its digest.
pub fn build_and_push(lab: &Lab, spec: &ImageSpec) -> Result<String> {
    name_in_registry(&spec.name)?;
    let layout = tempfile::tempdir()?;
    let digest = write_layout(spec, layout.path())?;
    push(lab, layout.path(), &spec.name)?;
    Ok(digest)
}

fn name_in_registry(name: &str) -> Result<&str> {
    match name
        .strip_prefix(REGISTRY_NAME)
        .and_then(|rest| rest.strip_prefix('/'))
    {
        Some(short) if short.contains(':') => Ok(short),
        _ => bail!("{name:?} is not of the form {REGISTRY_NAME}/NAME:TAG"),
    }
}

#[cfg(test)]
mod tests;
