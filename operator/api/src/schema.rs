//! Corrections of the generated schema.

use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

/// The schema of one of Kubernetes' own types without its prose.
///
/// `kubectl explain pod.spec.affinity` explains them better than a copy would, and with the prose the
/// definition would be several times as large as plain `kubectl apply` takes.
pub fn plain<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator).to_value();
    strip_descriptions(&mut schema, false);
    Schema::try_from(schema).unwrap_or_default()
}

/// References by name only; the type's own schema would allow an empty name.
pub fn local_references(_: &mut SchemaGenerator) -> Schema {
    let _: Option<LocalObjectReference> = None;
    schemars::json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 253}},
        },
    })
}

/// `names` is whether the keys of this object are names of fields, among which `description` may be one.
fn strip_descriptions(value: &mut Value, names: bool) {
    match value {
        Value::Object(map) => {
            if !names {
                map.remove("description");
            }
            for (key, child) in map.iter_mut() {
                strip_descriptions(child, !names && key == "properties");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| strip_descriptions(item, false)),
        _ => {}
    }
}

/// What the derive cannot say.
pub fn finish(crd: &mut CustomResourceDefinition) {
    for version in &mut crd.spec.versions {
        let root = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(root) = root {
            drop_numeric_formats(root);
        }
    }
}

/// The API server knows int32 and int64 only, and warns of every other format on each apply.
fn drop_numeric_formats(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref().is_some_and(|f| f.starts_with("uint")) {
        schema.format = None;
    }
    for child in schema.properties.iter_mut().flat_map(|p| p.values_mut()) {
        drop_numeric_formats(child);
    }
}
