//! How much work a JSON Schema can make of a small value. References multiply: thirty lines of `allOf` with two references
//! each are a billion checks, and a schema that refers to itself twice doubles them with each level of the value.

use std::collections::HashMap;

use serde_json::Value;

/// Checks of one value, references followed.
const MAX_CHECKS: u64 = 50_000;
/// The same of a schema that refers to itself, for a value as deep as it is.
const MAX_RECURSIVE_CHECKS: u64 = 100_000;

/// What the schemas of a keyword are about.
#[derive(Clone, Copy)]
enum About {
    /// The value itself.
    Same,
    /// Its elements.
    Elements,
    /// Any of its members.
    Members,
    /// One member each.
    One,
}

/// Keywords with a schema, or a list of them.
const SCHEMAS: &[(&str, About)] = &[
    ("allOf", About::Same),
    ("anyOf", About::Same),
    ("oneOf", About::Same),
    ("not", About::Same),
    ("if", About::Same),
    ("then", About::Same),
    ("else", About::Same),
    ("items", About::Elements),
    ("additionalItems", About::Elements),
    ("contains", About::Elements),
    ("additionalProperties", About::Members),
    ("propertyNames", About::Members),
];
/// Keywords with a map of schemas.
const MAPS: &[(&str, About)] = &[
    ("dependencies", About::Same),
    ("patternProperties", About::Members),
    ("properties", About::One),
];

/// What a schema costs.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    checks: u64,
    /// How often the schema is come back to: for the same value, for one element, for one member.
    same: u64,
    element: u64,
    member: u64,
}

impl Cost {
    fn again(self) -> u64 {
        self.same.max(self.element).max(self.member)
    }
}

/// How often a schema comes back to itself for one value below: 0 or 1 is harmless at any depth.
///
/// # Errors
/// Why it is not used.
pub(crate) fn growth(schema: &Value) -> Result<u64, String> {
    let mut walk = Walk {
        root: schema,
        open: Vec::new(),
        known: HashMap::new(),
    };
    let cost = walk.cost(schema)?;
    if cost.checks > MAX_CHECKS {
        return Err(format!(
            "with its references followed it is more than {MAX_CHECKS} checks"
        ));
    }
    Ok(cost.again())
}

/// Whether a value is not too deep for a schema that comes back to itself so often.
pub(crate) fn bears(growth: u64, value: &Value) -> bool {
    let checks = u32::try_from(depth(value))
        .ok()
        .and_then(|depth| growth.checked_pow(depth));
    growth < 2 || checks.is_some_and(|checks| checks <= MAX_RECURSIVE_CHECKS)
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

struct Walk<'a> {
    root: &'a Value,
    /// The schemas that are being looked at, by address.
    open: Vec<*const Value>,
    known: HashMap<*const Value, Cost>,
}

impl<'a> Walk<'a> {
    fn cost(&mut self, schema: &'a Value) -> Result<Cost, String> {
        let at: *const Value = schema;
        if let Some(known) = self.known.get(&at) {
            return Ok(*known);
        }
        if self.open.contains(&at) {
            return Ok(Cost {
                checks: 1,
                same: 1,
                ..Cost::default()
            });
        }
        let Some(keywords) = schema.as_object() else {
            return Ok(Cost {
                checks: 1,
                ..Cost::default()
            });
        };
        self.open.push(at);
        let mut cost = Cost {
            checks: keywords.len() as u64 + 1,
            ..Cost::default()
        };
        let reference = keywords.get("$ref").and_then(Value::as_str);
        let target = reference.map_or(Ok(None), |reference| self.target(reference))?;
        if let Some(target) = target {
            let target = self.cost(target)?;
            cost.add_same(target);
        }
        let listed = SCHEMAS
            .iter()
            .map(|(keyword, about)| (schemas(keywords.get(*keyword)), *about));
        let mapped = MAPS
            .iter()
            .map(|(keyword, about)| (mapped(keywords.get(*keyword)), *about));
        for (below, about) in listed.chain(mapped) {
            let mut most = 0;
            for schema in below {
                let below = self.cost(schema)?;
                match about {
                    About::Same => cost.add_same(below),
                    About::Elements => cost.element = cost.element.saturating_add(below.again()),
                    About::Members => cost.member = cost.member.saturating_add(below.again()),
                    About::One => most = most.max(below.again()),
                }
                if !matches!(about, About::Same) {
                    cost.checks = cost.checks.saturating_add(below.checks);
                }
            }
            cost.member = cost.member.saturating_add(most);
        }
        self.open.pop();
        if !self.open.is_empty()
            && ["$id", "id"]
                .iter()
                .any(|id| keywords.get(*id).is_some_and(Value::is_string))
        {
            return Err("a schema within it has an id of its own".to_owned());
        }
        self.known.insert(at, cost);
        Ok(cost)
    }

    /// What a reference means; none for the schema of schemas, and for what leads nowhere.
    fn target(&self, reference: &str) -> Result<Option<&'a Value>, String> {
        if reference.contains("//json-schema.org/") {
            return Ok(None);
        }
        let Some(pointer) = reference
            .strip_prefix('#')
            .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        else {
            return Err(format!(
                "the reference {reference} leads out of it: #/definitions/… is followed"
            ));
        };
        let pointer = percent_decoded(pointer);
        Ok(self.root.pointer(&pointer))
    }
}

impl Cost {
    fn add_same(&mut self, below: Cost) {
        self.checks = self.checks.saturating_add(below.checks);
        self.same = self.same.saturating_add(below.same);
        self.element = self.element.saturating_add(below.element);
        self.member = self.member.saturating_add(below.member);
    }
}

fn schemas(keyword: Option<&Value>) -> Vec<&Value> {
    match keyword {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(one) => vec![one],
        None => Vec::new(),
    }
}

fn mapped(keyword: Option<&Value>) -> Vec<&Value> {
    keyword
        .and_then(Value::as_object)
        .map_or_else(Vec::new, |map| map.values().collect())
}

/// The fragment of a URI reference (RFC 3986 §2.1).
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex
            .filter(|_| byte == b'%')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn references_that_double_are_refused_and_large_schemas_are_not() {
        let mut doubling = json!({"type": "integer"});
        for level in 0..40 {
            let below = format!("#/definitions/a{}", level + 1);
            doubling["definitions"][format!("a{level}")] = json!({"allOf": [{"$ref": below}, {"$ref": below}]});
        }
        doubling["$ref"] = "#/definitions/a0".into();
        assert!(growth(&doubling).unwrap_err().contains("checks"));
        let large: serde_json::Map<_, _> = (0..2000)
            .map(|n| (format!("p{n}"), json!({"type": "string"})))
            .collect();
        assert_eq!(growth(&json!({"properties": large})), Ok(0));
        let mut deep = json!({});
        for _ in 0..60 {
            deep = json!({"items": {"properties": {"items": deep, "not": {}}}});
        }
        assert_eq!(growth(&deep), Ok(0));
        for bad in ["http://example.com/x", "#name", "other.json#/a"] {
            assert!(growth(&json!({"$ref": bad})).is_err(), "{bad}");
        }
        assert_eq!(
            growth(&json!({"$ref": "http://json-schema.org/draft-07/schema#"})),
            Ok(0)
        );
        let own_id = json!({"properties": {"a": {"$id": "http://example.com/a", "$ref": "#/definitions/x"}}});
        assert!(growth(&own_id).is_err());
        assert_eq!(
            growth(&json!({"properties": {"id": {"type": "string"}}, "default": {"id": "x"}})),
            Ok(0)
        );
    }

    #[test]
    fn a_tree_may_be_deep_and_what_doubles_with_each_level_may_not() {
        let tree = json!({"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}}, "items": {"$ref": "#"}});
        let json_like =
            json!({"anyOf": [{"type": "string"}, {"items": {"$ref": "#"}}, {"additionalProperties": {"$ref": "#"}}]});
        for harmless in [&tree, &json_like] {
            assert_eq!(growth(harmless), Ok(1));
        }
        let twice = json!({"allOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]});
        let by_two = json!({"$ref": "#/definitions/a", "definitions": {
            "a": {"allOf": [{"$ref": "#/definitions/b%20x"}, {"$ref": "#/definitions/b x"}]},
            "b x": {"additionalProperties": {"$ref": "#/definitions/a"}},
        }});
        for doubling in [&twice, &by_two] {
            assert_eq!(growth(doubling), Ok(2));
        }
        let nested = |levels| (0..levels).fold(json!(1), |below, _| json!([below]));
        assert!(
            bears(2, &nested(16)) && !bears(2, &nested(17)) && bears(1, &nested(100)) && !bears(u64::MAX, &nested(3))
        );
    }
}
