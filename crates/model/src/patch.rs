//! JSON Patch (RFC 6902) with DRP's texts, and the patch that turns one object into another.

use json_patch::jsonptr::Pointer;
use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use crate::table::Noun;
use crate::{ApiError, Object};

/// Nesting beyond this is refused: objects are walked by recursion in many places.
const MAX_DEPTH: usize = 128;
/// How many values `copy` operations of one patch may make; without a limit each could double the document.
const MAX_COPIED: usize = 100_000;

/// A parsed patch. The empty one changes nothing and is valid.
#[derive(Clone, Debug, Default)]
pub struct Patch {
    operations: Vec<(PatchOperation, Value)>,
}

/// What a patch is applied to; DRP words the same failure differently for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A whole object.
    Object,
    /// The params (or the Meta) of an object.
    Params,
}

impl Patch {
    /// Reads a patch document.
    ///
    /// # Errors
    /// 400 that names the operation that makes no sense.
    pub fn parse(document: &Value) -> Result<Patch, ApiError> {
        let bad = |message: String| ApiError::bad_request("PATCH", "", message);
        let operations = match document {
            Value::Null => &[][..],
            Value::Array(operations) => operations,
            other => {
                let found = crate::canonical::kind_of(other);
                return Err(bad(format!("a JSON Patch is a list of operations, found {found}")));
            }
        };
        let parse = |(line, operation): (usize, &Value)| {
            let mut operation = operation.clone();
            // Clients leave `null` values out; RFC 6902 wants them said.
            if let Some(members) = operation.as_object_mut()
                && matches!(
                    members.get("op").and_then(Value::as_str),
                    Some("add" | "replace" | "test")
                )
            {
                members.entry("value").or_insert(Value::Null);
            }
            let parsed = serde_json::from_value(operation.clone())
                .map_err(|err| bad(format!("Patch error at line {line}: {err}")))?;
            Ok((parsed, operation))
        };
        Ok(Patch {
            operations: operations
                .iter()
                .enumerate()
                .map(parse)
                .collect::<Result<_, ApiError>>()?,
        })
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Applies all operations to `document`, or none.
    ///
    /// # Errors
    /// 409 that names the operation which failed, counted from 0. Model and key are the caller's to add.
    pub fn apply(&self, document: &mut Value, target: Target) -> Result<(), ApiError> {
        let mut work = document.clone();
        self.run(&mut work, target)?;
        *document = work;
        Ok(())
    }

    /// Applies the operations; after an error `work` is good for nothing.
    fn run(&self, work: &mut Value, target: Target) -> Result<(), ApiError> {
        let mut copied = 0;
        for (line, (operation, source)) in self.operations.iter().enumerate() {
            within_bounds(work, operation, &mut copied)
                .and_then(|()| {
                    json_patch::patch_unsafe(work, std::slice::from_ref(operation))
                        .map_err(|err| reason(&err.kind, operation, target))
                })
                .map_err(|reason| refusal(line, source, reason, target))?;
        }
        Ok(())
    }

    /// Applies the patch to a stored object and returns the new one in canonical form. Members that only
    /// the server writes stay as they are; members that are never shown cannot be tested or copied.
    ///
    /// # Errors
    /// 409 as [`apply`](Self::apply), 400 for a change of the key or values of the wrong type.
    pub fn apply_to(&self, noun: &Noun, old: &Object) -> Result<Object, ApiError> {
        let key = noun.key_of(old).into_owned();
        let place = |err: ApiError| ApiError {
            model: noun.name.to_owned(),
            key: key.clone(),
            ..err
        };
        let mut document = Value::Object(noun.public(old));
        self.run(&mut document, Target::Object).map_err(place)?;
        let new = noun
            .accepted(document, Some(old))
            .map_err(|err| place(err.with_type("PATCH")))?;
        let new_key = noun.key_of(&new);
        if new_key != key {
            return Err(ApiError::patch_key_change(noun.name, &new_key));
        }
        Ok(new)
    }
}

enum Reason {
    TestFailed,
    NoSuchPlace(String),
    Refused(String),
}

fn reason(kind: &PatchErrorKind, operation: &PatchOperation, target: Target) -> Reason {
    let place = |pointer: &Pointer| match target {
        Target::Object => Reason::NoSuchPlace(format!("{pointer} does not refer to an existing location")),
        Target::Params => Reason::NoSuchPlace(format!("`{pointer}` does not point to an existing location")),
    };
    match (kind, operation) {
        (PatchErrorKind::TestFailed, _) => Reason::TestFailed,
        (PatchErrorKind::InvalidPointer, _) => place(operation.path()),
        (PatchErrorKind::InvalidFromPointer, PatchOperation::Move(op)) => place(&op.from),
        (PatchErrorKind::InvalidFromPointer, PatchOperation::Copy(op)) => place(&op.from),
        (other, _) => Reason::Refused(other.to_string()),
    }
}

fn refusal(line: usize, source: &Value, reason: Reason, target: Target) -> ApiError {
    let text = match &reason {
        Reason::TestFailed => "Test op failed.",
        Reason::NoSuchPlace(text) | Reason::Refused(text) => text,
    };
    let messages = match target {
        Target::Object => vec![
            format!("Patch error at line {line}: {text}"),
            format!("Patch line: {source}"),
        ],
        Target::Params => vec![format!("Patch failed to apply at line {line}"), text.to_owned()],
    };
    ApiError {
        type_: "PATCH".to_owned(),
        messages,
        code: 409,
        ..ApiError::default()
    }
}

fn within_bounds(document: &Value, operation: &PatchOperation, copied: &mut usize) -> Result<(), Reason> {
    let moved = |from: &Pointer| from.resolve(document).ok();
    let value = match operation {
        PatchOperation::Add(op) => Some(&op.value),
        PatchOperation::Replace(op) => Some(&op.value),
        PatchOperation::Move(op) => moved(&op.from),
        PatchOperation::Copy(op) => moved(&op.from),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let Some(value) = value else { return Ok(()) };
    let (count, depth) = extent(value);
    if operation.path().count() + depth > MAX_DEPTH {
        return Err(Reason::Refused(format!("nested deeper than {MAX_DEPTH} levels")));
    }
    if matches!(operation, PatchOperation::Copy(_)) {
        *copied += count;
        if *copied > MAX_COPIED {
            return Err(Reason::Refused(format!("copies more than {MAX_COPIED} values")));
        }
    }
    Ok(())
}

/// Number of values in a value, itself included, and how deep they nest.
fn extent(value: &Value) -> (usize, usize) {
    let sum = |(count, depth): (usize, usize), child: &Value| {
        let (c, d) = extent(child);
        (count + c, depth.max(d + 1))
    };
    match value {
        Value::Array(items) => items.iter().fold((1, 1), sum),
        Value::Object(members) => members.values().fold((1, 1), sum),
        _ => (1, 1),
    }
}

/// The patch that turns `old` into `new` the way drpcli makes it: each changed member is tested and then
/// replaced (or removed), new ones are added; maps are compared per key, lists as a whole.
pub fn diff(old: &Value, new: &Value) -> Value {
    let mut operations = Vec::new();
    compare(old, new, &mut String::new(), &mut operations);
    Value::Array(operations)
}

fn compare(old: &Value, new: &Value, path: &mut String, operations: &mut Vec<Value>) {
    let operation =
        |op: &str, path: &str, value: &Value| serde_json::json!({"op": op, "path": path, "from": "", "value": value});
    match (old, new) {
        _ if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            let length = path.len();
            for (name, was) in old {
                push_token(path, name);
                match new.get(name) {
                    Some(is) => compare(was, is, path, operations),
                    None => {
                        operations.push(operation("test", path, was));
                        operations.push(serde_json::json!({"op": "remove", "path": path, "from": ""}));
                    }
                }
                path.truncate(length);
            }
            for (name, is) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                push_token(path, name);
                operations.push(operation("add", path, is));
                path.truncate(length);
            }
        }
        _ => {
            operations.push(operation("test", path, old));
            operations.push(operation("replace", path, new));
        }
    }
}

fn push_token(path: &mut String, token: &str) {
    path.push('/');
    path.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::canonical::tests::any_json;
    use crate::noun;

    fn machine() -> Object {
        let input = json!({"Name": "mach-01", "Uuid": "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215", "Params": {"a/b": 1}});
        noun("machines").unwrap().canonical(&input).unwrap()
    }

    fn patched(document: Value) -> Result<Object, ApiError> {
        Patch::parse(&document)?.apply_to(noun("machines").unwrap(), &machine())
    }

    #[test]
    fn the_empty_patch_and_no_patch_change_nothing() {
        assert_eq!(patched(json!([])).unwrap(), machine());
        assert_eq!(patched(Value::Null).unwrap(), machine());
    }

    #[test]
    fn test_and_replace_is_the_optimistic_lock() {
        let document = json!([{"op": "test", "path": "/Description", "from": "", "value": ""},
                              {"op": "replace", "path": "/Description", "from": "", "value": "x"}]);
        assert_eq!(patched(document).unwrap()["Description"], "x");
        let stale = json!([{"op": "test", "path": "/Description", "from": "", "value": "y"}]);
        let error = patched(stale).unwrap_err();
        assert_eq!(error.code, 409);
        assert_eq!(
            error.to_string(),
            "PATCH: machines/1987e6d3-75ef-4a61-bf0d-2fa4b26f8215\n  Patch error at line 0: Test op failed.\n  \
             Patch line: {\"op\":\"test\",\"path\":\"/Description\",\"from\":\"\",\"value\":\"y\"}"
        );
    }

    #[test]
    fn a_missing_place_is_named_in_the_words_of_its_target() {
        let document = json!([{"op": "replace", "path": "/foo", "value": 1}]);
        let error = patched(document.clone()).unwrap_err();
        assert_eq!(
            error.messages[0],
            "Patch error at line 0: /foo does not refer to an existing location"
        );
        let error = Patch::parse(&document)
            .unwrap()
            .apply(&mut json!({}), Target::Params)
            .unwrap_err();
        let want = [
            "Patch failed to apply at line 0",
            "`/foo` does not point to an existing location",
        ];
        assert_eq!(error.messages, want);
    }

    #[test]
    fn key_and_server_members_stay() {
        let document = json!([{"op": "replace", "path": "/Available", "value": false},
                              {"op": "replace", "path": "/Bundle", "value": "x"}]);
        assert_eq!(patched(document).unwrap(), machine());
        let document = json!([{"op": "replace", "path": "/Uuid", "value": "00000000-0000-0000-0000-000000000001"}]);
        let error = patched(document).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Update: machines:00000000-0000-0000-0000-000000000001 does not already exist"
        );
    }

    #[test]
    fn hidden_members_cannot_be_guessed_by_test() {
        let users = noun("users").unwrap();
        let user = users.canonical(&json!({"Name": "jo", "PasswordHash": "hash"})).unwrap();
        let guess = json!([{"op": "test", "path": "/PasswordHash", "value": "hash"}]);
        assert_eq!(
            Patch::parse(&guess).unwrap().apply_to(users, &user).unwrap_err().code,
            409
        );
        let other = json!([{"op": "replace", "path": "/Description", "value": "d"}]);
        assert_eq!(
            Patch::parse(&other).unwrap().apply_to(users, &user).unwrap()["PasswordHash"],
            "hash"
        );
    }

    #[test]
    fn nonsense_is_a_bad_request_that_names_the_line() {
        for document in [
            json!({}),
            json!([1]),
            json!([{"op": "fly", "path": "/x"}]),
            json!([{"op": "add", "path": "x"}]),
        ] {
            assert_eq!(Patch::parse(&document).unwrap_err().code, 400, "{document}");
        }
        let wrong_type = json!([{"op": "replace", "path": "/Profiles", "value": "x"}]);
        assert_eq!(patched(wrong_type).unwrap_err().code, 400);
    }

    #[test]
    fn copies_cannot_blow_up_the_document() {
        let doubling: Vec<_> = (0..64)
            .map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")}))
            .collect();
        let error = Patch::parse(&json!(doubling))
            .unwrap()
            .apply(&mut json!({"a": [1, 2]}), Target::Object)
            .unwrap_err();
        assert!(
            error.messages[0].contains("copies more than") || error.messages[0].contains("nested"),
            "{error}"
        );
        let digging: Vec<_> = (0..400)
            .map(|_| json!({"op": "copy", "from": "/a", "path": "/a/a"}))
            .collect();
        let error = Patch::parse(&json!(digging))
            .unwrap()
            .apply(&mut json!({"a": {}}), Target::Object)
            .unwrap_err();
        assert!(error.messages[0].contains("nested deeper"), "{error}");
    }

    #[test]
    fn difference_is_what_drpcli_sends() {
        let old = json!({"Description": "", "Profiles": [], "Params": {"a/b": 1, "gone": 2}, "Same": 1});
        let new = json!({"Description": "x", "Profiles": ["global"], "Params": {"a/b": 2, "new": 3}, "Same": 1});
        let want = json!([
            {"op": "test", "path": "/Description", "from": "", "value": ""},
            {"op": "replace", "path": "/Description", "from": "", "value": "x"},
            {"op": "test", "path": "/Profiles", "from": "", "value": []},
            {"op": "replace", "path": "/Profiles", "from": "", "value": ["global"]},
            {"op": "test", "path": "/Params/a~1b", "from": "", "value": 1},
            {"op": "replace", "path": "/Params/a~1b", "from": "", "value": 2},
            {"op": "test", "path": "/Params/gone", "from": "", "value": 2},
            {"op": "remove", "path": "/Params/gone", "from": ""},
            {"op": "add", "path": "/Params/new", "from": "", "value": 3},
        ]);
        assert_eq!(diff(&old, &new), want);
        assert_eq!(diff(&old, &old), json!([]));
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_new_value(old in any_json(), new in any_json()) {
            let mut document = old.clone();
            let patch = Patch::parse(&diff(&old, &new)).unwrap();
            patch.apply(&mut document, Target::Object).unwrap();
            prop_assert_eq!(document, new);
        }

        #[test]
        fn any_patch_applies_whole_or_not_at_all(
            document in any_json(),
            operations in proptest::collection::vec(("add|remove|replace|move|copy|test|fly", "(/[A-Za-z0-9~-]{0,4}){0,3}", "(/[A-Za-z0-9~-]{0,4}){0,3}", any_json()), 0..6),
        ) {
            let operations: Vec<_> = operations
                .into_iter()
                .map(|(op, path, from, value)| json!({"op": op, "path": path, "from": from, "value": value}))
                .collect();
            let mut after = document.clone();
            if let Ok(patch) = Patch::parse(&json!(operations))
                && patch.apply(&mut after, Target::Object).is_err()
            {
                prop_assert_eq!(after, document);
            }
        }
    }
}
