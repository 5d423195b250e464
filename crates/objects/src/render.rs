//! Templates rendered per fetch: the files of machines in a boot environment or stage, those for hosts that nobody
//! knows, and what the agent runs for a task.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use isobar_model::repos::{self, Repo};
use isobar_model::{ApiError, Lookup, Object, bootenv, list, text};
use isobar_template::{BootFiles, Repos, Scope, Shown, TokenKind};
use serde_json::Value;

use crate::hook::BootWindow;
use crate::secure::Sources;
use crate::view::View;
use crate::{Claim, Objects, Principal};

/// Length of what stands in front of the paths of a booting machine's files.
const PASS: usize = 43;
/// More parts of a path than this name no machine.
const MAX_PARTS: usize = 8;

/// Where the requester sees this server.
#[derive(Clone, Debug, Default)]
pub struct ServedAt {
    /// Host or address.
    pub address: String,
    /// Base URL of the file plane.
    pub files: String,
    /// Base URL of the API.
    pub api: String,
}

/// What templates are rendered for.
pub(crate) struct Rendered {
    scope: Arc<dyn Scope>,
    objects: Objects,
    secrets: Secrets,
}

/// Whether templates get tokens, and which.
#[derive(Clone)]
pub(crate) enum Tokens {
    /// For the machine in this boot.
    Of(BootWindow),
    /// For nobody: a person looks at what a machine would get.
    Shown,
    /// Not here, and why.
    None(&'static str),
}

/// Stands where the machine gets its token.
const SHOWN: &str = "THE-TOKEN-IS-FOR-THE-MACHINE-ALONE";
/// Longest life of a token that a template makes, within the boot that it ends with.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
const SHORTEST: Duration = Duration::from_secs(1);
const NO_PASS: &str = "this path can be guessed, so no token is given here: write the file's address as {{.Machine.Url}}/… in \
                       the kernel arguments, which a machine that boots from its virtual CD gets with its own pass";
const NO_MACHINE: &str = "tokens are for machines, and there is none here";
const AGENT: &str = "the machine is not booting from its virtual CD; its agent has a token already, in RS_TOKEN";
/// Params are read through `.Param`, which refuses secrets; the other is the root of the machine's tokens.
const HIDDEN: &[&str] = &["Params", "Secret"];
/// Whether templates get secure params: none for nobody; else whether they took one.
pub(crate) type Secrets = Option<Arc<AtomicBool>>;

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) tokens: Tokens,
    pub(crate) objects: Objects,
    pub(crate) machine: Option<Arc<Object>>,
    pub(crate) env: Option<Arc<Object>>,
    pub(crate) stage: Option<Arc<Object>>,
    pub(crate) task: Option<Arc<Object>>,
    pub(crate) secrets: Secrets,
    pub(crate) path: Option<String>,
    pub(crate) mac: Option<String>,
    pub(crate) at: ServedAt,
    /// Where params come from, once one is asked for; none where there is neither a machine nor a profile `global`.
    pub(crate) sources: Arc<OnceLock<Option<Sources>>>,
}

impl Rendered {
    /// What a task's templates see.
    pub(crate) fn for_task(
        objects: &Objects,
        machine: &Arc<Object>,
        task: &Arc<Object>,
        (os, at): (&str, &ServedAt),
        by: &Principal,
    ) -> Result<Self, ApiError> {
        let mut world = World::of_machine(objects, machine, at)?;
        let uuid = text(machine, "Uuid");
        world.tokens = match by.machine() {
            // Its agent asks, and has proven who it is.
            Some(own) if own == uuid => match objects.core.windows().window(uuid, None)? {
                Some(window) => Tokens::Of(window),
                None => Tokens::None(AGENT),
            },
            _ => Tokens::Shown,
        };
        let mut task = Object::clone(task);
        // What the agent that asks runs on.
        task.insert("TargetOS".to_owned(), if os.is_empty() { "linux" } else { os }.into());
        world.task = Some(Arc::new(task));
        // The machine's own agent needs them; whoever else looks needs the right to.
        let secrets = by.machine() == Some(uuid) || by.allows("machines", "getSecure", uuid);
        world.secrets = secrets.then(Arc::default);
        Ok(world.rendered())
    }

    /// Whether a secure param was shown to a template.
    pub(crate) fn took_secrets(&self) -> bool {
        self.secrets.as_ref().is_some_and(|took| took.load(Ordering::Relaxed))
    }

    pub(crate) fn text(&self, name: &str, source: &str) -> Result<String, String> {
        isobar_template::render(name, source, &self.scope).map_err(|e| e.to_string())
    }

    /// The content of a template info of `owner`: its own, or that of the template it names.
    pub(crate) fn content(&self, owner: &str, info: &Value) -> Result<String, String> {
        let member = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or_default();
        let id = member("ID");
        if id.is_empty() {
            return self.text(&format!("{owner}/{}", member("Name")), member("Contents"));
        }
        let template = self.objects.find("templates", id).map_err(|e| e.to_string())?;
        let template = template.ok_or_else(|| format!("there is no template {id}"))?;
        self.text(id, text(&template, "Contents"))
    }
}

impl World {
    pub(crate) fn of_machine(objects: &Objects, machine: &Arc<Object>, at: &ServedAt) -> Result<Self, ApiError> {
        Ok(World {
            objects: objects.clone(),
            env: objects.find("bootenvs", text(machine, "BootEnv"))?,
            stage: objects.find("stages", text(machine, "Stage"))?,
            machine: Some(Arc::clone(machine)),
            task: None,
            secrets: None,
            path: None,
            mac: None,
            at: at.clone(),
            tokens: Tokens::None(NO_PASS),
            sources: Arc::default(),
        })
    }

    pub(crate) fn rendered(self) -> Rendered {
        Rendered {
            objects: self.objects.clone(),
            secrets: self.secrets.clone(),
            scope: Arc::new(self),
        }
    }

    /// The file of this path, if a template of boot environment or stage is for it.
    pub(crate) fn file(&self, wanted: &str) -> Option<Result<String, String>> {
        for owner in [&self.env, &self.stage].into_iter().flatten() {
            let infos = owner.get("Templates").and_then(Value::as_array).into_iter().flatten();
            for info in infos {
                let source = info.get("Path").and_then(Value::as_str).unwrap_or_default();
                // A file for each address where the path asks for one.
                let macs: Vec<Option<String>> = match (&self.machine, source.contains(".MacAddr")) {
                    (Some(machine), true) => list(machine, "HardwareAddrs").map(|mac| Some(mac.to_owned())).collect(),
                    _ => vec![None],
                };
                for mac in macs {
                    let world = World {
                        mac,
                        path: Some(wanted.to_owned()),
                        ..self.clone()
                    };
                    let rendered = world.rendered();
                    let name = text(owner, "Name");
                    // A path that cannot be rendered for this machine (no address) is none of its files.
                    if rendered
                        .text(name, source)
                        .is_ok_and(|path| path.trim_start_matches('/') == wanted)
                    {
                        return Some(rendered.content(name, info));
                    }
                }
            }
        }
        None
    }

    fn sources(&self) -> Result<Option<&Sources>, String> {
        if let Some(known) = self.sources.get() {
            return Ok(known.as_ref());
        }
        let read = || match &self.machine {
            Some(machine) => self.objects.sources("machines", machine).map(Some),
            None => match self.objects.find("profiles", "global")? {
                Some(global) => self.objects.sources("profiles", &global).map(Some),
                None => Ok(None),
            },
        };
        let read = read().map_err(|e: ApiError| e.to_string())?;
        Ok(self.sources.get_or_init(|| read).as_ref())
    }

    fn machine_arch(&self) -> &str {
        self.machine.as_ref().map_or("amd64", |machine| text(machine, "Arch"))
    }

    fn env_or_error(&self) -> Result<&Arc<Object>, String> {
        self.env
            .as_ref()
            .ok_or_else(|| "there is no boot environment here".to_owned())
    }
}

impl Scope for World {
    fn machine(&self) -> Option<Shown<'_>> {
        self.machine.as_ref().map(|machine| Shown::without(HIDDEN, machine))
    }

    fn env(&self) -> Option<Shown<'_>> {
        self.env.as_ref().map(|env| Shown::all(env))
    }

    fn stage(&self) -> Option<Shown<'_>> {
        self.stage.as_ref().map(|stage| Shown::all(stage))
    }

    fn task(&self) -> Option<Shown<'_>> {
        self.task.as_ref().map(|task| Shown::all(task))
    }

    fn path(&self) -> Option<String> {
        self.path.clone()
    }

    fn provisioner_address(&self) -> Result<String, String> {
        Ok(self.at.address.clone())
    }

    fn provisioner_url(&self) -> Result<String, String> {
        Ok(self.at.files.clone())
    }

    fn api_url(&self) -> Result<String, String> {
        Ok(self.at.api.clone())
    }

    fn machine_url(&self) -> Result<String, String> {
        Ok(match &self.tokens {
            Tokens::Of(window) if self.task.is_none() => format!("{}/{}", self.at.files, window.pass),
            _ => self.at.files.clone(),
        })
    }

    fn token(&self, kind: TokenKind<'_>) -> Result<String, String> {
        let machine = self.machine.as_ref().ok_or(NO_MACHINE)?;
        let window = match &self.tokens {
            Tokens::Of(window) => window,
            Tokens::Shown => return Ok(SHOWN.to_owned()),
            Tokens::None(reason) => return Err((*reason).to_owned()),
        };
        let (what, limits, ttl) = match kind {
            TokenKind::Short => {
                let set = self.objects.pref("knownTokenTimeout").map_err(|e| e.to_string())?;
                let seconds = set.and_then(|set| set.parse().ok()).unwrap_or(3600);
                ("short".to_owned(), Vec::new(), Duration::from_secs(seconds))
            }
            TokenKind::Long => ("long".to_owned(), Vec::new(), LONGEST),
            TokenKind::Profile { profile, seconds } => {
                if !list(machine, "Profiles").any(|own| own == profile) {
                    return Err(format!("the machine does not have the profile {profile}"));
                }
                let ttl = if seconds == 0 {
                    LONGEST
                } else {
                    Duration::from_secs(seconds)
                };
                let limits = vec![vec![Claim::new("profiles", "get,update", profile)]];
                (format!("profile {profile} {seconds}"), limits, ttl)
            }
        };
        let ttl = ttl.clamp(SHORTEST, LONGEST);
        let token = self
            .objects
            .window_token(text(machine, "Uuid"), window, &what, limits, ttl);
        token.map(|token| token.as_str().to_owned()).map_err(|e| e.to_string())
    }

    fn param(&self, name: &str) -> Result<Option<Value>, String> {
        let found = match self.sources()? {
            Some(sources) => sources.resolve(name).map_err(|e| e.to_string())?,
            None => None,
        };
        let Some(found) = found else {
            return Ok(None);
        };
        // The file plane asks for no credentials; and no machine is told how to get at its own BMC.
        if found.secure {
            match self.secrets.as_ref().filter(|_| !name.starts_with("ipmi/")) {
                Some(took) => took.store(true, Ordering::Relaxed),
                None => return Err(format!("the param {name} is secure and not for templates here")),
            }
        }
        Ok(Some(found.value))
    }

    fn compose_param(&self, name: &str) -> Result<Option<Value>, String> {
        // For its check, too.
        let nearest = self.param(name)?;
        match self.sources()?.filter(|_| self.machine.is_some()) {
            Some(sources) => sources.compose(name).map_err(|e| e.to_string()),
            None => Ok(nearest),
        }
    }

    fn template(&self, id: &str) -> Option<String> {
        let template = self.objects.find("templates", id).ok()??;
        Some(text(&template, "Contents").to_owned())
    }

    fn boot(&self, arch: Option<&str>) -> Result<BootFiles, String> {
        let arch = arch.unwrap_or_else(|| self.machine_arch());
        let files = bootenv::for_arch(self.env_or_error()?, arch).unwrap_or_default();
        Ok(BootFiles {
            kernel: files.kernel,
            initrds: files.initrds,
            boot_params: files.boot_params,
        })
    }

    fn boot_path(&self, file: &str, arch: Option<&str>) -> Result<String, String> {
        let arch = arch.unwrap_or_else(|| self.machine_arch());
        Ok(bootenv::path_for(self.env_or_error()?, arch, file))
    }

    fn mac_addr(&self) -> Option<String> {
        self.mac.clone()
    }

    fn repos(&self, which: Repos<'_>) -> Result<Vec<Value>, String> {
        let listed = self.param(repos::PARAM)?;
        let (machine, env) = (self.machine.as_deref(), self.env.as_deref());
        self.objects
            .template_repos(listed.as_ref(), machine, env, &self.at.files, which)
    }
}

impl Objects {
    /// The package repositories that a template asks for, of those that a param lists and those that this server has itself
    /// at `files`.
    ///
    /// # Errors
    /// Of the store, in words.
    pub fn template_repos(
        &self,
        listed: Option<&Value>,
        machine: Option<&Object>,
        env: Option<&Object>,
        files: &str,
        which: Repos<'_>,
    ) -> Result<Vec<Value>, String> {
        let all = listed.map(Repo::list).unwrap_or_default();
        let os = match machine {
            Some(machine) if !text(machine, "OS").is_empty() => text(machine, "OS"),
            _ => env.map(bootenv::os_name).unwrap_or_default(),
        };
        let arch = machine.map_or("amd64", |machine| text(machine, "Arch"));
        let local = || {
            let trees = self.local_trees(os, arch).map_err(|e| e.to_string())?;
            let repo = |(tag, path): &(String, String)| Repo::local(tag, os, arch, &format!("{files}/{path}"));
            Ok::<Vec<Repo>, String>(trees.iter().map(repo).collect())
        };
        let found = match which {
            Repos::Tagged(tags) => all
                .into_iter()
                .chain(local()?)
                .filter(|repo| repo.tagged(tags))
                .collect(),
            Repos::Machine => repos::with_local(&all, local()?, os, arch),
            Repos::Install => repos::install_of(local()?.into_iter().next(), &all, os, arch),
        };
        Ok(found.iter().map(|repo| repo.shown(os)).collect())
    }

    /// The file that a template makes of this path of the file plane (without leading slash), for whoever sees the server
    /// at `at`. None when no template does.
    ///
    /// # Errors
    /// Of the store; 422 when the template does not render.
    pub fn rendered_file(&self, path: &str, at: &ServedAt) -> Result<Option<String>, ApiError> {
        let (pass, path) = match path.split_once('/') {
            Some((pass, rest)) if pass.len() == PASS => (Some(pass), rest),
            _ => (None, path),
        };
        for machine in self.machines_named(path)? {
            let mut world = World::of_machine(self, &machine, at)?;
            if let Some(pass) = pass {
                match self.core.windows().window(text(&machine, "Uuid"), Some(pass))? {
                    Some(window) => world.tokens = Tokens::Of(window),
                    None => continue,
                }
            }
            if let Some(file) = world.file(path) {
                return file
                    .map(Some)
                    .map_err(|e| ApiError::validation("machines", text(&machine, "Uuid"), e));
            }
        }
        let Some(name) = self.pref("unknownBootEnv")?.filter(|_| pass.is_none()) else {
            return Ok(None);
        };
        let world = World {
            objects: self.clone(),
            machine: None,
            env: self.find("bootenvs", &name)?,
            stage: None,
            task: None,
            secrets: None,
            path: None,
            mac: None,
            at: at.clone(),
            tokens: Tokens::None(NO_MACHINE),
            sources: Arc::default(),
        };
        world
            .file(path)
            .transpose()
            .map_err(|e| ApiError::validation("bootenvs", &name, e))
    }

    /// The machines that the parts of a path name: by UUID, name, address or MAC address.
    fn machines_named(&self, path: &str) -> Result<Vec<Arc<Object>>, ApiError> {
        let view = View::new(&self.core);
        let mut keys: Vec<String> = Vec::new();
        for part in path.split('/').take(MAX_PARTS) {
            let stem = part.rsplit_once('.').map_or(part, |(stem, _)| stem);
            for word in [part, stem] {
                let word = word.strip_prefix("grub.cfg-").unwrap_or(word);
                let bare = word.strip_prefix("01-").unwrap_or(word);
                if uuid::Uuid::try_parse(word).is_ok() {
                    keys.push(word.to_ascii_lowercase());
                } else if let Some(address) = address(word) {
                    keys.extend(Lookup::find(&view, "machines", "Address", &address.to_string()));
                } else if bare.len() == 17 && bare.bytes().all(|b| b.is_ascii_hexdigit() || b":-".contains(&b)) {
                    let mac = bare.replace('-', ":").to_ascii_lowercase();
                    keys.extend(Lookup::find(&view, "machines", "HardwareAddrs", &mac));
                    keys.extend(Lookup::find(
                        &view,
                        "machines",
                        "HardwareAddrs",
                        &mac.to_ascii_uppercase(),
                    ));
                } else {
                    keys.extend(Lookup::find(&view, "machines", "Name", word));
                }
            }
        }
        view.sound()?;
        keys.dedup();
        Ok(keys
            .iter()
            .filter_map(|key| Lookup::get(&view, "machines", key))
            .collect())
    }
}

/// An address in dotted form, or as PXELINUX writes it: eight hex digits.
fn address(word: &str) -> Option<IpAddr> {
    let hex = || (word.len() == 8).then(|| u32::from_str_radix(word, 16).ok()).flatten();
    word.parse()
        .ok()
        .or_else(|| hex().map(|bits| IpAddr::V4(Ipv4Addr::from(bits))))
}
