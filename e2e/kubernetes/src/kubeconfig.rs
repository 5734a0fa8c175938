//! Kubeconfigs. They are written as JSON, which is YAML too.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::addresses::{API_PORT, HOST_IP};
use crate::certificates;
use crate::layout::Lab;
use crate::process::write_atomically;
use crate::shell;

/// One kubeconfig for each client certificate, and the administrator's.
pub fn write_all(lab: &Lab) -> Result<()> {
    for certificate in certificates::all().iter().filter(|c| c.names.is_empty()) {
        let text = for_component(lab, &certificate.file);
        let file = lab.pki(&format!("{}.kubeconfig", certificate.file));
        write_atomically(&file, &serde_json::to_vec_pretty(&text)?)?;
    }
    let file = lab.kubeconfig();
    write_atomically(&file, &serde_json::to_vec_pretty(&for_admin(lab)?)?)
}

/// For the laboratory's own components, which reach the API server directly.
fn for_component(lab: &Lab, user: &str) -> Value {
    let server = format!("https://{HOST_IP}:{API_PORT}");
    let cluster = json!({ "server": server, "certificate-authority": lab.pki("ca.crt") });
    let user = json!({
        "client-certificate": lab.pki(&format!("{user}.crt")),
        "client-key": lab.pki(&format!("{user}.key")),
    });
    render(&cluster, &user)
}

/// For people and tests: it goes through the forwarder and holds the
/// certificates itself, so that it can be copied anywhere.
fn for_admin(lab: &Lab) -> Result<Value> {
    let cluster = json!({
        "server": format!("https://127.0.0.1:{API_PORT}"),
        "certificate-authority-data": base64_of(&lab.pki("ca.crt"))?,
    });
    let user = json!({
        "client-certificate-data": base64_of(&lab.pki("admin.crt"))?,
        "client-key-data": base64_of(&lab.pki("admin.key"))?,
    });
    Ok(render(&cluster, &user))
}

fn render(cluster: &Value, user: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": cluster }],
        "users": [{ "name": "lab", "user": user }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "lab" } }],
        "current-context": "lab",
    })
}

fn base64_of(file: &Path) -> Result<String> {
    Ok(shell::output("base64", &["-w0".as_ref(), file.as_os_str()])?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_goes_to_the_api_server_directly() {
        let config = for_component(&Lab::at("/lab"), "scheduler");
        assert_eq!(
            config["clusters"][0]["cluster"]["server"],
            "https://10.200.0.1:6443"
        );
        assert_eq!(config["users"][0]["user"]["client-key"], "/lab/pki/scheduler.key");
    }
}
