use serde_json::{Value, json};

use super::{Owner, difference};

const US: Owner<'static> = Owner {
    manager: "us",
    subresource: None,
};

/// A live object that we own the given fields of.
fn live(mut object: Value, owned: Value) -> Value {
    object["metadata"]["managedFields"] = json!([
        {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:data": {"f:theirs": {}}}},
        {"manager": "us", "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {}}},
        {"manager": "us", "operation": "Apply", "fieldsV1": owned},
    ]);
    object
}

fn check(desired: Value, object: Value) -> Option<String> {
    difference(&desired, &live(object, json!({})), US)
}

#[test]
fn what_the_server_added_is_no_difference() {
    let desired =
        json!({"apiVersion": "v1", "spec": {"ports": [{"port": 4000, "name": "http"}], "type": null}});
    let object = json!({"spec": {
        "clusterIP": "10.0.0.1", "ports": [{"port": 4000, "name": "http", "protocol": "TCP", "targetPort": 4000}]}});
    assert_eq!(check(desired, object), None);
}

#[test]
fn a_changed_value_is_named_with_its_path() {
    let found = check(json!({"data": {"a": "1"}}), json!({"data": {"a": "2"}}));
    assert_eq!(found.as_deref(), Some(r#"data.a: "2" instead of "1""#));
}

#[test]
fn items_are_found_by_their_key_in_any_order() {
    let desired = json!({"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]});
    let swapped = json!({"env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}, {"name": "C"}]});
    assert_eq!(check(desired.clone(), swapped), None);
    let missing = json!({"env": [{"name": "B", "value": "2"}]});
    assert_eq!(check(desired, missing).as_deref(), Some("env[A]: missing"));
}

#[test]
fn ports_are_found_by_number_and_protocol() {
    let desired = json!({"ports": [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}]});
    let object = json!({"ports": [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}]});
    assert_eq!(check(desired, object), None);
}

#[test]
fn other_lists_are_one_value() {
    let found = check(json!({"args": ["a"]}), json!({"args": ["a", "b"]}));
    assert_eq!(found.as_deref(), Some("args: 2 entries instead of 1"));
    assert!(check(json!({"args": ["a", "b"]}), json!({"args": ["b", "a"]})).is_some());
    let template = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}]});
    let defaulted =
        json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "status": {"phase": "Pending"}}]});
    assert_eq!(check(template, defaulted), None);
}

#[test]
fn a_zero_may_be_dropped_by_the_server_unless_its_absence_means_something() {
    assert_eq!(
        check(
            json!({"spec": {"hostNetwork": false, "labels": {}}}),
            json!({"spec": {}})
        ),
        None
    );
    let found = check(json!({"automountServiceAccountToken": false}), json!({}));
    assert_eq!(found.as_deref(), Some("automountServiceAccountToken: missing"));
}

#[test]
fn a_key_added_to_a_selector_is_a_difference_and_one_added_to_the_labels_is_not() {
    let desired = json!({"spec": {"selector": {"app": "a"}}, "metadata": {"labels": {"app": "a"}}});
    let object =
        json!({"spec": {"selector": {"app": "a", "x": "y"}}, "metadata": {"labels": {"app": "a", "x": "y"}}});
    assert_eq!(
        check(desired, object).as_deref(),
        Some("spec.selector.x: not wanted")
    );
}

#[test]
fn quantities_are_compared_by_value_and_only_where_quantities_are() {
    let desired = json!({"resources": {"requests": {"cpu": "1000m"}}});
    assert_eq!(
        check(desired, json!({"resources": {"requests": {"cpu": "1"}}})),
        None
    );
    assert!(check(json!({"data": {"cpu": "1000m"}}), json!({"data": {"cpu": "1"}})).is_some());
}

#[test]
fn an_object_that_we_do_not_manage_yet_differs() {
    let found = difference(&json!({"data": {}}), &json!({"data": {}, "metadata": {}}), US);
    assert_eq!(
        found.as_deref(),
        Some("metadata.managedFields: us does not manage it yet")
    );
}

#[test]
fn what_we_set_once_and_no_longer_want_is_a_difference() {
    let owned = json!({"f:data": {".": {}, "f:a": {}, "f:old": {}}});
    let object = live(json!({"data": {"a": "1", "old": "2", "theirs": "3"}}), owned);
    let found = difference(&json!({"data": {"a": "1"}}), &object, US);
    assert_eq!(found.as_deref(), Some("data.old: no longer wanted"));
}

#[test]
fn an_item_that_we_no_longer_want_is_a_difference() {
    let owned = json!({"f:ports": {
        r#"k:{"port":4000,"protocol":"TCP"}"#: {".": {}, "f:port": {}},
        r#"k:{"port":4001,"protocol":"TCP"}"#: {".": {}, "f:port": {}}}});
    let object = live(json!({"ports": [{"port": 4000}, {"port": 4001}]}), owned);
    let both = json!({"ports": [{"port": 4000}, {"port": 4001}]});
    assert_eq!(difference(&both, &object, US), None);
    let found = difference(&json!({"ports": [{"port": 4000}]}), &object, US);
    assert!(found.unwrap().ends_with("no longer wanted"));
}
