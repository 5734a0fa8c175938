//! The certificates of the control plane, made with `openssl`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use anyhow::{Result, anyhow};

use crate::addresses::{API_SERVICE_IP, CLUSTER_DOMAIN, HOST_IP, Node};
use crate::layout::Lab;
use crate::shell;

const ALGORITHM: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];
/// A laboratory that lives for longer is made anew.
const DAYS: &str = "365";
/// The distribution's own configuration adds extensions of an authority to
/// every self-made certificate; this one adds nothing.
const OPENSSL_CONFIG: &str = "[req]\ndistinguished_name = subject\n[subject]\n";

/// A certificate to be signed by the laboratory's authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The files are `pki/{file}.crt` and `pki/{file}.key`.
    pub file: String,
    /// The user that Kubernetes sees.
    pub common_name: String,
    /// The group that Kubernetes sees.
    pub organization: Option<String>,
    /// For a server: the names and addresses under which it is reached.
    pub names: Vec<String>,
}

impl Certificate {
    fn client(file: &str, common_name: &str, organization: Option<&str>) -> Self {
        Self {
            file: file.to_owned(),
            common_name: common_name.to_owned(),
            organization: organization.map(str::to_owned),
            names: Vec::new(),
        }
    }

    fn subject(&self) -> String {
        let organization = self
            .organization
            .as_ref()
            .map(|o| format!("/O={o}"))
            .unwrap_or_default();
        format!("{organization}/CN={}", self.common_name)
    }

    fn extensions(&self) -> Vec<String> {
        let mut extensions = vec!["basicConstraints=critical,CA:FALSE".to_owned()];
        extensions.push("keyUsage=critical,digitalSignature".to_owned());
        if self.names.is_empty() {
            extensions.push("extendedKeyUsage=clientAuth".to_owned());
        } else {
            extensions.push("extendedKeyUsage=serverAuth".to_owned());
            extensions.push(format!("subjectAltName={}", self.names.join(",")));
        }
        extensions
    }
}

/// Everyone who talks to the API server, and the API server itself.
pub fn all() -> Vec<Certificate> {
    let masters = Some("system:masters");
    let mut certificates = vec![
        Certificate {
            file: "apiserver".to_owned(),
            common_name: "kube-apiserver".to_owned(),
            organization: None,
            names: apiserver_names(),
        },
        Certificate::client("admin", "admin", masters),
        Certificate::client(
            "apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            masters,
        ),
        Certificate::client("front-proxy-client", "front-proxy-client", None),
        Certificate::client("controller-manager", "system:kube-controller-manager", None),
        Certificate::client("scheduler", "system:kube-scheduler", None),
        Certificate::client("kube-proxy", "system:kube-proxy", None),
        Certificate::client("volume-provisioner", "lab:volume-provisioner", masters),
    ];
    certificates.extend(
        Node::all()
            .map(|n| Certificate::client(&n.name(), &format!("system:node:{n}"), Some("system:nodes"))),
    );
    certificates
}

fn apiserver_names() -> Vec<String> {
    let service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let full = format!("kubernetes.default.svc.{CLUSTER_DOMAIN}");
    let names = service
        .into_iter()
        .chain([full, "localhost".to_owned()])
        .map(|n| format!("DNS:{n}"));
    // The forwarder's clients see it at 127.0.0.1.
    let addresses = [
        API_SERVICE_IP.to_string(),
        HOST_IP.to_string(),
        "127.0.0.1".to_owned(),
    ];
    names.chain(addresses.map(|a| format!("IP:{a}"))).collect()
}

/// Makes the authority, every certificate, and the key that signs the tokens of
/// service accounts.
pub fn make(lab: &Lab) -> Result<()> {
    let pki = lab.path("pki");
    fs::create_dir_all(&pki)?;
    fs::set_permissions(&pki, fs::Permissions::from_mode(0o700))?;
    fs::write(pki.join("openssl.cnf"), OPENSSL_CONFIG)?;
    make_authority(&pki)?;
    let certificates = all();
    // Each is a process of its own, most of it starting up.
    thread::scope(|scope| {
        let makers: Vec<_> = certificates
            .iter()
            .map(|c| scope.spawn(|| make_certificate(&pki, c)))
            .collect();
        let tokens = scope.spawn(|| make_token_key(&pki));
        let mut finished = makers.into_iter().chain([tokens]);
        finished.try_for_each(|m| m.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked"))))
    })
}

fn make_authority(pki: &Path) -> Result<()> {
    let (crt, key) = (path(pki, "ca.crt"), path(pki, "ca.key"));
    let config = path(pki, "openssl.cnf");
    let mut args = vec![
        "req",
        "-x509",
        "-config",
        &config,
        "-days",
        DAYS,
        "-subj",
        "/CN=greptime-lab",
    ];
    args.extend(ALGORITHM);
    args.extend(["-addext", "basicConstraints=critical,CA:TRUE"]);
    args.extend([
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
    ]);
    args.extend(["-out", &crt, "-keyout", &key]);
    shell::run("openssl", &args)
}

fn make_certificate(pki: &Path, certificate: &Certificate) -> Result<()> {
    let (ca, ca_key) = (path(pki, "ca.crt"), path(pki, "ca.key"));
    let out = path(pki, &format!("{}.crt", certificate.file));
    let key = path(pki, &format!("{}.key", certificate.file));
    let (subject, config) = (certificate.subject(), path(pki, "openssl.cnf"));
    let mut args = vec![
        "req", "-x509", "-config", &config, "-days", DAYS, "-subj", &subject,
    ];
    args.extend(["-CA", &ca, "-CAkey", &ca_key]);
    args.extend(ALGORITHM);
    let extensions = certificate.extensions();
    for extension in &extensions {
        args.extend(["-addext", extension]);
    }
    args.extend(["-out", &out, "-keyout", &key]);
    shell::run("openssl", &args)
}

fn make_token_key(pki: &Path) -> Result<()> {
    let key = path(pki, "service-account.key");
    shell::run(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            &key,
        ],
    )?;
    shell::run(
        "openssl",
        &[
            "pkey",
            "-in",
            &key,
            "-pubout",
            "-out",
            &path(pki, "service-account.pub"),
        ],
    )
}

fn path(pki: &Path, file: &str) -> String {
    pki.join(file).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_answers_to_its_service_and_to_the_forwarder() {
        let server = all().remove(0);
        for name in [
            "DNS:kubernetes.default.svc",
            "IP:10.96.0.1",
            "IP:127.0.0.1",
            "IP:10.200.0.1",
        ] {
            assert!(server.names.iter().any(|n| n == name), "{name}");
        }
        assert!(
            server
                .extensions()
                .iter()
                .any(|e| e == "extendedKeyUsage=serverAuth")
        );
    }

    #[test]
    fn a_kubelet_is_in_the_group_of_nodes() {
        let node = all().into_iter().find(|c| c.file == "node2").unwrap();
        assert_eq!(node.subject(), "/O=system:nodes/CN=system:node:node2");
        assert!(
            node.extensions()
                .iter()
                .any(|e| e == "extendedKeyUsage=clientAuth")
        );
    }
}
