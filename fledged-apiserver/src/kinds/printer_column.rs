//! Printer columns of tables, and their simple JSON paths.

use serde_json::Value;

/// A column of a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub(crate) kind: String,
    pub(crate) format: String,
    pub(crate) description: String,
    pub(crate) priority: i64,
    pub(crate) path: String,
}

/// A path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// Every item, or every field.
    All,
    /// Items whose value at a path is (or is not) `value`.
    Where {
        path: JsonPath,
        value: Value,
        equal: bool,
    },
}

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    ///
    /// A path that is malformed or not a simple path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut steps = Vec::new();
        let mut rest = text.trim().trim_start_matches('$');
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let end =
                    closing(after).ok_or_else(|| format!("unterminated array in {text:?}"))?;
                let (inside, after) = after.split_at(end);
                steps.push(bracket(inside)?);
                rest = after.get(1..).unwrap_or_default();
            } else if let Some(after) = rest.strip_prefix('.') {
                let (name, after) = name(after);
                match name.as_str() {
                    "" if after.is_empty() && steps.is_empty() => {}
                    "" => return Err(format!("empty name in {text:?}")),
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Field(name)),
                }
                rest = after;
            } else {
                return Err(format!("expected '.' or '[' in {text:?}"));
            }
        }
        Ok(Self(steps))
    }

    /// The values at the path.
    pub(crate) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| step.from(value))
                .collect();
        }
        found
    }
}

impl Step {
    fn from<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match (self, value) {
            (Self::Field(name), value) => value.get(name).into_iter().collect(),
            (Self::Index(index), Value::Array(items)) => {
                let at = match usize::try_from(*index) {
                    Ok(index) => Some(index),
                    Err(_) => usize::try_from(index.unsigned_abs())
                        .ok()
                        .and_then(|n| items.len().checked_sub(n)),
                };
                at.and_then(|at| items.get(at)).into_iter().collect()
            }
            (Self::All, Value::Array(items)) => items.iter().collect(),
            (Self::All, Value::Object(fields)) => fields.values().collect(),
            (Self::Where { path, value, equal }, Value::Array(items)) => {
                let holds = |item: &&Value| {
                    path.find(item)
                        .iter()
                        .any(|found| (*found == value) == *equal)
                };
                items.iter().filter(holds).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The index of the closing bracket, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let (mut quote, mut depth) = (None, 0_usize);
    for (index, character) in text.char_indices() {
        match (quote, character) {
            (Some(open), character) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '[') => depth += 1,
            (None, ']') => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return Some(index),
            },
            _ => {}
        }
    }
    None
}

/// A name up to the next `.` or `[`; a backslash escapes the next character.
fn name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut characters = text.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '\\' => name.extend(characters.next().map(|(_, escaped)| escaped)),
            '.' | '[' => return (name, text.get(index..).unwrap_or_default()),
            other => name.push(other),
        }
    }
    (name, "")
}

fn bracket(inside: &str) -> Result<Step, String> {
    if inside == "*" {
        return Ok(Step::All);
    }
    if let Some(index) = inside.parse().ok().map(Step::Index) {
        return Ok(index);
    }
    if let Some(condition) = inside
        .strip_prefix("?(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        let (path, value, equal) = match (condition.split_once("=="), condition.split_once("!=")) {
            (Some((path, value)), _) => (path, value, true),
            (None, Some((path, value))) => (path, value, false),
            (None, None) => return Err(format!("only == and != are supported in {inside:?}")),
        };
        let path = path
            .trim()
            .strip_prefix('@')
            .ok_or_else(|| format!("expected '@' in {inside:?}"))?;
        let value = value.trim();
        let quoted = ['\'', '"']
            .iter()
            .find_map(|q| value.strip_prefix(*q)?.strip_suffix(*q));
        let value = match quoted {
            Some(text) => Value::String(text.to_owned()),
            None => serde_json::from_str(value)
                .map_err(|_| format!("unreadable value in {inside:?}"))?,
        };
        return Ok(Step::Where {
            path: JsonPath::parse(path)?,
            value,
            equal,
        });
    }
    match ['\'', '"']
        .iter()
        .find_map(|q| inside.strip_prefix(*q)?.strip_suffix(*q))
    {
        Some(name) => Ok(Step::Field(name.to_owned())),
        None => Err(format!("invalid array index {inside}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn simple_json_paths_find_values() {
        let object = json!({
            "metadata": {"annotations": {"example.com/a": "x"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Stale", "status": "False"}]},
        });
        for (path, expected) in [
            (
                ".status.conditions[?(@.type==\"Stale\")].status",
                json!(["False"]),
            ),
            (
                ".status.conditions[?(@.type!='Stale')].status",
                json!(["True"]),
            ),
            (".status.conditions[*].type", json!(["Ready", "Stale"])),
            (".status.conditions[0].type", json!(["Ready"])),
            (".status.conditions[-1].type", json!(["Stale"])),
            (".metadata.annotations.example\\.com/a", json!(["x"])),
            (".metadata.annotations['example.com/a']", json!(["x"])),
            (".spec.absent", json!([])),
        ] {
            let found = JsonPath::parse(path).unwrap();
            let found: Vec<Value> = found.find(&object).into_iter().cloned().collect();
            assert_eq!(Value::Array(found), expected, "{path}");
        }
        for path in ["spec", ".spec[", ".a..b", ".a[?(@.b>1)]"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
