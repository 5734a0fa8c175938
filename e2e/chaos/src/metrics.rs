//! What a process counts, as it tells at `/metrics`.

/// The text of one process at one time.
#[derive(Clone, Debug, Default)]
pub struct Metrics(pub String);

impl Metrics {
    /// The sum over all labels; 0 if it has none of this name.
    pub fn sum(&self, name: &str) -> u64 {
        self.sum_where(name, "")
    }

    /// Only of those samples whose labels hold this text, such as `operation="put"`.
    pub fn sum_where(&self, name: &str, label: &str) -> u64 {
        let samples = self.0.lines().filter_map(|line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let (found, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let is_it = found == name && (label.is_empty() || labels.contains(label));
            is_it.then(|| value.parse::<f64>().ok()).flatten()
        });
        samples.sum::<f64>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_label() {
        let text = "# HELP a_total Things.\n# TYPE a counter\na_total{kind=\"x\"} 3\na_total{kind=\"y\",more=\"1\"} 4\na_total_b 9\nb 1.5e3\n# EOF\n";
        let metrics = Metrics(text.to_owned());
        assert_eq!(metrics.sum("a_total"), 7);
        assert_eq!(metrics.sum_where("a_total", "kind=\"y\""), 4);
        assert_eq!((metrics.sum("b"), metrics.sum("c")), (1_500, 0));
    }
}
