//! Who asks, and what they may.

/// Who makes a change or asks a question.
#[derive(Clone, Debug)]
pub struct Principal {
    name: String,
    machine: Option<String>,
}

impl Principal {
    /// The server itself: may everything.
    #[must_use]
    pub fn system() -> Self {
        Self {
            name: "system".to_owned(),
            machine: None,
        }
    }

    /// As events name it: `user:rocketskates`, `machine:UUID`, `system`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// User name, where it is a user.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.name.strip_prefix("user:")
    }

    /// UUID of the machine, where a machine's token was presented.
    #[must_use]
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// Whether a claim covers this: `scope` is a type prefix (or `info`, `prefs`, `isos`, …), `action` one of `list`,
    /// `get`, `create`, `update`, `delete`, `getSecure`, `updateSecure`, `password`, `token`, `post`, `actions`,
    /// `action:NAME`, …, `key` the object's own key (not `Name:x`), `""` for none in particular.
    #[must_use]
    pub fn allows(&self, _scope: &str, _action: &str, _key: &str) -> bool {
        todo!()
    }
}
