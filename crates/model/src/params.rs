//! Params: schema checks, where an object's params come from, and how several sources combine.

use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{Draft, JsonType, PatternOptions, ValidationError, Validator};
use serde_json::{Map, Value};

use crate::table::Noun;
use crate::{Lookup, Object, name, schema_cost};

/// Steps back that a pattern may take before it is taken not to match.
const MAX_BACKTRACKS: usize = 50_000;

/// A declared param, compiled for checking many values.
#[derive(Debug)]
pub struct ParamSchema {
    validator: Option<Validator>,
    /// How often it comes back to itself.
    growth: u64,
    default: Option<Value>,
    secure: bool,
}

impl ParamSchema {
    /// Compiles the schema of a param object.
    ///
    /// # Errors
    /// The reason why the schema is none.
    pub fn compile(param: &Object) -> Result<ParamSchema, String> {
        let secure = param.get("Secure").and_then(Value::as_bool).unwrap_or(false);
        let schema = match param.get("Schema") {
            None | Some(Value::Null) => {
                return Ok(ParamSchema {
                    validator: None,
                    growth: 0,
                    default: None,
                    secure,
                });
            }
            Some(schema) => schema,
        };
        // Content packs are written for drafts 4 to 7; a boolean exclusiveMinimum exists only in draft 4.
        let build = |draft| {
            let patterns = PatternOptions::fancy_regex().backtrack_limit(MAX_BACKTRACKS);
            let options = jsonschema::options().with_draft(draft).offline();
            options.with_pattern_options(patterns).build(schema)
        };
        let growth = schema_cost::growth(schema).map_err(|reason| format!("Error in schema: {reason}"))?;
        let validator = build(Draft::Draft7)
            .or_else(|err| build(Draft::Draft4).map_err(|_| err))
            .map_err(|err| format!("Error in schema: {err}"))?;
        let default = schema.get("default").cloned();
        Ok(ParamSchema {
            validator: Some(validator),
            growth,
            default,
            secure,
        })
    }

    /// Whether values of the param are encrypted.
    pub fn secure(&self) -> bool {
        self.secure
    }

    /// The value that holds where none is set.
    pub fn default(&self) -> Option<&Value> {
        self.default.as_ref()
    }

    /// Checks a value in clear text. The reasons never repeat the value: it may be a secret.
    ///
    /// # Errors
    /// Every reason, joined by `; `.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        let Some(validator) = &self.validator else {
            return Ok(());
        };
        if !schema_cost::bears(self.growth, value) {
            let times = self.growth;
            return Err(format!(
                "(root): too deep for a schema that refers to itself {times} times"
            ));
        }
        let reasons: Vec<_> = validator.iter_errors(value).take(8).map(|err| reason(&err)).collect();
        if reasons.is_empty() {
            Ok(())
        } else {
            Err(reasons.join("; "))
        }
    }

    /// Checks the schema's own default.
    ///
    /// # Errors
    /// The text that the param is refused with.
    pub fn check_default(&self) -> Result<(), String> {
        let check = |value| {
            self.check(value)
                .map_err(|reason| format!("Error in default value: {reason}"))
        };
        self.default.as_ref().map_or(Ok(()), check)
    }
}

/// A schema error in the words that users of DRP know.
fn reason(err: &ValidationError<'_>) -> String {
    let path = err.instance_path().as_str().trim_start_matches('/').replace('/', ".");
    let place = if path.is_empty() { "(root)" } else { &path };
    let text = match err.kind() {
        ValidationErrorKind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(typ) => typ.to_string(),
                TypeKind::Multiple(types) => types
                    .iter()
                    .map(|typ: JsonType| typ.to_string())
                    .collect::<Vec<_>>()
                    .join("/"),
            };
            format!(
                "Invalid type. Expected: {expected}, given: {}",
                given_type(err.instance())
            )
        }
        ValidationErrorKind::Required {
            property: Value::String(member),
        } => format!("{member} is required"),
        ValidationErrorKind::Enum { options } => match options.as_array() {
            Some(options) => {
                let options: Vec<_> = options.iter().map(Value::to_string).collect();
                format!("must be one of the following: {}", options.join(", "))
            }
            None => err.masked().to_string(),
        },
        _ => err.masked().to_string(),
    };
    format!("{place}: {text}")
}

fn given_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The text for a value that its schema refuses.
pub fn value_refused(param: &str, value: &Value, reason: &str) -> String {
    format!("Key '{param}': invalid val '{value}': {reason}")
}

/// Whether a value is in the form in which secure params are sent and stored.
pub fn is_encrypted(value: &Value) -> bool {
    let text = |name| value.get(name).is_some_and(Value::is_string);
    text("Key") && text("Nonce") && text("Payload")
}

/// Checks a map of params against the declared ones and returns a text for each problem.
///
/// Encrypted values are left to whoever can decrypt them; a secure param in clear text is a problem
/// whose text does not repeat the value.
pub fn check(params: &Object, lookup: &dyn Lookup) -> Vec<String> {
    let mut problems = Vec::new();
    for (param, value) in params {
        if !name::is_param_name(param) {
            problems.push(format!("Invalid Param Name `{param}`"));
            continue;
        }
        let Some(schema) = lookup.param_schema(param) else {
            continue;
        };
        if schema.secure() {
            if !is_encrypted(value) {
                problems.push(format!("Key '{param}': the param is secure and must be sent encrypted"));
            }
        } else if let Err(reason) = schema.check(value) {
            problems.push(value_refused(param, value, &reason));
        }
    }
    problems
}

/// One place that params come from.
#[derive(Debug)]
pub struct Source<'a> {
    /// Type prefix of the object that holds them.
    pub noun: &'static str,
    /// Its key: secure params are encrypted for this object.
    pub key: String,
    object: Holder<'a>,
}

#[derive(Debug)]
enum Holder<'a> {
    Own(&'a Object),
    Other(Arc<Object>),
}

impl Deref for Holder<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        match self {
            Holder::Own(object) => object,
            Holder::Other(object) => object,
        }
    }
}

impl Source<'_> {
    /// The params of this place.
    pub fn params(&self) -> Option<&Object> {
        self.object.get("Params").and_then(Value::as_object)
    }

    /// One of them.
    pub fn get(&self, param: &str) -> Option<&Value> {
        self.params()?.get(param)
    }
}

/// Where the params of an object come from, nearest first: its own, its profiles in order (each followed
/// by that profile's own profiles), for machines those of the stage and its profiles, at last the profile
/// `global`.
pub fn sources<'a>(noun: &'static Noun, object: &'a Object, lookup: &dyn Lookup) -> Vec<Source<'a>> {
    gathered(noun, object, Holder::Own(object), lookup)
}

/// [`sources`], to be kept.
pub fn held_sources(noun: &'static Noun, object: &Arc<Object>, lookup: &dyn Lookup) -> Vec<Source<'static>> {
    gathered(noun, object, Holder::Other(Arc::clone(object)), lookup)
}

fn gathered<'a>(noun: &'static Noun, object: &Object, holder: Holder<'a>, lookup: &dyn Lookup) -> Vec<Source<'a>> {
    let own = Source {
        noun: noun.name,
        key: noun.key_of(object).into_owned(),
        object: holder,
    };
    let mut sources = vec![own];
    let mut seen = HashSet::new();
    if noun.name == "profiles" {
        seen.insert(noun.key_of(object).into_owned());
    }
    push_profiles(object, lookup, &mut seen, &mut sources);
    if noun.name == "machines" {
        let stage = object.get("Stage").and_then(Value::as_str).unwrap_or_default();
        if let Some(stage_object) = lookup.get("stages", stage) {
            let held = Holder::Other(stage_object.clone());
            sources.push(Source {
                noun: "stages",
                key: stage.to_owned(),
                object: held,
            });
            push_profiles(&stage_object, lookup, &mut seen, &mut sources);
        }
        push_profile("global", lookup, &mut seen, &mut sources);
    }
    sources
}

fn push_profiles(object: &Object, lookup: &dyn Lookup, seen: &mut HashSet<String>, sources: &mut Vec<Source<'_>>) {
    for profile in object
        .get("Profiles")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        push_profile(profile, lookup, seen, sources);
    }
}

fn push_profile(profile: &str, lookup: &dyn Lookup, seen: &mut HashSet<String>, sources: &mut Vec<Source<'_>>) {
    // A profile counts where it is met first; that also ends cycles.
    if !seen.insert(profile.to_owned()) {
        return;
    }
    if let Some(object) = lookup.get("profiles", profile) {
        let held = Holder::Other(object.clone());
        sources.push(Source {
            noun: "profiles",
            key: profile.to_owned(),
            object: held,
        });
        push_profiles(&object, lookup, seen, sources);
    }
}

/// All params of an object, the nearest source winning. Defaults of schemas are not among them.
pub fn aggregate(noun: &'static Noun, object: &Object, lookup: &dyn Lookup) -> Object {
    let mut all = Object::new();
    for source in sources(noun, object, lookup) {
        for (param, value) in source.params().into_iter().flatten() {
            if !all.contains_key(param) {
                all.insert(param.clone(), value.clone());
            }
        }
    }
    all
}

/// A value and where it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Type prefix and key of the object that holds it; none for a schema's default.
    pub holder: Option<(&'static str, String)>,
    /// The value; encrypted ones as they are stored.
    pub value: Value,
}

/// The value of a param for an object: nearest source, then the default of the declared param.
pub fn find(noun: &'static Noun, object: &Object, param: &str, lookup: &dyn Lookup) -> Option<Found> {
    find_in(&sources(noun, object, lookup), param, lookup)
}

/// [`find`] where the sources are at hand.
pub fn find_in(sources: &[Source<'_>], param: &str, lookup: &dyn Lookup) -> Option<Found> {
    for source in sources {
        if let Some(value) = source.get(param) {
            return Some(Found {
                holder: Some((source.noun, source.key.clone())),
                value: value.clone(),
            });
        }
    }
    default(param, lookup).map(|value| Found { holder: None, value })
}

/// Like [`find`], for those who do not care where a value comes from.
pub fn value(noun: &'static Noun, object: &Object, param: &str, lookup: &dyn Lookup) -> Option<Value> {
    find(noun, object, param, lookup).map(|found| found.value)
}

/// The default of a declared param.
pub fn default(param: &str, lookup: &dyn Lookup) -> Option<Value> {
    lookup.get("params", param)?.get("Schema")?.get("default").cloned()
}

/// The values of a param from all sources merged into one: objects by member, lists one after the other,
/// of anything else the nearest. Where no source has it, the default.
pub fn compose(noun: &'static Noun, object: &Object, param: &str, lookup: &dyn Lookup) -> Option<Value> {
    compose_in(&sources(noun, object, lookup), param, lookup)
}

/// [`compose`] where the sources are at hand.
pub fn compose_in(sources: &[Source<'_>], param: &str, lookup: &dyn Lookup) -> Option<Value> {
    sources
        .iter()
        .filter_map(|source| source.get(param).cloned())
        .reduce(merge)
        .or_else(|| default(param, lookup))
}

fn merge(near: Value, far: Value) -> Value {
    match (near, far) {
        (Value::Object(mut near), Value::Object(far)) => {
            for (name, value) in far {
                let merged = match near.remove(&name) {
                    Some(nearer) => merge(nearer, value),
                    None => value,
                };
                near.insert(name, merged);
            }
            Value::Object(near)
        }
        (Value::Array(mut near), Value::Array(far)) => {
            near.extend(far);
            Value::Array(near)
        }
        (near, _) => near,
    }
}

/// The object without its params, marked as partial, as `slim=Params` asks for.
pub fn slim(object: &mut Object) {
    if object.contains_key("Params") {
        object.insert("Params".to_owned(), Value::Object(Map::new()));
        if object.contains_key("Partial") {
            object.insert("Partial".to_owned(), true.into());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::lookup::tests::World;
    use crate::noun;

    fn schema(schema: Value) -> ParamSchema {
        ParamSchema::compile(json!({"Name": "p1", "Schema": schema}).as_object().unwrap()).unwrap()
    }

    #[test]
    fn reasons_are_in_the_words_of_drp_and_without_values() {
        let cases = [
            (
                json!({"type": "string"}),
                json!(false),
                "(root): Invalid type. Expected: string, given: boolean",
            ),
            (
                json!({"type": "integer"}),
                json!("hush"),
                "(root): Invalid type. Expected: integer, given: string",
            ),
            (
                json!({"enum": ["cycle", "wait"]}),
                json!("hush"),
                r#"(root): must be one of the following: "cycle", "wait""#,
            ),
            (
                json!({"type": "object", "required": ["a"]}),
                json!({}),
                "(root): a is required",
            ),
            (
                json!({"type": "object", "additionalProperties": {"type": "object", "properties": {"mtu": {"type": "string"}}}}),
                json!({"prov": {"mtu": 1500}}),
                "prov.mtu: Invalid type. Expected: string, given: integer",
            ),
        ];
        for (declared, value, want) in cases {
            assert_eq!(schema(declared).check(&value).unwrap_err(), want);
        }
        assert!(
            !schema(json!({"pattern": "^a$"}))
                .check(&json!("hush"))
                .unwrap_err()
                .contains("hush")
        );
    }

    #[test]
    fn schemas_of_all_ages_compile_and_none_accepts_everything() {
        schema(json!({"type": "number", "minimum": 1, "exclusiveMinimum": true}))
            .check(&json!(2))
            .unwrap();
        let open = ParamSchema::compile(json!({"Name": "p1", "Schema": null}).as_object().unwrap()).unwrap();
        open.check(&json!([1])).unwrap();
        assert!(ParamSchema::compile(json!({"Schema": {"type": 5}}).as_object().unwrap()).is_err());
        let bad = schema(json!({"type": "string", "default": false}));
        let want = "Error in default value: (root): Invalid type. Expected: string, given: boolean";
        assert_eq!(bad.check_default().unwrap_err(), want);
    }

    fn world() -> World {
        World::default()
            .with("params", json!({"Name": "level", "Schema": {"type": "integer", "default": 9}}))
            .with("params", json!({"Name": "hush", "Secure": true, "Schema": {"type": "string"}}))
            .with("profiles", json!({"Name": "global", "Params": {"from": "global", "g1": 1, "net": {"prov": {"mtu": 1}}, "list": [3]}}))
            .with("profiles", json!({"Name": "outer", "Params": {"from": "outer"}, "Profiles": ["inner", "outer"]}))
            .with("profiles", json!({"Name": "inner", "Params": {"from": "inner", "i1": 1, "list": [2]}}))
            .with("profiles", json!({"Name": "stageprof", "Params": {"s1": "profile", "s2": "profile"}}))
            .with("stages", json!({"Name": "st", "Params": {"s1": "stage"}, "Profiles": ["stageprof"]}))
    }

    fn machine(params: Value) -> Object {
        noun("machines")
            .unwrap()
            .canonical(&json!({"Name": "m1", "Stage": "st", "Profiles": ["outer"], "Params": params}))
            .unwrap()
    }

    #[test]
    fn the_nearest_source_wins() {
        let world = world();
        let machines = noun("machines").unwrap();
        let all = aggregate(machines, &machine(json!({"own": 1})), &world);
        let want = json!({"own": 1, "from": "outer", "i1": 1, "list": [2], "s1": "stage", "s2": "profile", "g1": 1, "net": {"prov": {"mtu": 1}}});
        assert_eq!(Value::Object(all), want);
    }

    #[test]
    fn a_default_counts_last_and_is_not_in_the_aggregate() {
        let world = world();
        let machines = noun("machines").unwrap();
        let found = find(machines, &machine(json!({})), "level", &world).unwrap();
        assert_eq!(
            found,
            Found {
                holder: None,
                value: json!(9)
            }
        );
        let found = find(machines, &machine(json!({})), "i1", &world).unwrap();
        assert_eq!(found.holder, Some(("profiles", "inner".to_owned())));
        assert_eq!(
            value(machines, &machine(json!({"level": 1})), "level", &world),
            Some(json!(1))
        );
        assert_eq!(value(machines, &machine(json!({})), "none", &world), None);
    }

    #[test]
    fn composing_merges_maps_and_joins_lists() {
        let world = world();
        let machines = noun("machines").unwrap();
        let machine = machine(json!({"net": {"prov": {"address": "a"}, "own": {}}, "list": [1], "from": "me"}));
        let net = compose(machines, &machine, "net", &world).unwrap();
        assert_eq!(net, json!({"prov": {"address": "a", "mtu": 1}, "own": {}}));
        assert_eq!(compose(machines, &machine, "list", &world).unwrap(), json!([1, 2, 3]));
        assert_eq!(compose(machines, &machine, "from", &world).unwrap(), json!("me"));
        assert_eq!(compose(machines, &machine, "level", &world).unwrap(), json!(9));
    }

    #[test]
    fn problems_of_a_map_are_all_named_and_secrets_are_not() {
        let world = world();
        let params = json!({"level": "x", "free": [1], "hush": "topsecret", "x": 1});
        let problems = check(params.as_object().unwrap(), &world);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(
            problems[0],
            "Key 'level': invalid val '\"x\"': (root): Invalid type. Expected: integer, given: string"
        );
        assert!(!problems.concat().contains("topsecret"));
        let sealed = json!({"hush": {"Key": "a", "Nonce": "b", "Payload": "c"}});
        assert!(check(sealed.as_object().unwrap(), &world).is_empty());
    }
}
