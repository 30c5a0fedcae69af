//! How large values can be.

use crate::schema::{Schema, Shape};

/// As many bytes as a request can carry.
const REQUEST: u64 = 3 * 1024 * 1024;

/// As many characters, items or entries as a value can have.
pub(super) fn most_items(schema: &Schema) -> u64 {
    let limits = &schema.limits;
    match schema.shape {
        Shape::String | Shape::IntOrString => match (
            limits.format.as_deref(),
            limits.max_length,
            &limits.one_of_values,
        ) {
            (_, Some(most), _) => most.saturating_mul(4),
            (_, _, Some(values)) => {
                let lengths = values
                    .iter()
                    .filter_map(|value| value.as_str())
                    .map(|text| text.len() as u64);
                lengths.max().unwrap_or(0)
            }
            (Some("date-time" | "duration"), ..) => 32,
            (Some("date"), ..) => 12,
            _ => REQUEST - 2,
        },
        Shape::Array => {
            let least = schema.items.as_deref().map_or(1, least_size);
            limits.max_items.unwrap_or((REQUEST - 2) / (least + 1))
        }
        Shape::Object => match &schema.additional {
            // A key, its quotes, a colon and a comma.
            Some(additional) => limits
                .max_properties
                .unwrap_or((REQUEST - 2) / (least_size(additional) + 6)),
            None => 1,
        },
        Shape::Any | Shape::Integer | Shape::Number | Shape::Boolean => 1,
    }
}

/// As many bytes as a value takes at least.
fn least_size(schema: &Schema) -> u64 {
    match schema.shape {
        Shape::String | Shape::Array => 2,
        Shape::Boolean => 4,
        Shape::Object => {
            let required = schema.limits.required.iter().filter_map(|name| {
                let property = schema
                    .properties
                    .get(name)
                    .filter(|property| property.default.is_none())?;
                Some(name.len() as u64 + least_size(property) + 4)
            });
            2 + required.sum::<u64>()
        }
        Shape::Any | Shape::Integer | Shape::Number | Shape::IntOrString => 1,
    }
}
