//! A parser for the parts of Prometheus' text format that API servers use.

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample<'a> {
    pub(crate) name: &'a str,
    labels: &'a str,
    pub(crate) value: f64,
}

impl Sample<'_> {
    /// The value of a label; empty if the label is missing.
    pub(crate) fn label(&self, name: &str) -> &str {
        let mut rest = self.labels;
        while let Some((key, after)) = rest.split_once("=\"") {
            let Some((value, after)) = after.split_once('"') else {
                break;
            };
            if key.trim_start_matches(',') == name {
                return value;
            }
            rest = after;
        }
        ""
    }
}

/// Parses all values. Escaped quotes in label values are not supported; API servers have none.
pub(crate) fn samples(text: &str) -> impl Iterator<Item = Sample<'_>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let (key, value) = line.rsplit_once(' ')?;
        let (name, labels) = key.split_once('{').unwrap_or((key, ""));
        Some(Sample {
            name,
            labels: labels.trim_end_matches('}'),
            value: value.parse().ok()?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_labels_and_values_are_parsed() {
        let text = "# TYPE a counter\na{verb=\"GET\",subresource=\"\",code=\"200\"} 3\nb 1.5e+06\n";
        let all: Vec<Sample<'_>> = samples(text).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].name, all[1].name), ("a", "b"));
        assert_eq!(
            ["verb", "code", "subresource", "erb"].map(|name| all[0].label(name)),
            ["GET", "200", "", ""]
        );
        assert!((all[0].value - 3.0).abs() < f64::EPSILON);
        assert!((all[1].value - 1_500_000.0).abs() < f64::EPSILON);
    }
}
