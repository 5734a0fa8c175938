//! Functions over columns of type JSON, known to frontends and datanodes alike, so that filters may travel.
//!
//! | function | what it gives |
//! |---|---|
//! | `json_get_string(json, path)` | the value as a text, also if it is a number, an object or a list |
//! | `json_get_int`, `json_get_float`, `json_get_bool` | the value, or NULL if it is none |
//! | `json_path_exists(json, path)` | whether there is a value, `null` included |
//!
//! A path is `a.b[0]` or `$.a.b[0]`. What is not JSON has nothing in it.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use serde_json::Value;

/// All of them.
pub fn json_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        function("json_get_string", DataType::Utf8, |found| {
            let text = |value: Value| match value {
                Value::Null => None,
                Value::String(text) => Some(text),
                other => Some(other.to_string()),
            };
            let texts = found.into_iter().map(|value| value.and_then(text));
            Arc::new(texts.collect::<StringArray>())
        }),
        function("json_get_int", DataType::Int64, |found| {
            let numbers = found.into_iter().map(|value| value?.as_i64());
            Arc::new(numbers.collect::<Int64Array>())
        }),
        function("json_get_float", DataType::Float64, |found| {
            let numbers = found.into_iter().map(|value| value?.as_f64());
            Arc::new(numbers.collect::<Float64Array>())
        }),
        function("json_get_bool", DataType::Boolean, |found| {
            let values = found.into_iter().map(|value| value?.as_bool());
            Arc::new(values.collect::<BooleanArray>())
        }),
        function("json_path_exists", DataType::Boolean, |found| {
            let exists: Vec<bool> = found.iter().map(Option::is_some).collect();
            Arc::new(BooleanArray::from(exists))
        }),
    ]
}

fn function(
    name: &str,
    returns: DataType,
    make: impl Fn(Vec<Option<Value>>) -> ArrayRef + Send + Sync + 'static,
) -> Arc<ScalarUDF> {
    let body = move |arguments: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let texts = cast(&arrays[0], &DataType::Utf8)?;
        let paths = cast(&arrays[1], &DataType::Utf8)?;
        let rows = texts.as_string::<i32>().iter().zip(paths.as_string::<i32>());
        let found = rows.map(|(text, path)| lookup(text?, path?)).collect();
        Ok(ColumnarValue::Array(make(found)))
    };
    let arguments = vec![DataType::Utf8, DataType::Utf8];
    Arc::new(create_udf(
        name,
        arguments,
        returns,
        Volatility::Immutable,
        Arc::new(body),
    ))
}

fn lookup(text: &str, path: &str) -> Option<Value> {
    let mut value: Value = serde_json::from_str(text).ok()?;
    let path = path.strip_prefix('$').unwrap_or(path);
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        value = match step.strip_suffix(']') {
            Some(position) => value.get_mut(position.parse::<usize>().ok()?)?.take(),
            None => value.get_mut(step)?.take(),
        };
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_objects_and_lists() {
        let text = r#"{"a": {"b": [1, {"c": "x"}]}, "n": null}"#;
        for (path, found) in [
            ("a.b[0]", Some("1")),
            ("$.a.b[1].c", Some("\"x\"")),
            ("n", Some("null")),
            ("a.b[2]", None),
            ("a.x", None),
            ("a.b[x]", None),
        ] {
            let value = lookup(text, path).map(|v| v.to_string());
            assert_eq!(value.as_deref(), found, "{path}");
        }
        assert_eq!(lookup("no json", "a"), None);
    }
}
