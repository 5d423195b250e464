//! Content packs: sets of objects that come and go together, and the packs that Isobar brings along.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::canonical::{At, Step, kind_of, structure};
use crate::table::{Default, Field, NOUNS, Noun, Type};
use crate::{ApiError, Object, noun, text};

/// Members of a pack's `meta`, in the order they are sent.
const META: &[Field] = &[
    Field::new("Name", Type::Str, "Unique name of the pack; also the layer's."),
    Field::new("Version", Type::Str, "Semantic version."),
    Field::new("Description", Type::Str, "One line for people."),
    Field::new("Source", Type::Str, "Who publishes it."),
    Field::new("Documentation", Type::Str, "Longer text for people."),
    Field::new(
        "RequiredFeatures",
        Type::Str,
        "Features that the server must have, separated by commas.",
    ),
    Field::new("Color", Type::Str, "Colour of its icon."),
    Field::new("Icon", Type::Str, "Icon in pages."),
    Field::new("Author", Type::Str, "Who wrote it."),
    Field::new("DisplayName", Type::Str, "Name for people."),
    Field::new("License", Type::Str, "Licence of its objects."),
    Field::new("Copyright", Type::Str, "Who owns it."),
    Field::new("CodeSource", Type::Str, "Where its source is."),
    Field::new("Order", Type::Str, "Position in lists of packs."),
    Field::new("Tags", Type::Str, "Words to find it by, separated by commas."),
    Field::new("DocUrl", Type::Str, "Where its manual is."),
    Field::new("Prerequisites", Type::Str, "Packs that must be there, with versions."),
    Field::new(
        "Type",
        Type::Str,
        "Kind of layer: writable, local, dynamic, plugin, default, basic.",
    )
    .default(Default::Str("dynamic")),
    Field::new("Writable", Type::Bool, "Objects can be changed in it."),
    Field::new("Overwritable", Type::Bool, "It can be replaced as a whole."),
];

/// A content pack.
#[derive(Clone, Debug)]
pub struct Pack {
    /// What it is, with all members of a pack's `meta`.
    pub meta: Object,
    /// Its objects in canonical form, by type prefix and key.
    pub sections: BTreeMap<&'static str, BTreeMap<String, Object>>,
    /// What was left out and why; not an error.
    pub warnings: Vec<String>,
}

impl Pack {
    /// Reads a pack: `{"meta": {...}, "sections": {"tasks": {"KEY": {...}}}}`.
    ///
    /// Objects become read-only and carry the pack's name as `Bundle`. Sections of types that this server does
    /// not have are left out with a warning.
    ///
    /// # Errors
    /// 400 or 422 that lists everything which is wrong.
    pub fn parse(document: &Value) -> Result<Pack, ApiError> {
        let refused = |name: &str, messages| ApiError {
            model: "contents".to_owned(),
            key: name.to_owned(),
            messages,
            code: 400,
            ..ApiError::default()
        };
        let member = |name| document.get(name).and_then(Value::as_object);
        let Some(given_meta) = member("meta") else {
            let message = format!(
                "a content pack is an object with meta and sections, found {}",
                kind_of(document)
            );
            return Err(refused("", vec![message]));
        };
        let mut problems = Vec::new();
        let place = At {
            below: None,
            step: Step::Member("meta"),
        };
        let meta = structure(META, &mut given_meta.clone(), Some(&place), &mut problems);
        let name = text(&meta, "Name").to_owned();
        if name.is_empty() {
            problems.push("meta.Name is missing".to_owned());
        }
        let (mut sections, mut warnings) = (BTreeMap::new(), Vec::new());
        for (section, objects) in member("sections").into_iter().flatten() {
            let (Some(noun), Some(objects)) = (noun(section), objects.as_object()) else {
                warnings.push(format!(
                    "section {section} is left out: this server has no such objects"
                ));
                continue;
            };
            let read = objects.iter().filter_map(|(key, object)| {
                read_object(noun, key, object, &name)
                    .map_err(|reason| problems.push(reason))
                    .ok()
            });
            let read: BTreeMap<_, _> = read.collect();
            sections.insert(noun.name, read);
        }
        if !problems.is_empty() {
            return Err(refused(&name, problems));
        }
        Ok(Pack {
            meta,
            sections,
            warnings,
        })
    }

    /// Reads a pack from YAML (of which JSON is a part).
    ///
    /// # Errors
    /// As [`parse`](Self::parse); 400 with the line for what is no YAML.
    pub fn parse_yaml(yaml: &str) -> Result<Pack, ApiError> {
        let document = from_yaml(yaml).map_err(|err| ApiError::bad_request("POST", "contents", err))?;
        Pack::parse(&document)
    }

    /// The pack's name.
    pub fn name(&self) -> &str {
        text(&self.meta, "Name")
    }

    /// All objects with their types.
    pub fn objects(&self) -> impl Iterator<Item = (&'static Noun, &Object)> {
        let of_noun = |noun: &'static Noun| self.sections.get(noun.name).map(move |section| (noun, section));
        NOUNS
            .iter()
            .filter_map(of_noun)
            .flat_map(|(noun, section)| section.values().map(move |object| (noun, object)))
    }

    /// The body of `GET /contents` for this pack.
    pub fn summary(&self) -> Value {
        let counts: Object = self
            .sections
            .iter()
            .map(|(noun, section)| ((*noun).to_owned(), section.len().into()))
            .collect();
        json!({"meta": self.meta, "Counts": counts, "Warnings": self.warnings})
    }
}

fn read_object(noun: &Noun, key: &str, object: &Value, layer: &str) -> Result<(String, Object), String> {
    let place = |reason: &str| format!("{}/{key}: {reason}", noun.name);
    let mut object = noun.canonical(object).map_err(|err| place(&err.messages.join("; ")))?;
    object.insert("Bundle".to_owned(), layer.into());
    object.insert("ReadOnly".to_owned(), true.into());
    match noun.key_of(&object).into_owned() {
        own if own.is_empty() => Err(place(&format!("{} is missing", noun.key_field()))),
        own if own != key => Err(place(&format!("is filed under {key} but calls itself {own}"))),
        own => Ok((own, object)),
    }
}

/// The packs that a pack wants, from `Name: >=1.2.3 <2.0.0, Other`.
pub fn prerequisites(list: &str) -> impl Iterator<Item = (&str, Range)> {
    let one = |part: &str| match part.split_once(':') {
        None => (part.trim().len(), String::new()),
        Some((name, range)) => (name.trim().len(), range.trim().to_owned()),
    };
    list.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(move |part| {
            let (length, range) = one(part);
            (&part[..length], Range(range))
        })
}

/// Versions that will do, as packs write them: comparisons that all have to hold, alternatives between `||`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range(String);

impl Range {
    /// Whether a version is in it. What stands behind the numbers (`v4.6.0-beta.1+x`) does not count.
    pub fn holds(&self, version: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let numbers = version
            .trim_start_matches('v')
            .split(['-', '+'])
            .next()
            .unwrap_or_default();
        let Ok(version) = semver::Version::parse(numbers) else {
            return false;
        };
        self.0.split("||").any(|all| {
            // semver wants commas between comparisons, and a space nowhere else.
            let all = all.split_whitespace().collect::<Vec<_>>().join(",");
            semver::VersionReq::parse(&all.replace('v', "")).is_ok_and(|range| range.matches(&version))
        })
    }
}

/// YAML as JSON.
///
/// # Errors
/// What is wrong, with line and column.
pub fn from_yaml(yaml: &str) -> Result<Value, String> {
    serde_yaml_ng::from_str(yaml).map_err(|err| err.to_string())
}

/// Members of a pack's `meta` that are no texts.
const META_FLAGS: &[&str] = &["Writable", "Overwritable"];

/// A pack out of the files of a folder (path within it, content): `._Name.meta` and its like hold members of the `meta`,
/// `TYPE/FILE.yaml` (or `.yml`, `.json`) one object each, any other file below `templates/` a template of that name.
///
/// # Errors
/// Which file is no YAML, or an object without a key.
pub fn from_tree<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Value, String> {
    let (mut meta, mut sections) = (Object::new(), BTreeMap::<String, Object>::new());
    for (path, content) in files {
        let field = path.strip_prefix("._").and_then(|name| name.strip_suffix(".meta"));
        if let Some(field) = field {
            let value = content.trim_end_matches('\n');
            let flag = META_FLAGS.contains(&field).then(|| value.trim() == "true");
            meta.insert(field.to_owned(), flag.map_or_else(|| value.into(), Value::Bool));
            continue;
        }
        let Some((section, file)) = path.split_once('/') else {
            continue;
        };
        let Some(noun) = noun(section) else { continue };
        let stem = [".yaml", ".yml", ".json"].iter().find_map(|end| file.strip_suffix(end));
        let object = match stem {
            Some(_) => from_yaml(content).map_err(|e| format!("{path}: {e}"))?,
            None if section == "templates" => json!({ "ID": file, "Contents": content }),
            None => continue,
        };
        let read = noun
            .canonical(&object)
            .map_err(|e| format!("{path}: {}", e.messages.join("; ")))?;
        let key = noun.key_of(&read).into_owned();
        if key.is_empty() {
            return Err(format!("{path}: {} is missing", noun.key_field()));
        }
        if sections
            .entry(section.to_owned())
            .or_default()
            .insert(key.clone(), object)
            .is_some()
        {
            return Err(format!("{path}: {section}/{key} is there twice"));
        }
    }
    Ok(json!({ "meta": meta, "sections": sections }))
}

/// The files of a folder that make a pack: the reverse of [`from_tree`].
///
/// # Errors
/// What cannot be written as YAML.
pub fn to_tree(pack: &Value) -> Result<Vec<(String, String)>, String> {
    let mut files = Vec::new();
    for (field, value) in pack["meta"].as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        files.push((format!("._{field}.meta"), text));
    }
    for (section, objects) in pack["sections"].as_object().into_iter().flatten() {
        for (key, object) in objects.as_object().into_iter().flatten() {
            // A key with slashes stays one file.
            let file = key.replace('/', "-");
            if section == "templates"
                && !key.contains('/')
                && [".yaml", ".yml", ".json"].iter().all(|e| !key.ends_with(e))
            {
                let contents = object["Contents"].as_str().unwrap_or_default();
                files.push((format!("templates/{key}"), contents.to_owned()));
                continue;
            }
            let yaml = serde_yaml_ng::to_string(object).map_err(|e| e.to_string())?;
            files.push((format!("{section}/{file}.yaml"), yaml));
        }
    }
    Ok(files)
}

/// What every server has, whatever other content there is.
pub const BUILTIN: &[&str] = &[include_str!("../../../content/builtin.yaml")];

/// Isobar's own pack; a setting switches it off.
pub const ISOBAR: &[&str] = &[
    include_str!("../../../content/isobar/meta.yaml"),
    include_str!("../../../content/isobar/boot.yaml"),
    include_str!("../../../content/isobar/ipmi.yaml"),
    include_str!("../../../content/isobar/params.yaml"),
];

/// Joins the files of a pack, each of which has some of its sections, and reads it.
///
/// # Errors
/// As [`Pack::parse`]; 400 for an object that is in two files.
pub fn from_files(files: &[&str]) -> Result<Pack, ApiError> {
    let mut whole = json!({"sections": {}});
    for file in files {
        let mut document = from_yaml(file).map_err(|err| ApiError::bad_request("POST", "contents", err))?;
        if let Some(meta) = document.get_mut("meta") {
            whole["meta"] = meta.take();
        }
        let Some(Value::Object(sections)) = document.get_mut("sections").map(Value::take) else {
            continue;
        };
        for (section, objects) in sections {
            let Value::Object(objects) = objects else { continue };
            let section_objects = &mut whole["sections"][&section];
            for (key, object) in objects {
                if !section_objects[&key].is_null() {
                    let message = format!("{section}/{key} is in the pack twice");
                    return Err(ApiError::bad_request("POST", "contents", message));
                }
                section_objects[&key] = object;
            }
        }
    }
    Pack::parse(&whole)
}

/// Writable objects that are made at the first start when they are not there: the profile `global`.
pub fn first_objects() -> Vec<(&'static Noun, Object)> {
    let Some(profiles) = noun("profiles") else {
        return Vec::new();
    };
    let mut global = profiles.empty();
    global.insert("Name".to_owned(), "global".into());
    global.insert(
        "Description".to_owned(),
        "Params of all machines that have no nearer value".into(),
    );
    vec![(profiles, global)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::lookup::tests::World;
    use crate::validate;

    fn world_of(packs: &[&Pack]) -> World {
        let mut world = World::default();
        for (noun, object) in packs.iter().flat_map(|pack| pack.objects()) {
            world.put(noun.name, object.clone());
        }
        for (noun, object) in first_objects() {
            world.put(noun.name, object);
        }
        world
    }

    #[test]
    fn our_packs_are_whole() {
        let (builtin, isobar) = (from_files(BUILTIN).unwrap(), from_files(ISOBAR).unwrap());
        assert!(builtin.warnings.is_empty() && isobar.warnings.is_empty());
        assert_eq!((builtin.name(), isobar.name()), ("BasicStore", "isobar"));
        let both = world_of(&[&builtin, &isobar]);
        let alone = world_of(&[&builtin]);
        for (pack, world) in [(&builtin, &alone), (&isobar, &both)] {
            for (noun, object) in pack.objects() {
                let found = validate::findings(noun, object, world);
                assert_eq!(
                    found,
                    validate::Findings::default(),
                    "{}/{}",
                    noun.name,
                    noun.key_of(object)
                );
                assert!(
                    !text(object, "Description").is_empty(),
                    "{} has no description",
                    noun.key_of(object)
                );
            }
        }
        for (noun, key) in [
            ("bootenvs", "local"),
            ("bootenvs", "ignore"),
            ("stages", "none"),
            ("stages", "local"),
            ("profiles", "global"),
        ] {
            assert!(crate::Lookup::get(&alone, noun, key).is_some(), "{noun}/{key}");
        }
    }

    #[test]
    fn discovery_runs_in_sledgehammer_without_tasks() {
        let pack = from_files(ISOBAR).unwrap();
        let world = world_of(&[&from_files(BUILTIN).unwrap(), &pack]);
        let machines = noun("machines").unwrap();
        let mut machine = machines
            .canonical(&json!({"Name": "mach-01", "Workflow": "discover-base"}))
            .unwrap();
        validate::admit(machines, None, &mut machine, &world, crate::machine::Change::default()).unwrap();
        let want = json!(["stage:discover", "bootenv:sledgehammer", "stage:sledgehammer-wait"]);
        assert_eq!(
            (&machine["Tasks"], &machine["BootEnv"]),
            (&want, &json!("sledgehammer"))
        );
    }

    #[test]
    fn params_have_the_meaning_that_commands_rely_on() {
        let pack = from_files(ISOBAR).unwrap();
        let schema = |name: &str| crate::params::ParamSchema::compile(&pack.sections["params"][name]).unwrap();
        assert_eq!(schema("ipmi/mode").default(), Some(&json!("auto")));
        assert!(
            schema("ipmi/mode").check(&json!("redfish")).is_ok() && schema("ipmi/mode").check(&json!("x")).is_err()
        );
        assert!(schema("ipmi/password").secure() && schema("ipmi/configure/password").secure());
        assert_eq!(schema("boot-virtual-iso-power").default(), Some(&json!("cycle")));
        assert!(schema("boot-virtual-iso").check(&json!(true)).is_ok());
        let sample = json!({"prov": {"address": "10.10.10.100", "gateway": "10.10.10.1", "interface": "eth10", "netmask": "255.255.255.0", "vlan": 1020}});
        schema("network-data").check(&sample).unwrap();
        assert!(schema("network-data").check(&json!({"prov": {"address": 5}})).is_err());
    }

    #[test]
    fn a_folder_and_a_pack_are_the_same_thing() {
        let files = [
            ("._Name.meta", "LocalStore\n"),
            ("._Overwritable.meta", "true"),
            ("templates/etc.yaml", "ID: etc\nContents: |\n  x\n"),
            ("templates/plain.tmpl", "{{.Machine.Name}}\n"),
            ("params/a-b.yaml", "Name: a/b\nSecure: true\n"),
            ("README.md", "no content"),
            ("freds/x.yaml", "Name: x"),
        ];
        let document = from_tree(files).unwrap();
        let pack = Pack::parse(&document).unwrap();
        assert_eq!((pack.name(), &pack.meta["Overwritable"]), ("LocalStore", &json!(true)));
        assert_eq!(
            pack.sections["templates"]["plain.tmpl"]["Contents"],
            "{{.Machine.Name}}\n"
        );
        assert_eq!(pack.sections["params"]["a/b"]["Secure"], true);
        let again = to_tree(&document).unwrap();
        let again = from_tree(again.iter().map(|(path, content)| (path.as_str(), content.as_str()))).unwrap();
        assert_eq!(Pack::parse(&again).unwrap().sections, pack.sections);
        assert!(
            from_tree([("tasks/x.yaml", "Description: y")])
                .unwrap_err()
                .contains("Name is missing")
        );
    }

    #[test]
    fn prerequisites_are_names_with_ranges() {
        let read: Vec<_> = prerequisites("foo, BasicStore: >=3.12.x <5.0.0").collect();
        assert_eq!(
            read.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["foo", "BasicStore"]
        );
        assert!(read[0].1.holds("anything"));
        for (version, want) in [
            ("v4.7.0", true),
            ("3.12.1-beta", true),
            ("5.0.0", false),
            ("3.11.9", false),
            ("x", false),
        ] {
            assert_eq!(read[1].1.holds(version), want, "{version}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_pack_is_listed() {
        let pack = json!({"meta": {"Name": "p1", "Version": 1},
            "sections": {"tasks": {"t1": {"Name": "t2"}, "t3": {}, "t4": {"Name": "t4"}}, "freds": {}}});
        let error = Pack::parse(&pack).unwrap_err();
        let want = [
            "meta.Version: expected text, found a number",
            "tasks/t1: is filed under t1 but calls itself t2",
            "tasks/t3: Name is missing",
        ];
        assert_eq!(error.messages, want);
        assert_eq!(Pack::parse(&json!([])).unwrap_err().code, 400);
        assert!(Pack::parse_yaml("a: [").unwrap_err().to_string().contains("line"));
        let fine =
            Pack::parse(&json!({"meta": {"name": "p1"}, "sections": {"freds": {}, "tasks": {"t4": {"Name": "t4"}}}}))
                .unwrap();
        assert_eq!(fine.warnings.len(), 1);
        let (_, task) = fine.objects().next().unwrap();
        assert_eq!((&task["Bundle"], &task["ReadOnly"]), (&json!("p1"), &json!(true)));
        assert_eq!(fine.summary()["Counts"], json!({"tasks": 1}));
    }
}
