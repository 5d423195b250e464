//! Go text/template as the content of Digital Rebar Provision uses it, with DRP's methods and the
//! functions of sprig that its content calls.
//!
//! [`render`] is pure: it reads nothing but the text and what a [`Scope`] answers. It is bounded in time,
//! output, repetition and recursion ([`Limits`]), so that no template can stop the server. Errors say which
//! template, which line, and what could not be answered.

mod cache;
mod chains;
mod engine;
mod functions;
mod join;
mod methods;
mod pass;
mod printf;
mod run;
mod shown;
mod sprig;
mod sprig_more;
mod value;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use shown::Shown;

/// A set of named values, as objects are.
pub type Members = Map<String, Value>;

/// Why a text is no template, or could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template {template}{}: {message}{}", .line.map(|line| format!(", line {line}")).unwrap_or_default(), for_whom(.machine))]
pub struct TemplateError {
    /// Name or ID of the template that the error is in.
    pub template: String,
    /// Line within it, from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// Name of the machine that it was rendered for; empty where there is none.
    pub machine: String,
}

fn for_whom(machine: &str) -> String {
    match machine {
        "" => String::new(),
        name => format!(" (machine {name})"),
    }
}

/// What one rendering may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of output, and of any single text on the way there.
    pub output: usize,
    /// Time, nested renderings included.
    pub time: Duration,
    /// Turns of all `range` loops together.
    pub iterations: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            output: 4 << 20,
            time: Duration::from_secs(5),
            iterations: 200_000,
        }
    }
}

/// What a template can ask for. Every answer is fetched when the template asks, not before.
///
/// An `Err` ends the rendering with its text, so it is written for the author of the template.
pub trait Scope: Send + Sync {
    /// `.Machine`: the members of the machine object.
    fn machine(&self) -> Option<Shown<'_>> {
        None
    }

    /// `.Env`: the members of the boot environment.
    fn env(&self) -> Option<Shown<'_>> {
        None
    }

    /// `.Stage`: the members of the stage.
    fn stage(&self) -> Option<Shown<'_>> {
        None
    }

    /// `.Task`: the members of the task.
    fn task(&self) -> Option<Shown<'_>> {
        None
    }

    /// Path of the file that is being rendered; in `*.ipxe` files `.BootParams` names the initrd first.
    fn path(&self) -> Option<String> {
        None
    }

    /// `.ProvisionerAddress`: the server as the requester sees it.
    fn provisioner_address(&self) -> Result<String, String>;

    /// `.ProvisionerURL`: base URL of the static server, without a slash at the end.
    fn provisioner_url(&self) -> Result<String, String>;

    /// `.ApiURL`: base URL of the API, without a slash at the end.
    fn api_url(&self) -> Result<String, String>;

    /// What `.Machine.Url` begins with: the static server as this machine is to ask for its own files.
    fn machine_url(&self) -> Result<String, String> {
        self.provisioner_url()
    }

    /// `.Param`: the value from the nearest source, or the declared default; none when there is neither.
    fn param(&self, name: &str) -> Result<Option<Value>, String>;

    /// `.ComposeParam`: the values of all sources merged.
    fn compose_param(&self, name: &str) -> Result<Option<Value>, String> {
        self.param(name)
    }

    /// Text of a template object, for `{{template "ID" .}}` and `.CallTemplate`.
    fn template(&self, _id: &str) -> Option<String> {
        None
    }

    /// Kernel, initial RAM disks and arguments of the boot environment; `arch` none means the machine's.
    fn boot(&self, _arch: Option<&str>) -> Result<BootFiles, String> {
        Err("there is no boot environment here".to_owned())
    }

    /// Path of a file of the boot environment on the static server, with a slash in front.
    fn boot_path(&self, _file: &str, _arch: Option<&str>) -> Result<String, String> {
        Err("there is no boot environment here".to_owned())
    }

    /// The MAC address that the file is rendered for.
    fn mac_addr(&self) -> Option<String> {
        None
    }

    /// Package repositories (`.Repos` and its kin), each with its members and what its methods give.
    fn repos(&self, _which: Repos<'_>) -> Result<Vec<Value>, String> {
        Ok(Vec::new())
    }

    /// A token for what is being rendered (`.GenerateToken` and its kin).
    fn token(&self, _kind: TokenKind<'_>) -> Result<String, String> {
        Err("templates get no tokens here".to_owned())
    }
}

/// What a boot environment boots. `boot_params` is a template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootFiles {
    /// Kernel.
    pub kernel: String,
    /// Initial RAM disks, in order.
    pub initrds: Vec<String>,
    /// Kernel arguments, not rendered yet.
    pub boot_params: String,
}

/// Which package repositories a template asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repos<'a> {
    /// `.Repos TAG...`.
    Tagged(&'a [&'a str]),
    /// `.MachineRepos`: those that fit the machine's operating system.
    Machine,
    /// `.InstallRepos`: those that it is installed from.
    Install,
}

/// Which token a template asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind<'a> {
    /// `.GenerateToken`.
    Short,
    /// `.GenerateInfiniteToken`.
    Long,
    /// `.GenerateProfileToken PROFILE SECONDS`.
    Profile {
        /// Profile that the token gives access to.
        profile: &'a str,
        /// Life time in seconds; 0 for the longest.
        seconds: u64,
    },
}

/// Renders `text` under the name `name` with the usual limits.
///
/// # Errors
/// The first thing that cannot be parsed or answered, or the limit that was reached.
pub fn render(name: &str, text: &str, scope: &Arc<dyn Scope>) -> Result<String, TemplateError> {
    render_with(name, text, scope, Limits::default())
}

/// Like [`render`], within other limits.
///
/// # Errors
/// As `render`.
pub fn render_with(name: &str, text: &str, scope: &Arc<dyn Scope>, limits: Limits) -> Result<String, TemplateError> {
    let rendered = run::Run::new(scope.clone(), limits).render(named(name), text);
    rendered.map_err(|error| TemplateError {
        machine: scope
            .machine()
            .and_then(|machine| machine.get("Name")?.as_str().map(str::to_owned))
            .unwrap_or_default(),
        ..error
    })
}

/// Parses a text without rendering it, and returns the IDs of the templates that it includes.
///
/// # Errors
/// Where it is no template: wrong syntax, or a function that does not exist.
pub fn check(name: &str, text: &str) -> Result<Vec<String>, TemplateError> {
    engine::check(named(name), text)
}

/// Names of all functions that a template can call, sorted.
#[must_use]
pub fn functions() -> Vec<&'static str> {
    engine::functions()
}

/// The engine loses the tree of a text without a name.
fn named(name: &str) -> &str {
    if name.is_empty() { "template" } else { name }
}
