//! What a machine would get, for people: templates rendered without giving anything away, and boot environments looked
//! through for all that is wrong with them.

use std::collections::BTreeSet;
use std::sync::Arc;

use isobar_model::bootenv::for_arch;
use isobar_model::{ApiError, Lookup, Object, list, text};
use serde_json::Value;

use crate::render::{ServedAt, Tokens, World};
use crate::view::View;
use crate::{Objects, Principal};

/// Machines that a boot environment is rendered for when it is checked.
const MAX_MACHINES: usize = 20;

/// What is to be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Preview {
    /// A template by its ID.
    Template(String),
    /// A text.
    Text(String),
    /// A file of the file plane, by its path.
    File(String),
}

impl Objects {
    /// Renders something as the file plane would for a machine, or for a host that nobody knows. Where a token would be,
    /// a word says so.
    ///
    /// # Errors
    /// 404 for what is not there, 422 with template, line, field and machine when it does not render.
    pub fn preview(
        &self,
        machine: Option<&str>,
        bootenv: Option<&str>,
        what: &Preview,
        at: &ServedAt,
    ) -> Result<String, ApiError> {
        let world = self.world_for(machine, bootenv, at)?;
        let refused = |message: String| ApiError::validation("templates", "", message);
        match what {
            Preview::Text(source) => world.rendered().text("text", source).map_err(refused),
            Preview::Template(id) => {
                let template = self.get("templates", id)?;
                world.rendered().text(id, text(&template, "Contents")).map_err(refused)
            }
            Preview::File(path) => {
                let file = world.file(path.trim_start_matches('/'));
                let none = || ApiError::new(404, "GET", "templates", path, "no template makes this file here");
                file.ok_or_else(none)?.map_err(refused)
            }
        }
    }

    fn world_for(&self, machine: Option<&str>, bootenv: Option<&str>, at: &ServedAt) -> Result<World, ApiError> {
        let env = bootenv.map(|key| self.get("bootenvs", key)).transpose()?;
        let mut world = match machine {
            Some(key) => World::of_machine(self, &self.get("machines", key)?, at)?,
            None => World {
                tokens: Tokens::Shown,
                objects: self.clone(),
                machine: None,
                env: match self.pref("unknownBootEnv")? {
                    Some(name) => self.find("bootenvs", &name)?,
                    None => None,
                },
                stage: None,
                task: None,
                secrets: None,
                path: None,
                mac: None,
                at: at.clone(),
                sources: Arc::default(),
            },
        };
        world.tokens = Tokens::Shown;
        world.env = env.or(world.env);
        Ok(world)
    }

    /// All that is wrong with a boot environment: what its own marks say, what in its templates is none, what they name and
    /// is not there, and what does not render for `machine`; without one for the machines that are in it and that `by` may
    /// see.
    ///
    /// # Errors
    /// 404; of the store.
    pub fn check_bootenv(
        &self,
        key: &str,
        machine: Option<&str>,
        at: &ServedAt,
        by: &Principal,
    ) -> Result<Vec<String>, ApiError> {
        let bootenv = self.get("bootenvs", key)?;
        let name = text(&bootenv, "Name").to_owned();
        let mut problems: Vec<String> = list(&bootenv, "Errors").map(str::to_owned).collect();
        self.check_sources(&bootenv, &name, &mut problems)?;
        let machines = match machine {
            Some(key) => vec![self.get("machines", key)?],
            None => {
                let view = View::new(&self.core);
                let keys = Lookup::find(&view, "machines", "BootEnv", &name);
                view.sound()?;
                let seen = keys.iter().filter(|key| by.allows("machines", "get", key));
                let found = seen.take(MAX_MACHINES).map(|key| self.find("machines", key));
                found.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()
            }
        };
        for machine in &machines {
            let mut world = World::of_machine(self, machine, at)?;
            world.env = Some(Arc::clone(&bootenv));
            world.stage = None;
            self.check_world(world, &bootenv, &mut problems);
        }
        if bootenv.get("OnlyUnknown") == Some(&Value::Bool(true)) {
            let world = self.world_for(None, Some(&name), at)?;
            self.check_world(world, &bootenv, &mut problems);
        }
        let mut told = BTreeSet::new();
        problems.retain(|problem| told.insert(problem.clone()));
        Ok(problems)
    }

    /// The names of all boot environments.
    ///
    /// # Errors
    /// Of the store.
    pub fn bootenvs(&self) -> Result<Vec<String>, ApiError> {
        let view = View::new(&self.core);
        let mut keys = Lookup::keys(&view, "bootenvs");
        view.sound()?;
        keys.sort();
        Ok(keys)
    }

    /// Templates that are none, and names of templates that are not there.
    fn check_sources(&self, bootenv: &Object, name: &str, problems: &mut Vec<String>) -> Result<(), ApiError> {
        let mut todo: Vec<(String, String)> = Vec::new();
        for info in bootenv.get("Templates").and_then(Value::as_array).into_iter().flatten() {
            let member = |field: &str| info.get(field).and_then(Value::as_str).unwrap_or_default();
            let place = format!("{name}/{}", member("Name"));
            todo.push((format!("{place}/Path"), member("Path").to_owned()));
            match member("ID") {
                "" => todo.push((place, member("Contents").to_owned())),
                id => todo.push((place, format!("{{{{template {} .}}}}", Value::from(id)))),
            }
        }
        let arches = ["amd64", "arm64", "ppc64le"];
        for (arch, files) in arches
            .into_iter()
            .filter_map(|arch| Some((arch, for_arch(bootenv, arch)?)))
        {
            todo.push((format!("{name}/BootParams ({arch})"), files.boot_params));
        }
        let mut known = BTreeSet::new();
        while let Some((place, source)) = todo.pop() {
            match isobar_template::check(&place, &source) {
                Err(error) => problems.push(error.to_string()),
                Ok(included) => {
                    for id in included.into_iter().filter(|id| known.insert(id.clone())) {
                        match self.find("templates", &id)? {
                            Some(template) => todo.push((id, text(&template, "Contents").to_owned())),
                            None => problems.push(format!("template {place}: there is no template {id}")),
                        }
                    }
                }
            }
        }
        for param in list(bootenv, "RequiredParams") {
            if self.find("params", param)?.is_none() {
                problems.push(format!("{name}: the required param {param} is not declared"));
            }
        }
        Ok(())
    }

    /// What does not render.
    fn check_world(&self, world: World, bootenv: &Object, problems: &mut Vec<String>) {
        let name = text(bootenv, "Name");
        let machine = world.machine.clone();
        let rendered = world.clone().rendered();
        if let Some(machine) = &machine {
            for param in list(bootenv, "RequiredParams") {
                match self.resolve_in("machines", machine, param) {
                    Ok(Some(_)) => {}
                    Ok(None) => problems.push(format!(
                        "{name}: the machine {} lacks the required param {param}",
                        text(machine, "Name")
                    )),
                    Err(error) => problems.push(error.to_string()),
                }
            }
        }
        let arch = machine.as_ref().map_or("amd64", |machine| text(machine, "Arch"));
        if for_arch(bootenv, arch).is_some() {
            problems.extend(rendered.text(&format!("{name}/BootParams"), "{{.BootParams}}").err());
        }
        for info in bootenv.get("Templates").and_then(Value::as_array).into_iter().flatten() {
            let member = |field: &str| info.get(field).and_then(Value::as_str).unwrap_or_default();
            let mac = machine
                .as_ref()
                .and_then(|machine| list(machine, "HardwareAddrs").next());
            let asks_for_mac = member("Path").contains(".MacAddr");
            if asks_for_mac && mac.is_none() {
                continue;
            }
            let world = World {
                mac: mac.filter(|_| asks_for_mac).map(str::to_owned),
                ..world.clone()
            };
            let place = format!("{name}/{}/Path", member("Name"));
            match world.clone().rendered().text(&place, member("Path")) {
                Ok(path) => {
                    let path = Some(path.trim_start_matches('/').to_owned());
                    problems.extend(World { path, ..world }.rendered().content(name, info).err());
                }
                Err(error) => problems.push(error),
            }
        }
    }
}
