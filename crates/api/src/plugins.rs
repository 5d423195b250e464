//! Plugin providers that are programs of their own. The protocol is in docs/plugins.md: a program is run for each
//! question, gets JSON on standard input and answers with JSON on standard output.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_model::content::Pack;
use isobar_model::{Object, text};
use isobar_objects::{Objects, Principal};
use rustix::process::{Pid, Signal};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::boots::AvailableAction;

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// Time for `define`.
const DEFINE: Duration = Duration::from_secs(20);
/// Time for an action.
const ACTION: Duration = Duration::from_secs(120);
/// Between two looks at a program that runs.
const LOOK: Duration = Duration::from_millis(5);

/// The programs.
#[derive(Debug, Default)]
pub struct Plugins {
    providers: Vec<Provider>,
}

#[derive(Debug)]
struct Provider {
    name: String,
    program: PathBuf,
    actions: Vec<AvailableAction>,
}

/// An action that a plugin offers.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Name of the plugin.
    pub plugin: String,
    /// The action.
    pub action: AvailableAction,
    program: PathBuf,
    config: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Defined {
    command: String,
    model: String,
    required_params: Vec<String>,
    optional_params: Vec<String>,
}

/// What a program says to an action.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    result: Value,
    error: String,
    params: Map<String, Value>,
}

impl Plugins {
    /// Asks each program in a folder what it is. Returns the content layer of each beside them: the provider itself, and
    /// the params and whatever else it brings along. One that cannot be used is told in the log and left out.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: &Path) -> std::io::Result<(Self, Vec<Pack>)> {
        // They do not run in the folder that we were started in.
        let mut programs: Vec<PathBuf> = std::fs::read_dir(folder.canonicalize()?)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.is_file())
            .collect();
        programs.sort();
        let (mut plugins, mut packs) = (Self::default(), Vec::new());
        for program in programs {
            match Provider::ask(&program) {
                Ok((provider, pack)) => {
                    plugins.providers.push(provider);
                    packs.push(pack);
                }
                Err(reason) => {
                    let program = program.display();
                    tracing::error!(%program, reason, "a plugin provider is left out");
                }
            }
        }
        Ok((plugins, packs))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.providers.is_empty()
    }

    /// What the plugins that are there offer on objects of a type.
    #[must_use]
    pub fn offered(&self, model: &str, plugins: &[Arc<Object>]) -> Vec<Offered> {
        let mut all = Vec::new();
        for plugin in plugins
            .iter()
            .filter(|plugin| plugin.get("Available") == Some(&Value::Bool(true)))
        {
            let of = self
                .providers
                .iter()
                .find(|provider| provider.name == text(plugin, "Provider"));
            let Some(provider) = of else { continue };
            for action in provider.actions.iter().filter(|action| action.model == model) {
                all.push(Offered {
                    plugin: text(plugin, "Name").to_owned(),
                    action: action.clone(),
                    program: provider.program.clone(),
                    config: plugin.get("Params").cloned().unwrap_or_default(),
                });
            }
        }
        all
    }

    /// Runs an action on an object (`key` is its own), and sets the params that the answer names. Blocks.
    ///
    /// # Errors
    /// What the program, or running it, has to say.
    pub fn run(
        &self,
        objects: &Objects,
        offered: &Offered,
        model: &str,
        key: &str,
        params: &Map<String, Value>,
    ) -> Result<Value, String> {
        let object = objects.get(model, key).map_err(|e| e.to_string())?;
        let mut shown = Object::clone(&object);
        for secret in ["Secret", "PasswordHash"] {
            shown.shift_remove(secret);
        }
        let question = json!({
            "Plugin": { "Name": offered.plugin, "Provider": offered.action.provider, "Params": offered.config },
            "Model": model, "Key": key, "Object": shown, "Command": offered.action.command, "Params": params,
        });
        let answer = ask(&offered.program, "action", &question, ACTION)?;
        let answer: Answer = serde_json::from_value(answer).map_err(|e| format!("its answer does not fit: {e}"))?;
        if !answer.error.is_empty() {
            return Err(answer.error);
        }
        if !answer.params.is_empty() {
            let changed = objects.update_with(model, key, &Principal::system(), |object| {
                if let Some(Value::Object(own)) = object.get_mut("Params") {
                    for (param, value) in &answer.params {
                        match value {
                            Value::Null => drop(own.shift_remove(param)),
                            value => drop(own.insert(param.clone(), value.clone())),
                        }
                    }
                }
                Ok(())
            });
            changed.map_err(|e| e.to_string())?;
        }
        Ok(answer.result)
    }
}

impl Provider {
    fn ask(program: &Path) -> Result<(Self, Pack), String> {
        let mut said = ask(program, "define", &Value::Null, DEFINE)?;
        let member = |said: &Value, name: &str| said[name].as_str().unwrap_or_default().to_owned();
        let name = member(&said, "Name");
        let defined: Vec<Defined> = serde_json::from_value(said["AvailableActions"].clone())
            .map_err(|e| format!("its AvailableActions do not fit: {e}"))?;
        let actions = defined.into_iter().map(|action| AvailableAction {
            provider: name.clone(),
            model: if action.model.is_empty() {
                "machines".to_owned()
            } else {
                action.model
            },
            command: action.command,
            required_params: action.required_params,
            optional_params: action.optional_params,
        });
        let actions: Vec<_> = actions.collect();
        let mut sections = match said.get_mut("Sections").map(Value::take) {
            Some(Value::Object(sections)) => sections,
            _ => Map::new(),
        };
        said["AvailableActions"] = json!(actions);
        let version = member(&said, "Version");
        let documentation = member(&said, "Documentation");
        sections.insert("plugin_providers".to_owned(), json!({ name.as_str(): said }));
        let pack = Pack::parse(&json!({
            "meta": { "Name": name, "Version": version, "Type": "plugin", "Documentation": documentation },
            "sections": sections,
        }))
        .map_err(|e| e.to_string())?;
        let program = program.to_path_buf();
        Ok((Self { name, program, actions }, pack))
    }
}

/// Runs a program with one word, JSON on its standard input, and reads JSON from its standard output.
fn ask(program: &Path, word: &str, question: &Value, patience: Duration) -> Result<Value, String> {
    let failed = |e: std::io::Error| format!("{} {word}: {e}", program.display());
    let mut child = Command::new(program)
        .arg(word)
        // Nothing of ours: neither passwords nor the state of this process.
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        // With its children, it can be ended as a whole.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let input = question.to_string();
    let stdin = child.stdin.take();
    let writer = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        stdout.map(|stdout| stdout.take(MAX_ANSWER + 1).read_to_end(&mut said));
        said
    });
    let deadline = Instant::now() + patience;
    let mut status = None;
    // It has answered when it has ended and nobody that it started may still write to its output.
    while status.is_none() || !reader.is_finished() || !writer.is_finished() {
        if status.is_none() {
            status = child.try_wait().map_err(failed)?;
        }
        if Instant::now() >= deadline {
            let group = Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            if status.is_none() {
                let _ = child.wait();
            }
            let (program, seconds) = (program.display(), patience.as_secs());
            return Err(format!("{program} {word} took more than {seconds} s"));
        }
        std::thread::sleep(LOOK);
    }
    let said = reader.join().unwrap_or_default();
    if said.len() as u64 > MAX_ANSWER {
        return Err(format!(
            "{} {word} says more than {MAX_ANSWER} bytes",
            program.display()
        ));
    }
    if let Some(status) = status.filter(|status| !status.success()) {
        return Err(format!("{} {word} ended with {status}", program.display()));
    }
    serde_json::from_slice(&said).map_err(|e| format!("{} {word} does not answer with JSON: {e}", program.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_a_program_leaves_behind_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let (program, pid) = (dir.path().join("provider"), dir.path().join("pid"));
        let script = format!("#!/bin/sh\nsleep 1000 &\necho $! > {}\necho '{{}}'\n", pid.display());
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        // As long as a loaded host takes to start it.
        let said = ask(&program, "action", &Value::Null, Duration::from_secs(6));
        assert!(said.unwrap_err().contains("took more than 6 s"));
        let child = std::fs::read_to_string(&pid).unwrap();
        let state = Path::new("/proc").join(child.trim()).join("stat");
        let is_gone = || std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "));
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_gone() {
            assert!(Instant::now() < deadline, "its child is still there");
            std::thread::sleep(LOOK);
        }
    }
}
