//! An API server in memory: lists, gets, server-side apply with managed fields, watches, deletes. It speaks HTTP to
//! the real client, knows no schema beyond which lists are merged by keys, and remembers every write.

#![allow(dead_code, reason = "each test file uses its own part")]

pub mod fields;
pub mod harness;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// `/api/v1/namespaces/ns/secrets` and a name.
type Place = (String, String);

#[derive(Clone, Debug)]
struct Change {
    collection: String,
    version: u64,
    event: &'static str,
    object: Value,
}

/// A request that the server answers with an error instead.
#[derive(Clone, Debug)]
pub struct Fault {
    pub method: &'static str,
    /// Part of the path.
    pub path: &'static str,
    pub code: u16,
    pub reason: &'static str,
    /// How many more requests it hits.
    pub times: usize,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Place, Value>,
    version: u64,
    log: Vec<Change>,
    /// `PATCH /path` of every write, in order.
    writes: Vec<String>,
    reads: Vec<String>,
    faults: Vec<Fault>,
}

#[derive(Clone)]
pub struct ApiServer {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<Change>,
}

/// A request, taken apart.
struct Call {
    method: Method,
    collection: String,
    name: Option<String>,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
    content_type: String,
    body: Value,
}

impl ApiServer {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            changes: broadcast::channel(1000).0,
        }
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Everything written since the last call, without events, which are written in the course of time.
    pub fn take_writes(&self) -> Vec<String> {
        let writes = std::mem::take(&mut self.lock().writes);
        writes.into_iter().filter(|w| !w.contains("/events")).collect()
    }

    pub fn reads(&self) -> Vec<String> {
        self.lock().reads.clone()
    }

    pub fn fail(&self, fault: Fault) {
        self.lock().faults.push(fault);
    }

    pub fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.lock()
            .objects
            .get(&(collection.to_owned(), name.to_owned()))
            .cloned()
    }

    pub fn list(&self, collection: &str) -> Vec<Value> {
        let state = self.lock();
        state
            .objects
            .iter()
            .filter(|((c, _), _)| c == collection)
            .map(|(_, o)| o.clone())
            .collect()
    }

    /// Stores an object as somebody else who is not the operator would.
    pub fn put(&self, collection: &str, object: Value) {
        self.store(collection, object);
    }

    /// Changes an object as a user with `kubectl edit` would.
    pub fn edit(&self, collection: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut object = self
            .get(collection, name)
            .unwrap_or_else(|| panic!("no {collection}/{name}"));
        change(&mut object);
        self.store(collection, object);
    }

    pub fn delete(&self, collection: &str, name: &str) {
        let mut state = self.lock();
        let Some(object) = state.objects.remove(&(collection.to_owned(), name.to_owned())) else {
            return;
        };
        self.publish(&mut state, collection, "DELETED", object);
    }

    fn publish(&self, state: &mut State, collection: &str, event: &'static str, mut object: Value) {
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        let change = Change {
            collection: collection.to_owned(),
            version: state.version,
            event,
            object,
        };
        state.log.push(change.clone());
        // Nobody watches in most tests.
        let _ = self.changes.send(change);
    }

    fn store(&self, collection: &str, mut object: Value) -> Value {
        let mut state = self.lock();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let place = (collection.to_owned(), name);
        let before = state.objects.get(&place).cloned();
        let metadata = &mut object["metadata"];
        if before.is_none() {
            metadata["uid"] = json!(format!("uid-{}", state.version + 1));
            metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            metadata["generation"] = json!(1);
        }
        if let Some(before) = &before
            && before["spec"] != object["spec"]
        {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
            object["metadata"]["generation"] = json!(generation);
        }
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        object["metadata"]["resourceVersion"] = json!((state.version + 1).to_string());
        state.objects.insert(place, object.clone());
        self.publish(&mut state, collection, event, object.clone());
        object
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = axum::body::to_bytes(Body::new(body), usize::MAX).await.unwrap();
        let path = parts.uri.path().to_owned();
        let (collection, name, subresource) = take_apart(&path);
        let header = parts
            .headers
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        let call = Call {
            method: parts.method.clone(),
            collection,
            name,
            subresource,
            query: query(parts.uri.query().unwrap_or("")),
            content_type: header.to_owned(),
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        };
        {
            let mut state = self.lock();
            let line = format!("{} {path}", parts.method);
            if parts.method == Method::GET {
                state.reads.push(line)
            } else {
                state.writes.push(line)
            }
            let hit = state
                .faults
                .iter_mut()
                .find(|f| f.times > 0 && f.method == parts.method.as_str() && path.contains(f.path));
            if let Some(fault) = hit {
                fault.times -= 1;
                return failure(fault.code, fault.reason, "a fault of the test");
            }
        }
        match (call.method.as_str(), &call.name) {
            ("GET", None) if call.query.contains_key("watch") => self.watch(&call),
            ("GET", None) => self.answer_list(&call),
            ("GET", Some(name)) => match self.get(&call.collection, name) {
                Some(object) => ok(object),
                None => failure(404, "NotFound", "not found"),
            },
            ("POST", None) => self.create(&call),
            ("PUT", Some(name)) => self.replace(&call, name),
            ("PATCH", Some(name)) => self.patch(&call, name),
            ("DELETE", Some(name)) => self.answer_delete(&call, name),
            _ => failure(405, "MethodNotAllowed", "not here"),
        }
    }

    fn answer_list(&self, call: &Call) -> Response<Body> {
        let items: Vec<_> = self
            .list(&call.collection)
            .into_iter()
            .filter(|o| call.selects(o))
            .collect();
        let version = self.lock().version.to_string();
        ok(
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn watch(&self, call: &Call) -> Response<Body> {
        let since: u64 = call
            .query
            .get("resourceVersion")
            .and_then(|v| v.parse().ok())
            .unwrap_or(0);
        // The lock is held, so that no change falls between the log and the subscription.
        let state = self.lock();
        let later = self.changes.subscribe();
        let now: Vec<_> = state.log.iter().filter(|c| c.version > since).cloned().collect();
        drop(state);
        let later = futures::stream::unfold(later, |mut later| async move {
            later.recv().await.ok().map(|change| (change, later))
        });
        let (collection, query) = (call.collection.clone(), call.query.clone());
        let lines = futures::stream::iter(now).chain(later).filter_map(move |change| {
            let selected = below(&collection, &change.collection) && selects(&query, &change.object);
            let line =
                selected.then(|| json!({"type": change.event, "object": change.object}).to_string() + "\n");
            std::future::ready(line.map(Ok::<_, std::convert::Infallible>))
        });
        Response::new(Body::from_stream(lines))
    }

    fn create(&self, call: &Call) -> Response<Body> {
        let mut object = call.body.clone();
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = json!(format!("generated-{}", self.lock().version));
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        if self.get(&call.collection, &name).is_some() {
            return failure(409, "AlreadyExists", "already exists");
        }
        ok(self.store(&call.collection, object))
    }

    fn replace(&self, call: &Call, name: &str) -> Response<Body> {
        let Some(live) = self.get(&call.collection, name) else {
            return failure(404, "NotFound", "not found");
        };
        if live["metadata"]["resourceVersion"] != call.body["metadata"]["resourceVersion"] {
            return failure(409, "Conflict", "the object has been modified");
        }
        ok(self.store(&call.collection, call.body.clone()))
    }

    fn patch(&self, call: &Call, name: &str) -> Response<Body> {
        let live = self.get(&call.collection, name);
        let asked = &call.body["metadata"]["resourceVersion"];
        if !asked.is_null()
            && live
                .as_ref()
                .is_none_or(|live| &live["metadata"]["resourceVersion"] != asked)
        {
            return failure(409, "Conflict", "the object has been modified");
        }
        let next = if call.content_type.contains("apply-patch") {
            if live.is_none() && call.subresource.is_some() {
                return failure(404, "NotFound", "not found");
            }
            let manager = call.query["fieldManager"].as_str();
            let mut next = fields::apply(live.clone(), &call.body, manager, call.subresource.as_deref());
            fields::default(&mut next);
            next
        } else {
            let Some(mut live) = live.clone() else {
                return failure(404, "NotFound", "not found");
            };
            fields::merge_patch(&mut live, &call.body);
            live
        };
        if live.as_ref() == Some(&next) {
            return ok(next);
        }
        if fields::has_duplicate_port(&next) {
            return failure(422, "Invalid", "spec.ports[1].name: Duplicate value");
        }
        let next = self.store(&call.collection, next);
        if fields::is_over(&next) {
            self.delete(&call.collection, name);
        }
        ok(next)
    }

    fn answer_delete(&self, call: &Call, name: &str) -> Response<Body> {
        let Some(live) = self.get(&call.collection, name) else {
            return failure(404, "NotFound", "not found");
        };
        let asked = &call.body["preconditions"]["uid"];
        if !asked.is_null() && asked != &live["metadata"]["uid"] {
            return failure(409, "Conflict", "another uid");
        }
        self.delete(&call.collection, name);
        ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
    }
}

impl Call {
    fn selects(&self, object: &Value) -> bool {
        selects(&self.query, object)
    }
}

fn selects(query: &BTreeMap<String, String>, object: &Value) -> bool {
    let selector = query.get("labelSelector").map(String::as_str).unwrap_or("");
    selector
        .split(',')
        .filter(|s| !s.is_empty())
        .all(|term| match term.split_once('=') {
            Some((key, value)) => object["metadata"]["labels"][key] == value,
            None => !object["metadata"]["labels"][term].is_null(),
        })
}

/// Whether a collection is the one that is watched, or its part in one namespace.
fn below(watched: &str, collection: &str) -> bool {
    let kind = |path: &str| path.rsplit('/').next().unwrap_or("").to_owned();
    watched == collection || (!watched.contains("/namespaces/") && kind(watched) == kind(collection))
}

fn take_apart(path: &str) -> (String, Option<String>, Option<String>) {
    let parts: Vec<_> = path.trim_matches('/').split('/').collect();
    // /api/v1 or /apis/GROUP/VERSION, then perhaps namespaces/NS.
    let start = if parts[0] == "api" { 2 } else { 3 };
    let namespaced = parts.get(start) == Some(&"namespaces") && parts.len() > start + 2;
    let kind = if namespaced { start + 2 } else { start };
    let collection = format!("/{}", parts[..=kind].join("/"));
    (
        collection,
        parts.get(kind + 1).map(|s| s.to_string()),
        parts.get(kind + 2).map(|s| s.to_string()),
    )
}

fn query(text: &str) -> BTreeMap<String, String> {
    let decode = |s: &str| {
        s.replace("%2F", "/")
            .replace("%3D", "=")
            .replace("%2C", ",")
            .replace('+', " ")
    };
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (decode(k), decode(v)))
        .collect()
}

fn ok(object: Value) -> Response<Body> {
    Response::new(Body::from(object.to_string()))
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": reason, "code": code});
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}
