//! Objects as templates see them.

use std::borrow::Cow;

use serde_json::Value;

use crate::Members;

/// An object below the render object, without the members that templates do not see.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    members: Cow<'a, Members>,
    hidden: &'static [&'static str],
}

impl<'a> Shown<'a> {
    /// All of an object.
    #[must_use]
    pub fn all(members: &'a Members) -> Self {
        Self::without(&[], members)
    }

    /// An object without these members.
    #[must_use]
    pub fn without(hidden: &'static [&'static str], members: &'a Members) -> Self {
        Shown {
            members: Cow::Borrowed(members),
            hidden,
        }
    }

    /// A member, if templates see it.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name).filter(|_| !self.hidden.contains(&name))
    }

    /// All members that templates see.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        let members = self.members.iter().map(|(name, value)| (name.as_str(), value));
        members.filter(|(name, _)| !self.hidden.contains(name))
    }
}

impl From<Members> for Shown<'_> {
    fn from(members: Members) -> Self {
        Shown {
            members: Cow::Owned(members),
            hidden: &[],
        }
    }
}
