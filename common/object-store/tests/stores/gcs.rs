//! Google Cloud Storage, as far as its client asks for it.
//!
//! It was written after the [XML API](https://cloud.google.com/storage/docs/xml-api/reference-methods), since none of the
//! emulators that can be installed knows both its preconditions and its uploads in parts.
//!
//! It does: objects of one bucket, in memory, with generations and ETags; `x-goog-if-generation-match` for PUT and DELETE;
//! ranges; uploads in parts, whose parts have 5 MiB but for the last one and are named in order when it is completed; listings
//! of version 2 with prefix, delimiter, `start-after` and pages, which are short, so that there are several; errors with
//! Google's codes. Requests come one after the other, as Google promises for one object.
//!
//! It does not: copies, which are answered with 501; metadata, which is dropped; versions of an object that were replaced;
//! the limit of one write to an object in a second; checksums. A token must be one that a service account signs for itself,
//! name this one and not ask for less than is needed, but its signature and its time are not looked at.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use greptime_object_store::{ClusterMarker, ObjectStoreConfig, StoreKind, claim};
use greptime_types::ErrorKind;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::scene::{Case, Scene, cases};

const BUCKET: &str = "data";
const ACCOUNT: &str = "tester@project.iam.gserviceaccount.com";

/// Google's are of 1,000.
const PAGE: usize = 100;
/// Of every part but the last one.
const MIN_PART: usize = 5 << 20;

/// A server of this process, and the key of the account that may use it.
pub struct Google {
    serving: AbortHandle,
    _key: NamedTempFile,
}

impl Drop for Google {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub async fn start() -> (ObjectStoreConfig, Google) {
    start_with(Manners::Google).await
}

async fn start_with(manners: Manners) -> (ObjectStoreConfig, Google) {
    let contents = Arc::new(Mutex::new(Contents::of(manners)));
    let routes = Router::new()
        .route("/{bucket}", any(on_bucket))
        .route("/{bucket}/{*key}", any(on_object))
        .layer(DefaultBodyLimit::disable())
        .with_state(contents);
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let key = service_account(ACCOUNT);
    let config = ObjectStoreConfig {
        kind: StoreKind::Gcs,
        bucket: BUCKET.into(),
        endpoint: Some(format!("http://{address}")),
        service_account_file: Some(key.path().to_owned()),
        ..Default::default()
    };
    let google = Google {
        serving: serving.abort_handle(),
        _key: key,
    };
    (config, google)
}

/// A key as Google's console gives it out.
pub fn service_account(email: &str) -> NamedTempFile {
    let made = Command::new("openssl")
        .args([
            "genpkey",
            "-quiet",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
        ])
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = json!({
        "type": "service_account",
        "project_id": "project",
        "private_key_id": "1",
        "private_key": String::from_utf8_lossy(&made.stdout),
        "client_email": email,
        "token_uri": "https://oauth2.googleapis.com/token",
    });
    let file = NamedTempFile::new().expect("a temporary file");
    std::fs::write(&file, key.to_string()).expect("a temporary file can be written");
    file
}

/// What is done about a precondition.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manners {
    Google,
    /// It is ignored, as emulators do that do not know it.
    Careless,
}

struct Object {
    bytes: Bytes,
    generation: u64,
    modified: DateTime<Utc>,
}

impl Object {
    /// Opaque to clients. Google's is often an MD5 of the bytes.
    fn e_tag(&self) -> String {
        format!("\"{:x}\"", self.generation)
    }
}

struct Upload {
    key: String,
    /// By number, with the ETag of each.
    parts: BTreeMap<usize, (String, Bytes)>,
}

struct Contents {
    manners: Manners,
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// Number that was given to something last.
    last: u64,
}

/// Status and Google's code of an error.
type Refusal = (StatusCode, &'static str);
type Answer = Result<Response, Refusal>;
type Asked = BTreeMap<String, String>;

const PRECONDITION_FAILED: Refusal = (StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
const NO_SUCH_KEY: Refusal = (StatusCode::NOT_FOUND, "NoSuchKey");
const NO_SUCH_BUCKET: Refusal = (StatusCode::NOT_FOUND, "NoSuchBucket");
const NO_SUCH_UPLOAD: Refusal = (StatusCode::NOT_FOUND, "NoSuchUpload");
const INVALID_RANGE: Refusal = (StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
const INVALID_PART: Refusal = (StatusCode::BAD_REQUEST, "InvalidPart");
const ENTITY_TOO_SMALL: Refusal = (StatusCode::BAD_REQUEST, "EntityTooSmall");
const INVALID_ARGUMENT: Refusal = (StatusCode::BAD_REQUEST, "InvalidArgument");
const AUTHENTICATION_REQUIRED: Refusal = (StatusCode::UNAUTHORIZED, "AuthenticationRequired");
const NOT_IMPLEMENTED: Refusal = (StatusCode::NOT_IMPLEMENTED, "NotImplemented");

fn answered(answer: Answer) -> Response {
    answer.unwrap_or_else(|(status, code)| {
        let body = format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code></Error>");
        (status, body).into_response()
    })
}

async fn on_bucket(
    State(contents): State<Arc<Mutex<Contents>>>,
    Path(bucket): Path<String>,
    Query(asked): Query<Asked>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    answered(may(&headers, &bucket).and_then(|()| match method {
        Method::GET => contents.lock().expect("no request panics").list(&asked),
        _ => Err(NOT_IMPLEMENTED),
    }))
}

async fn on_object(
    State(contents): State<Arc<Mutex<Contents>>>,
    Path((bucket, key)): Path<(String, String)>,
    Query(asked): Query<Asked>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut contents = contents.lock().expect("no request panics");
    let upload = asked.get("uploadId");
    answered(may(&headers, &bucket).and_then(|()| match (&method, upload) {
        (&Method::PUT, _) if headers.contains_key("x-goog-copy-source") => Err(NOT_IMPLEMENTED),
        (&Method::PUT, Some(upload)) => contents.put_part(&key, upload, &asked, body),
        (&Method::PUT, None) => contents.put(key, &headers, body),
        (&Method::POST, Some(upload)) => contents.complete(&key, upload, &body),
        (&Method::POST, None) if asked.contains_key("uploads") => Ok(contents.begin(key)),
        (&Method::GET | &Method::HEAD, None) => contents.get(&key, &headers),
        (&Method::DELETE, Some(upload)) => contents.abandon(&key, upload),
        (&Method::DELETE, None) => contents.delete(&key, &headers),
        _ => Err(NOT_IMPLEMENTED),
    }))
}

/// Whether the request has the token of the account that may use the bucket, and names this one.
fn may(headers: &HeaderMap, bucket: &str) -> Result<(), Refusal> {
    let claims = claims(headers).ok_or(AUTHENTICATION_REQUIRED)?;
    let scope = claims["scope"].as_str().unwrap_or_default();
    let is_enough = scope.ends_with("/auth/cloud-platform") || scope.ends_with("/auth/devstorage.read_write");
    if claims["iss"] != ACCOUNT || !is_enough {
        return Err(AUTHENTICATION_REQUIRED);
    }
    if bucket != BUCKET {
        return Err(NO_SUCH_BUCKET);
    }
    Ok(())
}

/// What is said by the token of a service account: <https://google.aip.dev/auth/4111>.
fn claims(headers: &HeaderMap) -> Option<Value> {
    let token = text_of(headers, header::AUTHORIZATION.as_str())?.strip_prefix("Bearer ")?;
    let mut parts = token.split('.');
    let (_header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

impl Contents {
    fn of(manners: Manners) -> Self {
        Self {
            manners,
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            last: 0,
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// <https://cloud.google.com/storage/docs/xml-api/reference-headers#xgoogifgenerationmatch>: 0 is an object that is not
    /// there.
    fn check(&self, key: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let wanted = text_of(headers, "x-goog-if-generation-match");
        let Some(wanted) = wanted.filter(|_| self.manners == Manners::Google) else {
            return Ok(());
        };
        let wanted: u64 = wanted.parse().map_err(|_| INVALID_ARGUMENT)?;
        match self.objects.get(key).map_or(0, |object| object.generation) == wanted {
            true => Ok(()),
            false => Err(PRECONDITION_FAILED),
        }
    }

    fn put(&mut self, key: String, headers: &HeaderMap, bytes: Bytes) -> Answer {
        self.check(&key, headers)?;
        let object = self.place(key, bytes);
        Ok((
            [
                ("etag", object.e_tag()),
                ("x-goog-generation", object.generation.to_string()),
            ],
            (),
        )
            .into_response())
    }

    fn place(&mut self, key: String, bytes: Bytes) -> &Object {
        let object = Object {
            bytes,
            generation: self.next(),
            modified: Utc::now(),
        };
        self.objects.insert(key.clone(), object);
        &self.objects[&key]
    }

    fn get(&self, key: &str, headers: &HeaderMap) -> Answer {
        let object = self.objects.get(key).ok_or(NO_SUCH_KEY)?;
        let size = object.bytes.len();
        let mut answer = Response::builder()
            .header("etag", object.e_tag())
            .header("x-goog-generation", object.generation)
            .header(
                "last-modified",
                object.modified.format("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            );
        let bytes = match text_of(headers, "range") {
            None => object.bytes.clone(),
            Some(range) => {
                let (start, end) = parse_range(range, size).ok_or(INVALID_RANGE)?;
                let content = format!("bytes {start}-{}/{size}", end - 1);
                answer = answer
                    .status(StatusCode::PARTIAL_CONTENT)
                    .header("content-range", content);
                object.bytes.slice(start..end)
            }
        };
        Ok(answer.body(bytes.into()).expect("the headers are right"))
    }

    fn delete(&mut self, key: &str, headers: &HeaderMap) -> Answer {
        self.check(key, headers)?;
        self.objects.remove(key).ok_or(NO_SUCH_KEY)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    fn begin(&mut self, key: String) -> Response {
        let id = format!("upload-{}", self.next());
        let answer = xml(format!(
            "<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{}</Key><UploadId>{id}</UploadId>\
             </InitiateMultipartUploadResult>",
            escaped(&key)
        ));
        let parts = BTreeMap::new();
        self.uploads.insert(id, Upload { key, parts });
        answer
    }

    fn upload(&mut self, key: &str, id: &str) -> Result<&mut Upload, Refusal> {
        let upload = self.uploads.get_mut(id).filter(|upload| upload.key == key);
        upload.ok_or(NO_SUCH_UPLOAD)
    }

    fn put_part(&mut self, key: &str, id: &str, asked: &Asked, bytes: Bytes) -> Answer {
        let number: Option<usize> = asked.get("partNumber").and_then(|number| number.parse().ok());
        let number = number
            .filter(|n| (1..=10_000).contains(n))
            .ok_or(INVALID_ARGUMENT)?;
        let e_tag = format!("\"part-{}\"", self.next());
        let upload = self.upload(key, id)?;
        upload.parts.insert(number, (e_tag.clone(), bytes));
        Ok(([("etag", e_tag)], ()).into_response())
    }

    fn complete(&mut self, key: &str, id: &str, named: &[u8]) -> Answer {
        let bytes = joined(self.upload(key, id)?, &String::from_utf8_lossy(named))?;
        self.uploads.remove(id);
        let object = self.place(key.to_owned(), bytes);
        let answer = format!(
            "<CompleteMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{}</Key><ETag>{}</ETag>\
             </CompleteMultipartUploadResult>",
            escaped(key),
            escaped(&object.e_tag())
        );
        let generation = [("x-goog-generation", object.generation.to_string())];
        Ok((generation, xml(answer)).into_response())
    }

    fn abandon(&mut self, key: &str, id: &str) -> Answer {
        self.upload(key, id)?;
        self.uploads.remove(id);
        Ok(StatusCode::NO_CONTENT.into_response())
    }

    /// <https://cloud.google.com/storage/docs/xml-api/get-bucket-list>
    fn list(&self, asked: &Asked) -> Answer {
        let text = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
        if text("list-type") != "2" {
            return Err(NOT_IMPLEMENTED);
        }
        let after = match asked.get("continuation-token") {
            Some(token) => {
                let key = BASE64_STANDARD.decode(token).map_err(|_| INVALID_ARGUMENT)?;
                String::from_utf8(key).map_err(|_| INVALID_ARGUMENT)?
            }
            None => text("start-after").to_owned(),
        };
        let page = text("max-keys").parse().unwrap_or(PAGE).min(PAGE);
        Ok(xml(self.page(text("prefix"), text("delimiter"), &after, page)))
    }

    fn page(&self, prefix: &str, delimiter: &str, after: &str, size: usize) -> String {
        let (mut listed, mut groups, mut count) = (String::new(), Vec::new(), 0);
        let mut last = "";
        let mut next = None;
        for (key, object) in &self.objects {
            let Some(rest) = key.strip_prefix(prefix).filter(|_| key.as_str() > after) else {
                continue;
            };
            let group = rest.find(delimiter).filter(|_| !delimiter.is_empty());
            let group = group.map(|at| &key[..prefix.len() + at + delimiter.len()]);
            if group.is_some() && groups.last() == group.as_ref() {
                last = key;
                continue;
            }
            if count == size {
                next = Some(BASE64_STANDARD.encode(last));
                break;
            }
            (count, last) = (count + 1, key);
            match group {
                Some(group) => groups.push(group),
                None => write!(
                    listed,
                    "<Contents><Key>{}</Key><Generation>{}</Generation><LastModified>{}</LastModified><ETag>{}</ETag>\
                     <Size>{}</Size></Contents>",
                    escaped(key),
                    object.generation,
                    object.modified.to_rfc3339(),
                    escaped(&object.e_tag()),
                    object.bytes.len()
                )
                .expect("a string can be written to"),
            }
        }
        for group in groups {
            let _ = write!(
                listed,
                "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>",
                escaped(group)
            );
        }
        let token = next.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        format!(
            "<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{BUCKET}</Name><Prefix>{}</Prefix>\
             <KeyCount>{count}</KeyCount><IsTruncated>{}</IsTruncated>{}{listed}</ListBucketResult>",
            escaped(prefix),
            token.is_some(),
            token.unwrap_or_default()
        )
    }
}

/// The parts that the client names, one behind the other.
fn joined(upload: &Upload, named: &str) -> Result<Bytes, Refusal> {
    let (mut bytes, mut before) = (Vec::new(), 0);
    let mut named = named.split("<Part>").skip(1).peekable();
    while let Some(part) = named.next() {
        let number: usize = between(part, "<PartNumber>", "</PartNumber>")
            .and_then(|number| number.parse().ok())
            .filter(|number| *number > before)
            .ok_or(INVALID_PART)?;
        before = number;
        let e_tag = between(part, "<ETag>", "</ETag>").map(|tag| tag.replace("&quot;", "\""));
        let (_, part) = upload
            .parts
            .get(&number)
            .filter(|(known, _)| Some(known) == e_tag.as_ref())
            .ok_or(INVALID_PART)?;
        if part.len() < MIN_PART && named.peek().is_some() {
            return Err(ENTITY_TOO_SMALL);
        }
        bytes.extend_from_slice(part);
    }
    if before == 0 {
        return Err(INVALID_PART);
    }
    Ok(bytes.into())
}

fn between<'t>(text: &'t str, from: &str, to: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(from)?;
    Some(rest.split_once(to)?.0)
}

/// Start and end of `bytes=1-2`, `bytes=1-` and `bytes=-2` in so many bytes.
fn parse_range(range: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, size.min(last + 1)),
        (Ok(first), Err(_)) => (first, size),
        (Err(_), Ok(length)) => (size.saturating_sub(length), size),
        (Err(_), Err(_)) => return None,
    };
    (start < end).then_some((start, end))
}

fn xml(body: String) -> Response {
    ([("content-type", "application/xml")], body).into_response()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

pub fn cases() -> Vec<Case> {
    cases![a_server_that_ignores_preconditions_is_refused]
}

async fn a_server_that_ignores_preconditions_is_refused(_: Scene) {
    let (settings, _google) = start_with(Manners::Careless).await;
    let bucket = settings.open().expect("the settings are right");
    let marker = ClusterMarker {
        format: 1,
        cluster_id: "one".into(),
        name: "one".into(),
        created_ms: 0,
    };
    // Again when the claim is repeated, though the marker is there by then.
    for _ in 0..2 {
        let error = claim(&bucket, &marker).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
        assert!(error.message.contains("does not know put-if-absent"), "{error}");
    }
}
