//! What templates give, with a scope as a server would answer.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use isobar_template::{
    BootFiles, Limits, Members, Repos, Scope, Shown, TemplateError, TokenKind, check, render, render_with,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Default)]
struct World {
    machine: Option<Members>,
    env: Option<Members>,
    params: Members,
    composed: Members,
    templates: BTreeMap<String, String>,
    boot_params: String,
    path: Option<String>,
}

impl Scope for World {
    fn machine(&self) -> Option<Shown<'_>> {
        self.machine.as_ref().map(Shown::all)
    }

    fn env(&self) -> Option<Shown<'_>> {
        self.env.as_ref().map(Shown::all)
    }

    fn path(&self) -> Option<String> {
        self.path.clone()
    }

    fn provisioner_address(&self) -> Result<String, String> {
        Ok("192.168.77.1".into())
    }

    fn provisioner_url(&self) -> Result<String, String> {
        Ok("http://192.168.77.1:8091".into())
    }

    fn api_url(&self) -> Result<String, String> {
        Ok("https://192.168.77.1:8092".into())
    }

    fn param(&self, name: &str) -> Result<Option<Value>, String> {
        if name == "broken" {
            return Err("the key to decrypt it is not there".into());
        }
        Ok(self.params.get(name).cloned())
    }

    fn compose_param(&self, name: &str) -> Result<Option<Value>, String> {
        Ok(self.composed.get(name).or_else(|| self.params.get(name)).cloned())
    }

    fn template(&self, id: &str) -> Option<String> {
        self.templates.get(id).cloned()
    }

    fn boot(&self, arch: Option<&str>) -> Result<BootFiles, String> {
        let suffix = arch.map(|arch| format!("-{arch}")).unwrap_or_default();
        let initrds = vec![format!("stage1{suffix}.img"), "stage2.img".into()];
        Ok(BootFiles {
            kernel: format!("vmlinuz0{suffix}"),
            initrds,
            boot_params: self.boot_params.clone(),
        })
    }

    fn boot_path(&self, file: &str, arch: Option<&str>) -> Result<String, String> {
        Ok(arch.map_or_else(
            || format!("/sledgehammer/{file}"),
            |arch| format!("/sledgehammer/{arch}/{file}"),
        ))
    }

    fn mac_addr(&self) -> Option<String> {
        Some("52:54:00:AB:CD:EF".into())
    }
}

fn object(value: Value) -> Members {
    value.as_object().unwrap().clone()
}

fn world() -> World {
    World {
        machine: Some(object(
            json!({"Name": "mach-01.example.com", "Uuid": "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215",
            "Address": "10.10.10.100", "Arch": "amd64", "Profiles": ["p1", "p2"]}),
        )),
        env: Some(object(
            json!({"Name": "sledgehammer", "Kernel": "raw", "BootParams": "raw",
            "OS": {"Name": "debian-12", "Family": "", "Version": "12.5"}}),
        )),
        params: object(
            json!({"name": "value", "flag": true, "off": false, "number": 1020, "list": ["a", "b"],
            "map": {"k": "v", "n": {"deep": 1}}, "nested": "x{{.Param \"name\"}}y", "loop": "{{.ParamExpand \"loop\"}}",
            "empty": "", "texts": {"a": "{{.Machine.ShortName}}", "b": [1, "{{add 1 2}}"]}}),
        ),
        composed: object(json!({"map": {"k": "composed"}})),
        templates: BTreeMap::from([
            (
                "greet.tmpl".into(),
                "Hello {{.Machine.Name}}{{template \"sign\" .}}".into(),
            ),
            ("sign".into(), "!".into()),
            ("self.tmpl".into(), "{{template \"self.tmpl\" .}}".into()),
            ("data.tmpl".into(), "{{.x}} and {{.y}}".into()),
            ("broken.tmpl".into(), "fine\n{{.Param \"nothing\"}}".into()),
        ]),
        boot_params: "root=live {{.Param \"name\"}}".into(),
        path: None,
    }
}

fn with(world: World, text: &str) -> Result<String, TemplateError> {
    let scope: Arc<dyn Scope> = Arc::new(world);
    render("test", text, &scope)
}

#[track_caller]
fn gives(text: &str, want: &str) {
    match with(world(), text) {
        Ok(got) => assert_eq!(got, want, "{text}"),
        Err(err) => panic!("{text}: {err}"),
    }
}

#[track_caller]
fn fails(text: &str, want: &str) {
    let want = format!("{want} (machine mach-01.example.com)");
    assert_eq!(with(world(), text).unwrap_err().to_string(), want, "{text}");
}

#[test]
fn the_language_is_that_of_go() {
    for (text, want) in [
        ("plain", "plain"),
        ("", ""),
        (" \n", " \n"),
        ("function {", "function {"),
        ("{{1}}{", "1{"),
        ("{{define \"T\"}}{{end}}", ""),
        ("a {{- \" b \" -}} c", "a b c"),
        ("{{/* nothing */}}x", "x"),
        (
            "{{if .Param \"off\"}}a{{else if .Param \"flag\"}}b{{else}}c{{end}}",
            "b",
        ),
        ("{{range .Param \"list\"}}[{{.}}]{{end}}", "[a][b]"),
        ("{{range $i, $v := .Param \"list\"}}{{$i}}={{$v}};{{end}}", "0=a;1=b;"),
        ("{{range $k, $v := .Param \"map\"}}{{$k}},{{end}}", "k,n,"),
        ("{{range list}}x{{else}}none{{end}}", "none"),
        (
            "{{range .Param \"list\"}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}",
            "a",
        ),
        ("{{with .Param \"map\"}}{{.k}}{{end}}", "v"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        (
            "{{range .Param \"list\"}}{{$.Machine.ShortName}}{{end}}",
            "mach-01mach-01",
        ),
        (
            "{{eq 1 1}} {{ne \"a\" \"b\"}} {{lt 1 2}} {{and true \"\"}}{{or \"\" \"x\"}} {{not true}}",
            "true true true x false",
        ),
        ("{{eq (.Param \"name\") \"x\" \"value\"}}", "true"),
        (
            "{{index (.Param \"list\") 1}} {{index (.Param \"map\") \"n\" \"deep\"}} {{len (.Param \"list\")}}",
            "b 1 2",
        ),
        ("{{slice \"abcdef\" 1 3}}", "bc"),
        (
            "{{printf \"%s-%d-%05d-%q-%v\" \"a\" 5 42 \"q\" true}}",
            "a-5-00042-\"q\"-true",
        ),
        ("{{\"x\" | printf \"%s%s\" \"y\"}}", "yx"),
        ("{{html \"<a>\"}}", "&lt;a&gt;"),
        ("{{(.Param \"map\").n.deep}}", "1"),
        ("{{define \"T\"}}<{{.}}>{{end}}{{template \"T\" \"x\"}}", "<x>"),
    ] {
        gives(text, want);
    }
}

#[test]
fn methods_answer_as_in_drp() {
    for (text, want) in [
        (
            "{{.Param \"name\"}} {{$.Param \"name\"}} {{\"name\" | .Param}}",
            "value value value",
        ),
        ("{{.Param \"number\"}}", "1020"),
        (
            "{{.ParamExists \"name\"}} {{.ParamExists \"nothing\"}} {{if .ParamExists \"off\"}}there{{end}}",
            "true false there",
        ),
        ("{{.ParamAsJSON \"map\"}}", r#"{"k":"v","n":{"deep":1}}"#),
        ("{{.ParamAsYAML \"list\"}}", "- a\n- b\n"),
        (
            "{{.Param \"nested\"}}|{{.ParamExpand \"nested\"}}",
            "x{{.Param \"name\"}}y|xvaluey",
        ),
        ("{{toJson (.ParamExpand \"texts\")}}", r#"{"a":"mach-01","b":[1,"3"]}"#),
        (
            "{{get (.ComposeParam \"map\") \"k\"}} {{(.ParamCompose \"map\").k}}",
            "composed composed",
        ),
        ("{{.StringExpand \"<{{.Machine.Arch}}>\"}}", "<amd64>"),
        ("{{.Machine.UUID}}", "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215"),
        (
            "{{.Machine.Path}} {{.Machine.ShortName}} {{.Machine.HexAddress}}",
            "machines/1987e6d3-75ef-4a61-bf0d-2fa4b26f8215 mach-01 0A0A0A64",
        ),
        (
            "{{.Machine.Url}}",
            "http://192.168.77.1:8091/machines/1987e6d3-75ef-4a61-bf0d-2fa4b26f8215",
        ),
        (
            "{{.Machine.MacAddr \"pxelinux\"}} {{.Machine.MacAddr \"raw\"}} {{.Machine.MacAddr \"rpi4\"}}",
            "01-52-54-00-ab-cd-ef 52:54:00:ab:cd:ef 52-54-00-ab-cd-ef",
        ),
        (
            "{{.ProvisionerURL}} {{.ProvisionerAddress}} {{.ApiURL}}",
            "http://192.168.77.1:8091 192.168.77.1 https://192.168.77.1:8092",
        ),
        (
            "{{.Env.PathFor \"http\" .Env.Kernel}}",
            "http://192.168.77.1:8091/sledgehammer/vmlinuz0",
        ),
        ("{{.Env.PathFor \"tftp\" .Env.Kernel}}", "sledgehammer/vmlinuz0"),
        (
            "{{.Env.PathForArch \"tftp\" \"k\" \"arm64\"}} {{.Env.KernelFor \"arm64\"}}",
            "sledgehammer/arm64/k vmlinuz0-arm64",
        ),
        (
            "{{.Env.JoinInitrds \"tftp\"}}",
            "sledgehammer/stage1.img sledgehammer/stage2.img",
        ),
        (
            "{{range .Env.InitrdsFor \"arm64\"}}{{.}} {{end}}",
            "stage1-arm64.img stage2.img ",
        ),
        (
            "{{.Env.OS.Name}} {{.Env.OS.FamilyName}} {{.Env.OS.VersionEq \"12\"}} {{.Env.OS.VersionEq \"1\"}}",
            "debian-12 debian true false",
        ),
        ("{{.BootParams}}|{{.Env.BootParams}}", "root=live value|root=live value"),
        (
            "{{.ParseUrl \"host\" .ProvisionerURL}} {{.ParseUrl \"scheme\" \"https://h/p?q\"}} {{.ParseUrl \"path\" \"https://h/p\"}}",
            "192.168.77.1:8091 https /p",
        ),
        (
            "{{.NetmaskToCIDR \"255.255.255.0\"}} {{.NetmaskToCIDR \"/22\"}} {{.NetmaskToCIDR \"16\"}}",
            "24 22 16",
        ),
        ("{{template \"greet.tmpl\" .}}", "Hello mach-01.example.com!"),
        ("{{.CallTemplate \"greet.tmpl\" .}}", "Hello mach-01.example.com!"),
        (
            "{{.CallTemplate \"data.tmpl\" (dict \"x\" 1 \"y\" \"two\")}}",
            "1 and two",
        ),
        ("{{if .Task}}task{{else}}no task{{end}}", "no task"),
        (
            "{{range $k := .Machine.Profiles}}{{$.Param \"name\"}}{{end}}",
            "valuevalue",
        ),
    ] {
        gives(text, want);
    }
    let ipxe = World {
        path: Some("10.10.10.100.ipxe".into()),
        ..world()
    };
    assert_eq!(
        with(ipxe, "{{.BootParams}}").unwrap(),
        "initrd=stage1.img root=live value"
    );
}

#[test]
fn functions_are_those_of_sprig() {
    for (text, want) in [
        ("{{get (dict \"a\" 1) \"a\"}}{{get (dict) \"x\"}}", "1"),
        (
            "{{$d := dict \"a\" 1}}{{$_ := set $d \"b\" 2}}{{$d.b}} {{hasKey $d \"a\"}} {{keys $d | join \",\"}}",
            "2 true a,b",
        ),
        (
            "{{$d := dict \"a\" 1}}{{$_ := unset $d \"a\"}}{{hasKey $d \"a\"}}",
            "false",
        ),
        (
            "{{first (list 1 2)}}{{last (list 1 2)}}{{rest (list 1 2 3)}}",
            "12[2 3]",
        ),
        (
            "{{trim \" x \"}}{{trimSuffix \"b\" \"ab\"}}{{trimPrefix \"a\" \"ab\"}}",
            "xab",
        ),
        (
            "{{(split \"/\" \"a/b\")._1}} {{splitList \",\" \"a,b\" | join \"-\"}}",
            "b a-b",
        ),
        (
            "{{replace \"-\" \":\" \"a-b\"}} {{toString 5}} {{int \"42\"}} {{add 1 2 3}} {{sub 5 2}} {{mul 2 3}} {{div 7 2}} {{mod 7 2}}",
            "a:b 5 42 6 3 6 3 1",
        ),
        ("{{concat (list 1) (list 2 3) | toJson}} {{cat \"a\" 1}}", "[1,2,3] a 1"),
        (
            "{{empty \"\"}} {{hasPrefix \"ab\" \"abc\"}} {{contains \"b\" \"abc\"}} {{has 2 (list 1 2)}}",
            "true true true true",
        ),
        (
            "{{default \"d\" (.Param \"empty\")}} {{.Param \"name\" | default \"d\"}}",
            "d value",
        ),
        (
            "{{lower \"AB\"}} {{upper \"ab\"}} {{title \"ab cd\"}} {{quote \"a\\\"b\"}} {{squote \"x\"}}",
            "ab AB Ab Cd \"a\\\"b\" 'x'",
        ),
        (
            "{{uniq (list 1 1 2) | toJson}} {{append (list 1) 2 | toJson}} {{prepend (list 1) 0 | toJson}}",
            "[1,2] [1,2] [0,1]",
        ),
        (
            "{{regexMatch \"^a+$\" \"aa\"}} {{regexFind \"[0-9]+\" \"ab12\"}} {{regexReplaceAll \"a(b)\" \"xab\" \"${1}\"}}",
            "true 12 xb",
        ),
        (
            "{{ternary \"y\" \"n\" true}} {{coalesce \"\" \"x\"}} {{repeat 3 \"ab\"}} {{trunc 2 \"abc\"}} {{trunc -2 \"abc\"}} {{substr 1 2 \"abc\"}}",
            "y x ababab ab bc b",
        ),
        (
            "{{b64enc \"hi\"}} {{b64dec \"aGk=\"}} {{sha256sum \"\"}}",
            "aGk= hi e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        ("{{indent 2 \"a\\nb\"}}|{{nindent 1 \"a\"}}", "  a\n  b|\n a"),
        (
            "{{until 3 | toJson}} {{untilStep 4 0 -2 | toJson}} {{fromJson \"[1]\" | first}}",
            "[0,1,2] [4,2] 1",
        ),
        (
            "{{merge (dict \"a\" 1) (dict \"a\" 2 \"b\" 3) | toJson}}",
            r#"{"a":1,"b":3}"#,
        ),
        (
            "{{base \"/a/b\"}} {{dir \"/a/b\"}} {{kindOf (list)}} {{max 1 5 2}} {{min 3 2}} {{round 1.256 2}}",
            "b /a slice 5 2 1.26",
        ),
        ("{{toPrettyJson (dict \"a\" 1)}}", "{\n  \"a\": 1\n}"),
    ] {
        gives(text, want);
    }
}

/// What published content calls, and Go's own.
const FUNCTIONS: &str = "eq ne and or not index len printf slice get set hasKey first trim split join replace toString toJson \
    toPrettyJson int add concat cat empty hasPrefix contains list has default lower trimSuffix uniq regexMatch regexFind \
    call html js print println urlquery lt le gt ge";

#[test]
fn every_function_that_content_calls_is_there() {
    let there = isobar_template::functions();
    let missing: Vec<_> = FUNCTIONS
        .split_whitespace()
        .filter(|name| !there.contains(name))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    let mut once = there.clone();
    once.dedup();
    assert_eq!(once, there, "each has one meaning");
    // They would see more than their arguments.
    for outside in [
        "env",
        "expandenv",
        "ago",
        "now",
        "getHostByName",
        "randAlpha",
        "genPrivateKey",
    ] {
        assert!(!there.contains(&outside), "{outside}");
    }
}

/// What published content asks of the render object and of repositories: an expression, and what it gives here.
const METHODS: &[(&str, &str)] = &[
    (".Machine.Name", "mach-01.example.com"),
    (".Env.Name", "sledgehammer"),
    ("if .Stage}}stage{{else}}none{{end", "none"),
    ("if .Task}}task{{else}}none{{end", "none"),
    (".Machine.ShortName", "mach-01"),
    (".Machine.UUID", "1987e6d3-75ef-4a61-bf0d-2fa4b26f8215"),
    (".Machine.Path", "machines/1987e6d3-75ef-4a61-bf0d-2fa4b26f8215"),
    (".Machine.Address", "10.10.10.100"),
    (".Machine.HexAddress", "0A0A0A64"),
    (
        ".Machine.Url",
        "http://192.168.77.1:8091/machines/1987e6d3-75ef-4a61-bf0d-2fa4b26f8215",
    ),
    (".Machine.MacAddr \"ipxe\"", "52:54:00:ab:cd:ef"),
    (".Machine.MacAddr \"grub\"", "52:54:00:ab:cd:ef"),
    (".Env.OS.FamilyName", "debian"),
    (".Env.OS.VersionEq \"12\"", "true"),
    (".Env.Kernel", "vmlinuz0"),
    (".Env.KernelFor \"arm64\"", "vmlinuz0-arm64"),
    (".Env.Initrds", "[stage1.img stage2.img]"),
    (".Env.InitrdsFor \"arm64\"", "[stage1-arm64.img stage2.img]"),
    (".Env.BootParams", "root=live value"),
    (".Env.BootParamsFor \"amd64\"", "root=live value"),
    (".BootParams", "root=live value"),
    (".Env.PathFor \"tftp\" \"k\"", "sledgehammer/k"),
    (
        ".Env.PathForArch \"http\" \"k\" \"amd64\"",
        "http://192.168.77.1:8091/sledgehammer/amd64/k",
    ),
    (
        ".Env.JoinInitrds \"tftp\"",
        "sledgehammer/stage1.img sledgehammer/stage2.img",
    ),
    (
        ".Env.JoinInitrdsFor \"tftp\" \"amd64\"",
        "sledgehammer/amd64/stage1-amd64.img sledgehammer/amd64/stage2.img",
    ),
    (".Env.InstallUrl", "http://repo/os"),
    (".ProvisionerAddress", "192.168.77.1"),
    (".ProvisionerURL", "http://192.168.77.1:8091"),
    (".ApiURL", "https://192.168.77.1:8092"),
    (".Param \"name\"", "value"),
    (".ParamExists \"name\"", "true"),
    (".ParamExpand \"name\"", "value"),
    (".ParamAsJSON \"name\"", "\"value\""),
    (".ParamAsYAML \"name\"", "value\n"),
    ("(.ComposeParam \"map\").k", "composed"),
    ("(.ParamCompose \"map\").k", "composed"),
    ("(.ParamComposeExpand \"map\").k", "composed"),
    (".StringExpand \"{{.Machine.Arch}}\"", "amd64"),
    ("index (.ObjectExpand (list \"{{.Machine.Arch}}\")) 0", "amd64"),
    (".GenerateToken", "token Short"),
    (".GenerateInfiniteToken", "token Long"),
    (
        ".GenerateProfileToken \"p\" 5",
        "token Profile { profile: \"p\", seconds: 5 }",
    ),
    (".CallTemplate \"data.tmpl\" (dict \"x\" 1 \"y\" 2)", "1 and 2"),
    (".ParseUrl \"host\" \"http://h:1/p\"", "h:1"),
    (".NetmaskToCIDR \"255.255.255.0\"", "24"),
    ("(index (.Repos \"a\" \"b\") 0).Tag", "Tagged([\"a\", \"b\"])"),
    ("(index .MachineRepos 0).Tag", "Machine"),
    ("(index .InstallRepos 0).URL", "http://repo/os"),
    ("(index .InstallRepos 0).OS", "[os-1]"),
    ("(index .InstallRepos 0).Components", "[main]"),
    ("(index .InstallRepos 0).JoinedComponents", "main"),
    ("(index .InstallRepos 0).UrlFor \"extras\"", "http://repo/os/extras"),
    ("(index .InstallRepos 0).R.Machine.Name", "mach-01.example.com"),
    ("(index .InstallRepos 0).R.Param \"name\"", "value"),
    ("(index .InstallRepos 0).Target", "os-1"),
    ("(index .InstallRepos 0).Install", "url --url x"),
    ("(index .InstallRepos 0).Lines", "[x]"),
    (
        "range .InstallRepos}}{{.R.Env.OS.FamilyName}} {{.UrlFor \"c\"}}{{end",
        "debian http://repo/os/c",
    ),
];

/// The world with repositories and tokens.
struct Rich(World);

impl Scope for Rich {
    fn machine(&self) -> Option<Shown<'_>> {
        self.0.machine()
    }
    fn env(&self) -> Option<Shown<'_>> {
        self.0.env()
    }
    fn provisioner_address(&self) -> Result<String, String> {
        self.0.provisioner_address()
    }
    fn provisioner_url(&self) -> Result<String, String> {
        self.0.provisioner_url()
    }
    fn api_url(&self) -> Result<String, String> {
        self.0.api_url()
    }
    fn param(&self, name: &str) -> Result<Option<Value>, String> {
        self.0.param(name)
    }
    fn compose_param(&self, name: &str) -> Result<Option<Value>, String> {
        self.0.compose_param(name)
    }
    fn template(&self, id: &str) -> Option<String> {
        self.0.template(id)
    }
    fn boot(&self, arch: Option<&str>) -> Result<BootFiles, String> {
        self.0.boot(arch)
    }
    fn boot_path(&self, file: &str, arch: Option<&str>) -> Result<String, String> {
        self.0.boot_path(file, arch)
    }
    fn mac_addr(&self) -> Option<String> {
        self.0.mac_addr()
    }
    fn repos(&self, which: Repos<'_>) -> Result<Vec<Value>, String> {
        Ok(vec![
            json!({"Tag": format!("{which:?}"), "URL": "http://repo/os", "OS": ["os-1"], "Components": ["main"],
            "JoinedComponents": "main", "UrlFor": "http://repo/os/{component}", "Target": "os-1",
            "Install": "url --url x", "Lines": "[x]"}),
        ])
    }
    fn token(&self, kind: TokenKind<'_>) -> Result<String, String> {
        Ok(format!("token {kind:?}"))
    }
}

#[test]
fn every_method_that_content_asks_for_answers() {
    let scope: Arc<dyn Scope> = Arc::new(Rich(world()));
    for (expression, want) in METHODS {
        let got = render("test", &format!("{{{{{expression}}}}}"), &scope);
        assert_eq!(
            got.unwrap_or_else(|e| panic!("{expression}: {e}")),
            *want,
            "{expression}"
        );
    }
}

#[test]
fn errors_say_where_and_what() {
    for (text, want) in [
        (
            "a\nb {{.Param \"nothing\"}}",
            "template test, line 2: .Param: No such machine parameter nothing",
        ),
        (
            "{{if true}}\n{{.Machine.Fred}}{{end}}",
            "template test, line 2: there is no .Machine.Fred",
        ),
        (
            "{{range .Param \"list\"}}\n{{.Param \"x\"}}\n{{end}}",
            "template test, line 2: can't evaluate field Param in type string",
        ),
        (
            "{{.Param \"broken\"}}",
            "template test, line 1: .Param: the key to decrypt it is not there",
        ),
        (
            "\n\n{{template \"broken.tmpl\" .}}",
            "template broken.tmpl, line 2: .Param: No such machine parameter nothing",
        ),
        ("{{template \"gone\" .}}", "template test: there is no template gone"),
        (
            "{{.CallTemplate \"broken.tmpl\" .}}",
            "template test, line 1: .CallTemplate: template broken.tmpl, line 2: .Param: No such machine parameter nothing",
        ),
        ("x\n{{now}}", "template test, line 2: function now is not known"),
        ("{{env \"HOME\"}}", "template test, line 1: function env is not known"),
        (
            "{{.Task.Name}}",
            "template test, line 1: .Task.Name: there is none here",
        ),
        ("{{fail \"because\"}}", "template test, line 1: fail: because"),
        ("{{first 5}}", "template test, line 1: first: argument 1 must be a list"),
        (
            "{{.NetmaskToCIDR \"255.0.255.0\"}}",
            "template test, line 1: .NetmaskToCIDR: 255.0.255.0 is no netmask: write 255.255.255.0 or 24",
        ),
        (
            "{{.GenerateToken}}",
            "template test, line 1: .GenerateToken: templates get no tokens here",
        ),
        ("{{div 1 0}}", "template test, line 1: div: division by zero"),
    ] {
        fails(text, want);
    }
    let discovery = World {
        machine: None,
        ..world()
    };
    assert_eq!(
        with(discovery.clone(), "{{if .Machine}}a{{else}}b{{end}}").unwrap(),
        "b"
    );
    let error = with(discovery, "{{.Machine.Name}}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "template test, line 1: .Machine.Name: there is none here"
    );
}

#[test]
fn checking_finds_errors_and_names_what_is_included() {
    let error = check("bad", "x\n{{if}}").unwrap_err();
    assert_eq!((error.template.as_str(), error.line), ("bad", Some(2)));
    for text in [
        "{{end}}",
        "{{.Param \"x\"",
        "{{range}}{{end}}",
        "{{fred 1}}",
        "{{if true}}",
    ] {
        assert!(check("bad", text).is_err(), "{text}");
    }
    let included = check(
        "t",
        "{{define \"a\"}}{{template \"x\" .}}{{end}}{{template \"a\"}}{{template \"y\"}}{{template \"x\"}}",
    )
    .unwrap();
    assert_eq!(included, ["x", "y"]);
}

/// For an ending on a loaded host.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn no_template_runs_or_grows_without_end() {
    let limits = Limits {
        output: 100_000,
        time: Duration::from_secs(2),
        iterations: 10_000,
    };
    let scope: Arc<dyn Scope> = Arc::new(world());
    let doubling = |step: &str| format!("{{{{$x := \"0123456789\"}}}}{}{{{{$x}}}}", step.repeat(40));
    let listed = format!("{{{{$x := list 1 2}}}}{}{{{{$x}}}}", "{{$x = list $x $x}}".repeat(40));
    for text in [
        "{{range 1000000000}}x{{end}}",
        "{{range 9000}}{{range 9000}}{{end}}{{end}}",
        "{{template \"self.tmpl\" .}}",
        "{{.ParamExpand \"loop\"}}",
        "{{repeat 1000000000 \"x\"}}",
        "{{repeat 90000 \"x\"}}{{repeat 90000 \"x\"}}",
        "{{printf \"%1000000000d\" 1}}",
        "{{printf \"%*d\" 1000000000 1}}",
        "{{until 1000000000}}",
        "{{regexMatch \"((a{1000}){1000}){1000}\" \"a\"}}",
        doubling("{{$x = print $x $x}}").as_str(),
        doubling("{{$x = printf \"%s%s\" $x $x}}").as_str(),
        doubling("{{$x = cat $x $x}}").as_str(),
        doubling("{{$x = replace \"0\" $x $x}}").as_str(),
        doubling("{{$x = html (print \"<<<<<<\" $x)}}{{$x = print $x $x}}").as_str(),
        listed.as_str(),
    ] {
        let start = Instant::now();
        assert!(
            render_with("t", text, &scope, limits).is_err(),
            "{}",
            &text[..text.len().min(60)]
        );
        // Without limits each would go on for hours.
        assert!(start.elapsed() < PATIENCE, "{}", &text[..text.len().min(60)]);
    }
    let deep = format!("{}{}", "{{if true}}".repeat(5000), "{{end}}".repeat(5000));
    assert!(render("t", &deep, &scope).is_err());
    assert!(
        render(
            "t",
            &format!("{{{{{}1{}}}}}", "(".repeat(5000), ")".repeat(5000)),
            &scope
        )
        .is_err()
    );
}

#[test]
fn no_template_is_too_deep_for_the_stack() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "{{if 1}}".repeat(depth), "{{end}}".repeat(depth));
    let chain = |n: usize| format!("{{{{if 0}}}}{}{{{{else}}}}x{{{{end}}}}", "{{else with 0}}".repeat(n));
    gives(&chain(150), "x");
    gives(&nested(40, &chain(100)), "x");
    for n in [201, 60_000] {
        fails(
            &chain(n),
            "template test, line 1: too many {{else if}} after one another",
        );
    }
    fails(
        &nested(50, &chain(201)),
        "template test, line 1: too many {{else if}} after one another",
    );
    for path in [".Machine", "$.Machine", "(.Machine)"] {
        let text = format!("x\n{{{{{path}{}}}}}", ".Url".repeat(100_000));
        fails(&text, "template test, line 2: a path of more than 50 names");
    }
}

/// The kernel arguments of our own boot environment, from the content pack.
fn sledgehammer(world: World) -> String {
    let pack = include_str!("../../../content/isobar/boot.yaml");
    let pack: Value = serde_yaml_ng::from_str(pack).unwrap();
    let boot_params = pack["sections"]["bootenvs"]["sledgehammer"]["BootParams"]
        .as_str()
        .unwrap()
        .to_owned();
    with(World { boot_params, ..world }, "{{.BootParams}}").unwrap()
}

#[test]
fn sledgehammer_gives_its_arguments_in_order() {
    let params = json!({"kernel-options": "", "kernel-console": "console=ttyS0,115200 console=tty0"});
    let base = World {
        params: object(params.clone()),
        composed: Members::new(),
        ..world()
    };
    let head = "rootflags=loop root=live:/sledgehammer.iso rootfstype=auto ro liveimg rd_NO_LUKS rd_NO_MD rd_NO_DM \
                provisioner.web=http://192.168.77.1:8091";
    let uuid = "rs.uuid=1987e6d3-75ef-4a61-bf0d-2fa4b26f8215";
    let tail = "-- console=ttyS0,115200 console=tty0";
    let squeezed = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed(sledgehammer(base.clone())), format!("{head} {uuid} {tail}"));
    assert_eq!(
        squeezed(sledgehammer(World {
            machine: None,
            ..base.clone()
        })),
        format!("{head} {tail}")
    );

    let network = json!({"prov": {"address": "10.10.10.199", "netmask": "255.255.255.0", "gateway": "10.10.10.254",
        "interface": "eth10", "vlan": 1020, "mtu": "9000"}});
    let mut params = object(params);
    params.insert("network-data".into(), network.clone());
    params.insert("dns-servers".into(), json!(["10.10.10.1", "10.10.10.2"]));
    params.insert("kernel-options".into(), json!("quiet"));
    let full = World {
        params: params.clone(),
        ..base.clone()
    };
    let want = format!(
        "{head} {uuid} provisioner.ip=10.10.10.199/24 provisioner.gw=10.10.10.254 provisioner.interface=\"eth10\" \
         provisioner.vlan=1020 provisioner.mtu=9000 provisioner.dns=10.10.10.1 quiet {tail}"
    );
    assert_eq!(squeezed(sledgehammer(full)), want);

    params.insert(
        "network-data".into(),
        json!({"prov": {"interface": "eth0", "dns-servers": ["1.1.1.1"]}}),
    );
    let want = format!("{head} {uuid} provisioner.interface=\"eth0\" provisioner.dns=1.1.1.1 quiet {tail}");
    assert_eq!(
        squeezed(sledgehammer(World {
            params: params.clone(),
            ..base.clone()
        })),
        want
    );
    params.insert("network-data".into(), json!({"ipmi": {}}));
    params.shift_remove("dns-servers");
    assert_eq!(
        squeezed(sledgehammer(World { params, ..base })),
        format!("{head} {uuid} quiet {tail}")
    );
}

proptest! {
    #[test]
    fn any_text_renders_or_fails(
        text in "(\\{\\{|\\}\\}|\\{\\{end\\}\\}|if |range |\\.Param|\\.Machine|\\.Env\\.OS|\"x\"|\\$x|:=|\\||\\(|\\)|[ -~]|\n){0,24}"
    ) {
        let scope: Arc<dyn Scope> = Arc::new(world());
        let limits = Limits { output: 10_000, time: Duration::from_secs(1), iterations: 1000 };
        let rendered = render_with("t", &text, &scope, limits);
        if check("t", &text).is_err() {
            prop_assert!(rendered.is_err());
        }
    }

    #[test]
    fn functions_take_any_arguments(function in 0usize..200, arguments in proptest::collection::vec("\"[a-z0-9*(+-]{0,6}\"|-?[0-9]{1,12}|true|\\(list 1 \"a\"\\)|\\(dict \"k\" 1\\)|\\$", 0..4)) {
        const NAMES: &[&str] = &["add", "atoi", "b64dec", "cat", "contains", "default", "dict", "div", "first", "get", "has", "indent",
            "int", "join", "keys", "mod", "mul", "pick", "pluck", "regexFind", "regexReplaceAll", "regexSplit", "repeat", "replace",
            "round", "set", "split", "substr", "ternary", "trunc", "until", "untilStep", "without", "printf", "print", "index", "slice"];
        let text = format!("{{{{{} {}}}}}", NAMES[function % NAMES.len()], arguments.join(" "));
        let _ = with(world(), &text);
    }
}

#[test]
fn a_text_without_a_name_is_a_template_too() {
    assert!(isobar_template::check("", "{{ range $x := list 1 2 }}{{ $x }}{{ end }}").is_ok());
    assert!(isobar_template::check("", "{{ if true }}").is_err());
}
