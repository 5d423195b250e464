//! Parts of an object read from its text, for who looks at thousands and at a few members of each.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use crate::Object;

/// Which members are read; the others are stepped over, which takes a fifth of the time and no memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Excerpt {
    members: BTreeSet<String>,
    /// Of `Params` these alone.
    params: BTreeSet<String>,
}

impl Excerpt {
    pub(crate) fn add(&mut self, member: &str) {
        self.members.insert(member.to_owned());
    }

    pub(crate) fn add_param(&mut self, param: &str) {
        self.params.insert(param.to_owned());
    }

    /// The object of a JSON text with these members, where it has them.
    ///
    /// # Errors
    /// For what is no JSON object.
    pub fn read(&self, text: &[u8]) -> serde_json::Result<Object> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let object = Members(self).deserialize(&mut json)?;
        json.end()?;
        Ok(object)
    }
}

struct Members<'a>(&'a Excerpt);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.0.members.contains(&name) {
                object.insert(name, map.next_value()?);
            } else if name == "Params" && !self.0.params.is_empty() {
                let params = map.next_value_seed(Params(&self.0.params))?;
                object.insert(name, params);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(object)
    }
}

struct Params<'a>(&'a BTreeSet<String>);

impl<'de> DeserializeSeed<'de> for Params<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Params<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("params")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut params = Object::new();
        while let Some(name) = map.next_key::<String>()? {
            if self.0.contains(&name) {
                params.insert(name, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(params.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_named_is_stepped_over() {
        let mut excerpt = Excerpt::default();
        let text = json!({"Name": "m", "Stage": "s", "Params": {"a": [1, {"b": 2}], "c": null}, "Meta": {"x": "y"}});
        let read = |excerpt: &Excerpt| Value::Object(excerpt.read(text.to_string().as_bytes()).unwrap());
        assert_eq!(read(&excerpt), json!({}));
        excerpt.add("Name");
        excerpt.add("Missing");
        excerpt.add_param("a");
        excerpt.add_param("z");
        assert_eq!(read(&excerpt), json!({"Name": "m", "Params": {"a": [1, {"b": 2}]}}));
        assert_eq!(excerpt.read(b"{\"Params\":null}").unwrap()["Params"], Value::Null);
        for broken in ["", "[]", "{\"Name\":", "{} {}", "{\"Params\":3}"] {
            assert!(excerpt.read(broken.as_bytes()).is_err(), "{broken}");
        }
    }
}
