//! Basic authentication, and the forms of it that InfluxDB's clients use.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use greptime_types::Error;
use serde::Deserialize;

use super::Failure;
use crate::frontend::Frontend;

/// The name of whoever was let in.
#[derive(Clone, Debug)]
pub struct User(pub String);

/// `u` and `p` of InfluxDB v1.
#[derive(Debug, Default, Deserialize)]
pub struct Credentials {
    u: Option<String>,
    p: Option<String>,
}

pub async fn require(
    State(frontend): State<Arc<Frontend>>,
    Query(query): Query<Credentials>,
    mut request: Request,
    next: Next,
) -> Response {
    let name = match admit(&frontend, request.headers(), query) {
        Ok(name) => name,
        Err(error) => return Failure::from(error).into_response(),
    };
    request.extensions_mut().insert(User(name));
    next.run(request).await
}

fn admit(frontend: &Frontend, headers: &HeaderMap, query: Credentials) -> Result<String, Error> {
    if !frontend.users.required() {
        return Ok(String::new());
    }
    let given = from_headers(headers).or(query.u.zip(query.p));
    let (name, password) =
        given.ok_or_else(|| Error::unauthenticated("this server asks for a user name and a password"))?;
    frontend.users.check(&name, &password)?;
    Ok(name)
}

/// `Basic base64(name:password)`, or `Token name:password`.
fn from_headers(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    let text = match scheme.to_ascii_lowercase().as_str() {
        "basic" => String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?,
        "token" => rest.trim().to_string(),
        _ => return None,
    };
    let (name, password) = text.split_once(':')?;
    Some((name.to_string(), password.to_string()))
}
