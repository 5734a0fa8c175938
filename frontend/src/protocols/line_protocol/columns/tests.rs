use std::collections::BTreeMap;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{Float64Type, Int64Type, UInt64Type};
use proptest::prelude::*;

use super::super::parse::{Line, parse_lines};
use super::*;

/// A line by names, in the way that both parsers can be brought to.
type Row = (BTreeMap<String, String>, BTreeMap<String, String>, Option<i64>);

fn of_line(line: &Line) -> Row {
    let tags = line
        .tags
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()));
    let fields = line.fields.iter().map(|(key, value)| {
        let shown = match value {
            FieldValue::Float(value) => format!("{value:?}"),
            FieldValue::Integer(value) => format!("{value}i"),
            FieldValue::Unsigned(value) => format!("{value}u"),
            FieldValue::Boolean(value) => value.to_string(),
            FieldValue::Text(value) => format!("{value:?}"),
        };
        (key.to_string(), shown)
    });
    (tags.collect(), fields.collect(), line.timestamp)
}

fn shown(array: &ArrayRef, kind: Kind, row: usize) -> Option<String> {
    array.is_valid(row).then(|| match kind {
        Kind::Float => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        Kind::Integer => format!("{}i", array.as_primitive::<Int64Type>().value(row)),
        Kind::Unsigned => format!("{}u", array.as_primitive::<UInt64Type>().value(row)),
        Kind::Boolean => array.as_boolean().value(row).to_string(),
        Kind::Text => format!("{:?}", array.as_string::<i32>().value(row)),
    })
}

/// All rows, read in parts of `step`.
fn of_columns(lines: &TableLines, step: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for start in (0..lines.keys.len()).step_by(step) {
        let range = start..lines.keys.len().min(start + step);
        let keys = &lines.keys[range.clone()];
        let tags: Vec<_> = lines
            .tags
            .iter()
            .map(|t| (t, t.texts_of(keys).unwrap()))
            .collect();
        let field = |f: &Column| f.array(range.clone(), f.kind().column_type()).unwrap();
        let fields: Vec<_> = lines
            .fields
            .iter()
            .map(|f| (f.name.to_string(), f.kind(), field(f)))
            .collect();
        for row in 0..range.len() {
            let tag = |(tag, array): &(&Column, ArrayRef)| {
                let text = array.as_string::<i32>();
                text.is_valid(row)
                    .then(|| (tag.name.to_string(), text.value(row).to_owned()))
            };
            let field = |(name, kind, array): &(String, Kind, ArrayRef)| {
                shown(array, *kind, row).map(|value| (name.clone(), value))
            };
            let at = start + row;
            let time = (!lines.untimed.contains(&(at as u32))).then(|| lines.times[at]);
            rows.push((
                tags.iter().filter_map(tag).collect(),
                fields.iter().filter_map(field).collect(),
                time,
            ));
        }
    }
    rows
}

fn check(text: &str, step: usize) -> std::result::Result<(), TestCaseError> {
    let (lines, bad) = parse_lines(text);
    let body = parse_columns(text);
    prop_assert_eq!(&body.bad, &bad, "{}", text);
    let mut names: Vec<&str> = vec![];
    for line in &lines {
        if !names.contains(&line.measurement.as_ref()) {
            names.push(&line.measurement);
        }
    }
    let found: Vec<&str> = body.tables.iter().map(|t| t.name.as_ref()).collect();
    prop_assert_eq!(&found, &names, "{}", text);
    for table in &body.tables {
        let same: Vec<&Line> = lines.iter().filter(|l| l.measurement == table.name).collect();
        if table.uneven {
            continue;
        }
        let expected: Vec<Row> = same.iter().map(|l| of_line(l)).collect();
        prop_assert_eq!(of_columns(table, step), expected, "{}", text);
        let tags: Vec<&str> = table.tags.iter().map(|t| t.name.as_ref()).collect();
        let mut in_order: Vec<&str> = vec![];
        for (key, _) in same.iter().flat_map(|l| &l.tags) {
            if !in_order.contains(&key.as_ref()) {
                in_order.push(key);
            }
        }
        prop_assert_eq!(tags, in_order, "{}", text);
    }
    Ok(())
}

/// Lines that are right, nearly right, or nothing of the kind.
fn body() -> impl Strategy<Value = String> {
    let word = r"[ab\\,= ü]{1,3}|[abc]|a|b";
    let value = prop_oneof![
        "-?[0-9]{1,3}i",
        "[0-9]{17,20}i",
        "-?[0-9]{1,2}\\.[0-9]{0,3}",
        "[0-9]{1,2}e-?[0-9]",
        "[0-9]{1,3}u",
        "t|false|True|x|nan|inf|i|",
        "\"[ab\\\\\", =\n]{0,4}\"",
        "\"[ab]",
    ];
    let time =
        prop_oneof![6 => " [0-9]{1,5}", 1 => " -?[0-9]{18,20}", 1 => "  ?[+-]?[0-9]{0,2}[ x]?", 1 => ""];
    let tags = proptest::collection::vec((word, word), 0..3);
    let fields = proptest::collection::vec((word, value), 0..4);
    let space = prop_oneof![9 => Just(" "), 1 => Just("  "), 1 => Just("")];
    let line = ("[mn]|#|[ \t]m|", tags, space, fields, time).prop_map(|(name, tags, space, fields, time)| {
        let tags: String = tags.iter().map(|(k, v)| format!(",{k}={v}")).collect();
        let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        format!("{name}{tags}{space}{}{time}", fields.join(","))
    });
    let end = prop_oneof![8 => Just("\n"), 1 => Just("\r\n"), 1 => Just("\n\n")];
    let lines = proptest::collection::vec((line, end), 0..12);
    lines.prop_map(|lines| lines.into_iter().map(|(line, end)| line + end).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn columns_have_what_the_lines_say_one_by_one(text in body(), step in 1..5_usize) {
        check(&text, step)?;
    }

    #[test]
    fn any_text_is_read_alike(text in "[mab,=\" \\\\1i.\n\r#ü-]{0,60}", step in 1..5_usize) {
        check(&text, step)?;
    }
}

#[test]
fn lines_of_one_shape_are_even_and_their_series_are_numbered() {
    let text = "m,a=1,b=x f=1i,g=2.5 10\nm,a=2,b=x f=2i,g=3 11\nm,a=1,b=x f=-3i 12\nm,a=1,b=x g=4,h=t";
    let body = parse_columns(text);
    let lines = &body.tables[0];
    assert!(!lines.uneven && body.bad.is_empty());
    assert_eq!((lines.series, &lines.keys[..]), (2, &[0, 1, 0, 0][..]));
    assert_eq!(lines.untimed, [3]);
    check(text, 3).unwrap();
}

#[test]
fn a_wrong_line_leaves_nothing_behind() {
    let text = "m,a=1 f=1i 1\nm,b=1,c=2 f=2i,g=3i,h=x 2\nn,x=1 f= 3\nm,a=1 f=4i 4";
    let body = parse_columns(text);
    assert_eq!(body.tables.len(), 1);
    let lines = &body.tables[0];
    assert_eq!((lines.tags.len(), lines.fields.len(), lines.series), (1, 1, 1));
    assert_eq!(lines.fields[0].len(), 2);
    check(text, 1).unwrap();
}

#[test]
fn a_name_with_an_escaped_comma_is_not_taken_for_one_without() {
    check("m a\\,b=1i 1\nm a,b=1i 2", 1).unwrap();
}
