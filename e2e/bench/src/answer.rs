//! What a database answered, in a form in which answers of different databases can be compared.

use std::cmp::Ordering;

/// Floating-point means may differ by the order of their additions.
const TOLERANCE: f64 = 1e-9;
/// The one column whose values are times.
pub const TIME: &str = "time";

#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Text(String),
    /// Times are milliseconds since 1970.
    Number(f64),
}

impl Cell {
    fn rank(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Text(_) => 1,
            Self::Number(_) => 2,
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn is_near(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0),
            _ => self == other,
        }
    }
}

/// Columns by name; rows in any order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Cell>>,
}

impl Answer {
    pub fn new(columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            columns: columns.into_iter().map(Into::into).collect(),
            rows: Vec::new(),
        }
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|c| c == name)
    }

    /// The rows with the columns of `order`, sorted.
    fn sorted(&self, order: &[usize]) -> Vec<Vec<&Cell>> {
        let mut rows: Vec<Vec<&Cell>> = self
            .rows
            .iter()
            .map(|row| order.iter().map(|c| &row[*c]).collect())
            .collect();
        rows.sort_by(|a, b| {
            let pairs = a.iter().zip(b.iter());
            pairs
                .map(|(a, b)| a.order(b))
                .find(|o| o.is_ne())
                .unwrap_or(Ordering::Equal)
        });
        rows
    }
}

/// The first difference, in words. `optional` columns may be absent from what was got: not every language can
/// return all columns.
pub fn difference(expected: &Answer, got: &Answer, optional: &[&str]) -> Option<String> {
    if expected.rows.len() != got.rows.len() {
        return Some(format!(
            "{} rows instead of {}",
            got.rows.len(),
            expected.rows.len()
        ));
    }
    // Some languages do not name the columns of nothing.
    if expected.rows.is_empty() {
        return None;
    }
    let mut pairs = Vec::new();
    for (number, name) in expected.columns.iter().enumerate() {
        match got.column(name) {
            Some(other) => pairs.push((number, other)),
            None if optional.contains(&name.as_str()) => {}
            None => return Some(format!("no column `{name}` among {:?}", got.columns)),
        }
    }
    let (left, right): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    let (wanted, had) = (expected.sorted(&left), got.sorted(&right));
    for (wanted, had) in wanted.iter().zip(&had) {
        if let Some(at) = (0..wanted.len()).find(|i| !wanted[*i].is_near(had[*i])) {
            let name = &expected.columns[left[at]];
            return Some(format!(
                "`{name}` is {:?} instead of {:?} in {had:?}",
                had[at], wanted[at]
            ));
        }
    }
    None
}

/// The name that a column has everywhere: `m_usage_user`, `cpu_usage_user` → `usage_user`; any time → `time`.
pub fn canonical(column: &str) -> &str {
    match column {
        "bucket" | "timestamp" | "greptime_timestamp" | "time" => TIME,
        other => other
            .strip_prefix("m_")
            .or(other.strip_prefix("cpu_"))
            .unwrap_or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rows: &[(f64, &str, f64)]) -> Answer {
        let mut answer = Answer::new(["time", "hostname", "usage_user"]);
        answer.rows = rows
            .iter()
            .map(|(t, h, v)| vec![Cell::Number(*t), Cell::Text(h.to_string()), Cell::Number(*v)])
            .collect();
        answer
    }

    #[test]
    fn order_of_rows_and_the_last_digits_do_not_matter() {
        let one = answer(&[(1.0, "a", 0.1 + 0.2), (1.0, "b", 2.0)]);
        let two = answer(&[(1.0, "b", 2.0), (1.0, "a", 0.3)]);
        assert_eq!(difference(&one, &two, &[]), None);
    }

    #[test]
    fn another_value_another_number_of_rows_and_a_missing_column_are_differences() {
        let one = answer(&[(1.0, "a", 1.0), (1.0, "b", 2.0)]);
        let value = answer(&[(1.0, "a", 1.0), (1.0, "b", 2.5)]);
        assert!(difference(&one, &value, &[]).unwrap().contains("`usage_user`"));
        let fewer = answer(&[(1.0, "a", 1.0)]);
        assert_eq!(difference(&one, &fewer, &[]).unwrap(), "1 rows instead of 2");
        let mut narrow = one.clone();
        narrow.columns[0] = "other".into();
        assert!(
            difference(&one, &narrow, &[])
                .unwrap()
                .contains("no column `time`")
        );
        assert_eq!(difference(&one, &narrow, &["time"]), None);
    }

    #[test]
    fn null_is_not_zero() {
        let one = answer(&[(1.0, "a", 0.0)]);
        let mut null = one.clone();
        null.rows[0][2] = Cell::Null;
        assert!(difference(&one, &null, &[]).is_some());
    }

    #[test]
    fn columns_have_one_name_whatever_a_language_calls_them() {
        let names = ["m_usage_user", "cpu_usage_user", "usage_user"].map(canonical);
        assert_eq!(names, ["usage_user"; 3]);
        assert_eq!(["bucket", "timestamp", TIME].map(canonical), [TIME; 3]);
    }
}
