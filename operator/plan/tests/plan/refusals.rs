//! What is refused, and what is said about it.

use greptime_operator_plan::{Fact, Role, SecretFact, condition_types as types, referenced_secrets};
use serde_json::{Value, json};

use crate::support::{World, condition, full, minimal, stateful_set, told};

/// A path in the spec, what is written there, and what the message must name.
const INVALID: [(&str, &str, &str); 26] = [
    ("/metasrv/store/etcd/endpoints", "[]", "endpoints is empty"),
    (
        "/metasrv/store/etcd/endpoints",
        r#"["etcd:2379"]"#,
        "endpoints[0] `etcd:2379` must be http://",
    ),
    ("/metasrv/store/etcd/endpoints", r#"["http://"]"#, "endpoints[0]"),
    (
        "/metasrv/store/etcd/endpoints",
        r#"["http://e:99999"]"#,
        "endpoints[0]",
    ),
    (
        "/metasrv/store/etcd/prefix",
        r#""/""#,
        "prefix `/` must look like",
    ),
    ("/metasrv/store/etcd/prefix", r#""/a/../b""#, "prefix"),
    (
        "/metasrv/resources",
        r#"{"requests": {"memory": "1GiB"}}"#,
        "requests.memory `1GiB` is no quantity",
    ),
    (
        "/metasrv/resources",
        r#"{"limits": {"cpu": -1}}"#,
        "limits.cpu `-1`",
    ),
    (
        "/metasrv/resources",
        r#"{"requests": {"cpu": 2}, "limits": {"cpu": 1}}"#,
        "requests.cpu is 2, more than the limit 1",
    ),
    (
        "/metasrv/config",
        r#"{"a b": "1"}"#,
        "`a b` is no name of a setting",
    ),
    ("/metasrv/config", r#"{"log.": "1"}"#, "`log.` is no name"),
    (
        "/metasrv/config",
        r#"{"object_store.secret_access_key": "x"}"#,
        "use spec.objectStorage",
    ),
    (
        "/metasrv/config",
        r#"{"log": "x"}"#,
        "`log` has a value, but is also the section of `log.format`",
    ),
    (
        "/metasrv/scheduling",
        r#"{"affinity": {"nodeAffinity": 3}}"#,
        "spec.metasrv.scheduling.affinity",
    ),
    ("/metasrv/replicas", "0", "spec.metasrv.replicas is 0"),
    ("/objectStorage", "{}", "needs exactly one of s3, gcs and azure"),
    (
        "/objectStorage",
        r#"{"s3": {"bucket": "rows"}, "gcs": {"bucket": "rows"}}"#,
        "needs exactly one of s3, gcs and azure",
    ),
    (
        "/objectStorage",
        r#"{"gcs": {"bucket": "a b"}}"#,
        "gcs.bucket `a b` must be a bucket's name",
    ),
    (
        "/objectStorage",
        r#"{"azure": {"accountName": "My-Account", "container": "rows"}}"#,
        "azure.accountName `My-Account`",
    ),
    (
        "/objectStorage/s3/bucket",
        r#""""#,
        "bucket `` must be a bucket's name",
    ),
    (
        "/objectStorage/s3/endpoint",
        r#""http://host:port""#,
        "s3.endpoint `http://host:port`",
    ),
    ("/objectStorage/s3/root", r#""../other""#, "root `../other`"),
    (
        "/objectStorage/s3/credentialsSecretName",
        r#""Not A Name""#,
        "`Not A Name` is no possible name of a secret",
    ),
    (
        "/ports",
        r#"{"mysql": 4000}"#,
        "spec.ports.mysql and spec.ports.http are both 4000",
    ),
    ("/image", r#""two words""#, "spec.image `two words`"),
    (
        "/datanode/storage",
        r#"{"size": "big"}"#,
        "spec.datanode.storage.size `big`",
    ),
];

fn put(spec: &mut Value, path: &str, value: &str) {
    let mut place = spec;
    for segment in path.split('/').skip(1) {
        place = &mut place[segment];
    }
    *place = serde_json::from_str(value).unwrap();
}

#[test]
fn an_invalid_spec_applies_nothing_and_the_condition_names_the_field() {
    for (path, value, named) in INVALID {
        let mut spec = minimal();
        put(&mut spec, "/datanode/replicas", "3");
        put(&mut spec, path, value);
        let (plan, report) = World::new(spec).plan();
        assert!(plan.apply.is_empty(), "{path} {value}");
        assert_eq!(told(&report, types::READY), "False InvalidSpec", "{path} {value}");
        assert_eq!(told(&report, types::SPEC_VALID), "False InvalidSpec");
        let message = &condition(&report, types::READY).message;
        assert!(message.contains(named), "{message:?} does not name {named:?}");
        assert_eq!(report.requeue, None, "only a change of the object can mend it");
        assert_eq!(report.status.observed_generation, Some(1));
    }
}

#[test]
fn a_name_that_services_cannot_have_is_refused() {
    for name in ["1a", "a.b", "a-", "a-name-that-is-much-longer-than-labels-allow"] {
        let mut world = World::new(minimal());
        world.observed.cluster.metadata.name = Some(name.to_owned());
        assert_eq!(
            told(&world.plan().1, types::SPEC_VALID),
            "False InvalidSpec",
            "{name}"
        );
    }
}

#[test]
fn good_specs_are_not_refused() {
    for spec in [minimal(), full()] {
        let (_, report) = World::new(spec).plan();
        assert_eq!(told(&report, types::SPEC_VALID), "True Valid");
    }
    let mut spec = minimal();
    spec["metasrv"]["store"]["etcd"]["endpoints"] =
        json!(["https://[fd00::1]:2379", "http://10.0.0.1:2379/", "http://etcd"]);
    let (_, report) = World::new(spec).plan();
    assert_eq!(told(&report, types::SPEC_VALID), "True Valid");
}

#[test]
fn a_spec_that_turns_invalid_leaves_what_runs_alone_and_recovers() {
    let mut world = World::settled(minimal());
    world.edit(|spec| spec["metasrv"]["config"] = json!({"node.id": "1"}));
    let (plan, report) = world.reconcile();
    assert!(plan.apply.is_empty() && plan.delete.is_empty());
    assert_eq!(report.status.datanode.ready, "3/3");
    assert!(report.events.iter().any(|event| event.reason == "InvalidSpec"));
    world.edit(|spec| spec["metasrv"]["config"] = json!({}));
    let (_, report) = world.reconcile();
    assert_eq!(told(&report, types::READY), "True AllReady");
}

#[test]
fn exactly_the_secrets_of_the_spec_are_looked_up() {
    let names = |spec| {
        referenced_secrets(&World::new(spec).observed.cluster.spec)
            .into_iter()
            .collect::<Vec<_>>()
    };
    assert!(names(minimal()).is_empty());
    assert_eq!(
        names(full()),
        ["etcd-auth", "etcd-tls", "s3-ca", "s3-keys", "users"]
    );
}

#[test]
fn a_missing_secret_holds_back_the_roles_that_need_it_and_is_named() {
    use Role::{Datanode, Frontend, Metasrv};
    let cases = [
        (
            "etcd-tls",
            "spec.metasrv.store.etcd.tlsSecretName",
            &[Metasrv][..],
        ),
        ("etcd-auth", "spec.metasrv.store.etcd.authSecretName", &[Metasrv]),
        (
            "s3-ca",
            "spec.objectStorage.s3.caSecretName",
            &[Metasrv, Datanode],
        ),
        (
            "s3-keys",
            "spec.objectStorage.s3.credentialsSecretName",
            &[Metasrv, Datanode],
        ),
        ("users", "spec.auth.secretName", &[Frontend]),
    ];
    for (secret, field, held_back) in cases {
        let mut world = World::new(full());
        world.observed.secrets.insert(secret.to_owned(), Fact::Absent);
        let (plan, report) = world.plan();
        for role in Role::ALL {
            assert_eq!(
                stateful_set(&plan, role).is_none(),
                held_back.contains(&role),
                "{secret} {role:?}"
            );
        }
        assert_eq!(told(&report, types::SECRETS_FOUND), "False SecretMissing");
        assert_eq!(told(&report, types::READY), "False SecretMissing");
        let message = &condition(&report, types::SECRETS_FOUND).message;
        assert!(
            message.contains(&format!("secret {secret} ({field})")),
            "{message}"
        );
        assert!(report.requeue.is_some(), "secrets are polled");
    }
}

#[test]
fn a_missing_key_is_named() {
    let mut world = World::new(full());
    let only = |keys: &[&str]| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        Fact::Known(SecretFact {
            keys,
            resource_version: "1".to_owned(),
        })
    };
    world
        .observed
        .secrets
        .insert("s3-keys".to_owned(), only(&["access-key-id"]));
    // Half a client certificate is a mistake; none is not.
    world
        .observed
        .secrets
        .insert("etcd-tls".to_owned(), only(&["ca.crt", "tls.crt"]));
    let (_, report) = world.plan();
    assert_eq!(told(&report, types::SECRETS_FOUND), "False SecretKeyMissing");
    let message = &condition(&report, types::SECRETS_FOUND).message;
    assert!(
        message.contains("has no key secret-access-key") && message.contains("has no key tls.key"),
        "{message}"
    );
    world
        .observed
        .secrets
        .insert("etcd-tls".to_owned(), only(&["ca.crt"]));
    world.observed.secrets.insert(
        "s3-keys".to_owned(),
        only(&["access-key-id", "secret-access-key"]),
    );
    assert_eq!(told(&world.plan().1, types::SECRETS_FOUND), "True Found");
}

#[test]
fn a_secret_that_cannot_be_read_is_unknown_and_what_runs_stays() {
    let mut world = World::settled(full());
    world
        .observed
        .secrets
        .insert("s3-keys".to_owned(), Fact::Unknown("forbidden".to_owned()));
    let (plan, report) = world.plan();
    assert!(stateful_set(&plan, Role::Datanode).is_none());
    assert!(plan.delete.is_empty());
    assert_eq!(told(&report, types::SECRETS_FOUND), "Unknown SecretUnreadable");
    assert!(
        condition(&report, types::SECRETS_FOUND)
            .message
            .contains("forbidden")
    );
    assert_eq!(report.status.datanode.ready, "5/5");
}

#[test]
fn a_changed_secret_rolls_who_reads_it_only_at_its_start() {
    let world = World::settled(full());
    let template = |world: &World, role| stateful_set(&world.plan().0, role).unwrap().spec.template.clone();
    let changed = |secret: &str| {
        let mut world = World::settled(full());
        if let Some(Fact::Known(fact)) = world.observed.secrets.get_mut(secret) {
            fact.resource_version = "8".to_owned();
        }
        Role::ALL.map(|role| template(&world, role) != template(&self::World::settled(full()), role))
    };
    assert_eq!(
        template(&world, Role::Datanode),
        template(&World::settled(full()), Role::Datanode)
    );
    assert_eq!(changed("s3-keys"), [true, true, false]);
    assert_eq!(changed("etcd-auth"), [true, false, false]);
    assert_eq!(
        changed("users"),
        [false, false, false],
        "the users file is read again when it changes"
    );
}
