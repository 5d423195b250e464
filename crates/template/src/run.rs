//! One rendering: its limits, where it is, and what is rendered within it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use serde_json::Value as Json;

use crate::engine::{exec, failed, prepared, said};
use crate::join::{Joined, LEVELS};
use crate::value::{extent, from_json};
use crate::{Limits, Scope, TemplateError, methods};

/// Renderings within renderings (`.StringExpand`, `.CallTemplate`, `.BootParams`).
const MAX_NESTING: usize = 8;
const MAX_TEMPLATES: usize = 200;
/// A rendering within a rendering starts on a stack of its own where both might not fit on one: the engine's limit of
/// recursion fits one.
const STACK: usize = 4 << 20;
/// What lies between a rendering and one within it takes the room of so many levels.
const BETWEEN: usize = 20;

thread_local! {
    /// The renderings of this thread, the innermost last.
    static RUNNING: RefCell<Vec<Arc<Run>>> = const { RefCell::new(Vec::new()) };
}

/// The rendering that a function works for.
pub(crate) fn running() -> gotmpl::Result<Arc<Run>> {
    let innermost = RUNNING.with_borrow(|running| running.last().cloned());
    innermost.ok_or_else(|| exec("nothing is being rendered".to_owned()))
}

/// A rendering is the innermost as long as this lives.
struct Entered;

impl Entered {
    fn new(run: &Arc<Run>) -> Self {
        RUNNING.with_borrow_mut(|running| running.push(Arc::clone(run)));
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        RUNNING.with_borrow_mut(Vec::pop);
    }
}

/// One rendering with everything that is nested in it.
pub(crate) struct Run {
    pub(crate) scope: Arc<dyn Scope>,
    pub(crate) limits: Limits,
    deadline: Instant,
    nesting: usize,
    /// Levels of the stack that the renderings around this one may take, on the same thread.
    below: usize,
    /// With those of this one; none while it may take as many as there are.
    levels: OnceLock<usize>,
    /// Template and line.
    place: Mutex<Option<(Arc<str>, Option<usize>)>>,
}

impl Run {
    pub(crate) fn new(scope: Arc<dyn Scope>, limits: Limits) -> Run {
        Run {
            scope,
            limits,
            deadline: Instant::now() + limits.time,
            nesting: 0,
            below: 0,
            levels: OnceLock::new(),
            place: Mutex::default(),
        }
    }

    pub(crate) fn render(self, name: &str, text: &str) -> Result<String, TemplateError> {
        Arc::new(self).render_dot(name, text, None)
    }

    /// Renders a text that was met while rendering another one. `dot` replaces the render object.
    pub(crate) fn nested(self: &Arc<Run>, name: &str, text: &str, dot: Option<Json>) -> Result<String, String> {
        if !text.contains("{{") {
            return Ok(text.to_owned());
        }
        if self.nesting >= MAX_NESTING {
            return Err(format!(
                "{name}: texts are expanded within one another more than {MAX_NESTING} times"
            ));
        }
        let inner = |below| {
            Arc::new(Run {
                scope: self.scope.clone(),
                limits: self.limits,
                deadline: self.deadline,
                nesting: self.nesting + 1,
                below,
                levels: OnceLock::new(),
                place: Mutex::default(),
            })
        };
        let broke_off = || format!("{name}: the rendering broke off");
        // Parsing takes room, too.
        if let Some(levels) = self.levels.get().filter(|levels| **levels <= LEVELS / 2) {
            let inner = inner(levels + BETWEEN);
            let joined = inner.joined(name, text).map_err(|err| err.to_string())?;
            if joined.levels.is_some_and(|own| inner.below + own <= LEVELS) {
                let rendered = catch_unwind(AssertUnwindSafe(|| inner.execute(name, &joined, dot)));
                return rendered.map_err(|_| broke_off())?.map_err(|err| err.to_string());
            }
        }
        let inner = inner(0);
        std::thread::scope(|threads| {
            let builder = std::thread::Builder::new()
                .name("template".to_owned())
                .stack_size(STACK);
            let thread = builder.spawn_scoped(threads, || inner.render_dot(name, text, dot));
            match thread.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(result)) => result.map_err(|err| err.to_string()),
                Ok(Err(_)) => Err(broke_off()),
                Err(err) => Err(format!("{name}: no thread to render it: {err}")),
            }
        })
    }

    fn render_dot(self: &Arc<Run>, name: &str, text: &str, dot: Option<Json>) -> Result<String, TemplateError> {
        let joined = self.joined(name, text)?;
        self.execute(name, &joined, dot)
    }

    /// A text with all that it includes.
    fn joined(&self, name: &str, text: &str) -> Result<Arc<Joined>, TemplateError> {
        let absent = methods::Objects::fetch(self.scope.as_ref()).absent();
        let mut todo = vec![(Cow::Borrowed(name), Cow::Borrowed(text))];
        let mut known = HashSet::from([name.to_owned()]);
        let (mut met, mut parts) = (1, Vec::new());
        while let Some((id, text)) = todo.pop() {
            let ready = prepared(&id, &absent, &text)?;
            met += ready.trees.len();
            known.extend(ready.trees.iter().map(|(tree, _)| tree.clone()));
            for included in &ready.included {
                if !known.insert(included.clone()) {
                    continue;
                }
                let text = self.scope.template(included);
                let text = text.ok_or_else(|| failed(&id, None, format!("there is no template {included}")))?;
                met += 1;
                todo.push((Cow::Owned(included.clone()), Cow::Owned(text)));
            }
            if met > MAX_TEMPLATES {
                return Err(failed(
                    name,
                    None,
                    format!("includes more than {MAX_TEMPLATES} templates"),
                ));
            }
            parts.push(ready);
        }
        let root = Arc::clone(&parts[0]);
        Ok(root.joined(name, &parts, self.limits.iterations.max(1)))
    }

    fn execute(self: &Arc<Run>, name: &str, joined: &Joined, dot: Option<Json>) -> Result<String, TemplateError> {
        if let Some(own) = joined.levels {
            // Set once: a run renders one text.
            let _ = self.levels.set(self.below + own);
        }
        let _entered = Entered::new(self);
        let dot = match dot {
            Some(json) => from_json(&json),
            None => methods::Objects::fetch(self.scope.as_ref()).dot(self, &joined.wanted),
        };
        let mut output = Output::of(self);
        let result = joined.template.execute_template_fmt(&mut output, name, &dot);
        let Output { text, full, .. } = output;
        result.map(|()| text).map_err(|err| {
            let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (template, line) = place.unwrap_or_else(|| (name.into(), None));
            failed(&template, line, full.unwrap_or_else(|| said(&err)))
        })
    }

    /// Notes where the rendering is.
    pub(crate) fn at(&self, template: &Arc<str>, line: Option<usize>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::clone(template), line));
    }

    pub(crate) fn spend(&self) -> Result<(), String> {
        if Instant::now() > self.deadline {
            return Err(format!("takes longer than {} s", self.limits.time.as_secs_f32()));
        }
        Ok(())
    }

    /// Whether a value that a function made may live on.
    pub(crate) fn bounded(&self, value: &Json) -> Result<(), String> {
        if extent(value) > self.limits.output {
            return Err(format!("makes a value of more than {} bytes", self.limits.output));
        }
        Ok(())
    }
}

/// Text that stops growing at the limit and when time is up.
pub(crate) struct Output<'a> {
    pub(crate) text: String,
    run: &'a Run,
    /// Why it does not grow any more.
    pub(crate) full: Option<String>,
}

impl<'a> Output<'a> {
    pub(crate) fn of(run: &'a Run) -> Self {
        Output {
            text: String::new(),
            run,
            full: None,
        }
    }
}

impl fmt::Write for Output<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let limit = self.run.limits.output;
        if self.text.len() + text.len() > limit {
            self.full = Some(format!("makes more than {limit} bytes"));
            return Err(fmt::Error);
        }
        if let Err(reason) = self.run.spend() {
            self.full = Some(reason);
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wanted::Wanted;
    use crate::{BootFiles, Members, Repos, Shown};

    struct World {
        machine: Members,
        env: Members,
        stage: Members,
    }

    fn world() -> Arc<dyn Scope> {
        let object = |value: Json| value.as_object().unwrap().clone();
        let machine = json!({"Name": "m1.example.com", "Uuid": "u-1", "Address": "10.1.1.1", "Profiles": ["a"],
            "Meta": {"color": "red"}, "Params": {"secret": 1}});
        let env = json!({"Name": "e1", "Kernel": "raw", "Empty": {}, "OS": {"Name": "debian-12", "Version": "12.1"}});
        Arc::new(World {
            machine: object(machine),
            env: object(env),
            stage: Members::new(),
        })
    }

    impl Scope for World {
        fn machine(&self) -> Option<Shown<'_>> {
            Some(Shown::without(&["Params"], &self.machine))
        }
        fn env(&self) -> Option<Shown<'_>> {
            Some(Shown::all(&self.env))
        }
        fn stage(&self) -> Option<Shown<'_>> {
            Some(Shown::all(&self.stage))
        }
        fn provisioner_address(&self) -> Result<String, String> {
            Ok("10.1.1.2".into())
        }
        fn provisioner_url(&self) -> Result<String, String> {
            Ok("http://10.1.1.2:8091".into())
        }
        fn api_url(&self) -> Result<String, String> {
            // Where it is asked for.
            Ok(std::thread::current().name().unwrap_or_default().to_owned())
        }
        fn param(&self, name: &str) -> Result<Option<Json>, String> {
            Ok((name == "text").then(|| "{{.Machine.Name}}{{.Stage}}".into()))
        }
        fn template(&self, id: &str) -> Option<String> {
            match id {
                "flat" => Some("{{.Machine.Name}} {{with .Env}}{{.Name}}{{end}}".into()),
                "whole" => Some("{{.}}".into()),
                "again" => Some("{{with .Machine}}{{template \"whole\" .Meta}}{{end}}{{template \"flat\" .}}".into()),
                _ => None,
            }
        }
        fn boot(&self, _: Option<&str>) -> Result<BootFiles, String> {
            Ok(BootFiles {
                kernel: "k".into(),
                initrds: vec!["i".into()],
                boot_params: "{{.Env.Kernel}}{{if .Machine}} {{.Machine.UUID}}{{end}}".into(),
            })
        }
        fn repos(&self, _: Repos<'_>) -> Result<Vec<Json>, String> {
            Ok(vec![json!({"Tag": "t"})])
        }
    }

    /// What a text gives when only what it names is made, and when everything is.
    fn both(text: &str) -> [Result<String, TemplateError>; 2] {
        [false, true].map(|all| {
            let run = Arc::new(Run::new(world(), Limits::default()));
            let joined = run.joined("t", text)?;
            let wanted = if all { Wanted::All } else { joined.wanted.clone() };
            let template = joined.template.clone();
            let levels = joined.levels;
            run.execute(
                "t",
                &Joined {
                    template,
                    wanted,
                    levels,
                },
                None,
            )
        })
    }

    #[test]
    fn what_a_text_does_not_name_it_does_not_miss() {
        for text in [
            "{{.Machine.Name}} {{.Machine.UUID}} {{.Machine.Path}} {{.Machine.ShortName}} {{.Machine.HexAddress}} {{.Machine.Url}}",
            "{{.Machine.Meta.color}} {{index .Machine.Profiles 0}} {{len .Machine.Meta}} {{len .Machine.Profiles}}",
            "{{$m := .Machine}}{{$m.Name}} {{$d := .}}{{$d.Env.OS.FamilyName}} {{$.Env.OS.VersionEq \"12\"}}",
            "{{if .Machine}}a{{end}}{{if .Env}}b{{end}}{{if .Stage}}c{{else}}d{{end}}{{if .Task}}e{{else}}f{{end}}",
            "{{if $.Machine}}a{{end}}{{if and .Machine .Env.Empty}}b{{else}}c{{end}}{{if not .Stage}}d{{end}}",
            "{{with .Machine}}{{.Name}}{{range $k, $v := .Meta}}{{$k}}{{$v}}{{end}}{{$.Env.Name}}{{else}}{{.Env}}{{end}}",
            "{{with .}}{{.Machine.Name}}{{end}}{{range .Machine.Profiles}}{{.}}{{$.Machine.Uuid}}{{end}}",
            "{{with .Stage}}x{{else}}{{.Machine.Name}}{{end}}{{range .Stage}}x{{else}}{{.Machine.UUID}}{{end}}",
            "{{template \"flat\" .}}{{template \"flat\" $}}{{template \"whole\" .Machine.Name}}{{template \"again\" .}}",
            "{{define \"x\"}}{{.Env.Kernel}}{{.Env.Initrds}}{{end}}{{template \"x\" .}}{{block \"y\" .Env}}{{.OS.Name}}{{end}}",
            "{{.CallTemplate \"flat\" .}}{{.CallTemplate \"whole\" .Machine.Meta}}{{.StringExpand \"{{.Env.Name}}\"}}",
            "{{.BootParams}}{{.Env.BootParams}}{{.ParamExpand \"text\"}}{{(index (.Repos \"t\") 0).R.Machine.Uuid}}",
            "{{.Machine}}",
            "{{.Env.OS}}",
            "{{toJson .Machine}}{{keys .Env | sortAlpha}}{{get .Machine \"Uuid\"}}{{index . \"Machine\" \"Name\"}}",
            "{{(.Machine).Name}}{{(index . \"Env\").Name}}{{($).ApiURL}}",
            "{{.Machine.Params}}",
            "{{.Machine.Nothing}}",
            "{{.Nothing}}",
            "{{.Stage.Name}}",
            "{{range $k, $v := .}}{{$k}}{{end}}",
        ] {
            let [named, all] = both(text);
            assert_eq!(named, all, "{text}");
        }
        assert_eq!(both("{{if .Machine}}{{.Env.Name}}{{end}}")[0].as_deref(), Ok("e1"));
    }

    proptest! {
        #[test]
        fn nor_does_any_text(parts in proptest::collection::vec(prop_oneof![
            Just("{{"), Just("}}"), Just("{{end}}"), Just("{{else}}"), Just("{{if "), Just("{{with "), Just("{{range "),
            Just("{{template \"flat\" "), Just("{{template \"whole\" "), Just("$x := "), Just("."), Just("$"), Just("$x"),
            Just(".Machine"), Just(".Name"), Just(".Meta"), Just(".Env"), Just(".OS"), Just(".Stage"), Just(".Task"),
            Just("}}x{{end}}"), Just(".BootParams"), Just(" "), Just("len "), Just("index "), Just("\"Name\" "), Just("(")
        ], 0..16)) {
            let [named, all] = both(&parts.concat());
            prop_assert_eq!(named, all);
        }
    }

    #[test]
    fn flat_texts_are_rendered_on_the_same_stack_and_endless_ones_on_their_own() {
        let levels = |text: &str| Run::new(world(), Limits::default()).joined("t", text).unwrap().levels;
        assert_eq!(levels("x"), Some(1));
        assert_eq!(levels("{{if true}}{{if (not (not true))}}{{end}}{{end}}"), Some(5));
        assert!(levels("{{template \"again\" .}}").is_some_and(|levels| levels < 20));
        assert_eq!(
            levels("{{define \"x\"}}{{template \"x\"}}{{end}}{{template \"x\"}}"),
            None
        );
        assert_eq!(
            levels(
                "{{define \"x\"}}{{template \"y\"}}{{end}}{{define \"y\"}}{{template \"x\"}}{{end}}{{template \"x\"}}"
            ),
            None
        );
        let thread = |text: &str| both(text)[0].clone().unwrap();
        let within = r#"{{.StringExpand "{{.ApiURL}}"}}"#;
        assert_eq!(thread(within), thread("{{.ApiURL}}"));
        let endless = r#"{{define "x"}}{{if not .}}{{template "x" .}}{{end}}{{end}}{{template "x" 1}}"#;
        assert_eq!(thread(&format!("{endless}{within}")), "template");
        let text =
            |depth: usize, inner: &str| format!("{}{inner}{}", "{{if true}}".repeat(depth), "{{end}}".repeat(depth));
        for depth in [1, 40, 75, 90] {
            let inner = text(depth, "{{((((((((.Machine.Name))))))))}}");
            let middle = text(depth, &format!("{{{{.StringExpand {}}}}}", Json::from(inner)));
            let outer = text(depth, &format!("{{{{.StringExpand {}}}}}", Json::from(middle)));
            let [named, all] = both(&outer);
            assert_eq!(named.as_deref(), Ok("m1.example.com"), "{depth}");
            assert_eq!(named, all);
        }
    }
}
