//! Templates as DRP content writes them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::HashMap;

use isobar_template::{Dot, Library, Limits, NoLibrary, check, render};
use proptest::prelude::*;
use serde_json::{Value, json};

fn dot() -> Dot {
    let params: HashMap<&str, Value> = [
        ("name", json!("x")),
        ("list", json!(["a", "b"])),
        ("net", json!({"prov": {"vlan": 1020}})),
    ]
    .into();
    let known = params.clone();
    Dot::new()
        .data("Machine", json!({"Name": "mach-01", "Address": "10.0.0.9"}))
        .method("Machine.Url", |_| Ok(json!("http://h/machines/u")))
        .data("Env", json!({"OS": {"Name": "sledgehammer"}, "Kernel": "vmlinuz0"}))
        .method("Env.PathFor", |a| {
            Ok(json!(format!("{}:{}", a[0].as_str().unwrap(), a[1].as_str().unwrap())))
        })
        .method("Param", move |a| {
            let name = a.first().and_then(Value::as_str).unwrap_or_default();
            params
                .get(name)
                .cloned()
                .ok_or_else(|| format!("no such machine parameter {name}"))
        })
        .method("ParamExists", move |a| {
            Ok(json!(known.contains_key(a[0].as_str().unwrap())))
        })
}

fn go(source: &str) -> Result<String, String> {
    render("t", source, &dot(), &NoLibrary, Limits::default()).map_err(|e| e.to_string())
}

#[test]
fn idioms_of_content() {
    for (source, wanted) in [
        (r#"{{.Param "name"}}"#, "x"),
        (r#"{{if .ParamExists "nope"}}y{{else}}n{{end}}"#, "n"),
        (r#"{{if .ParamExists "name"}}{{$v := .Param "name"}}{{$v}}{{end}}"#, "x"),
        (r#"{{if eq (.Param "name") "x"}}same{{end}}"#, "same"),
        (
            r#"{{if and (.ParamExists "name") (.ParamExists "list")}}both{{end}}"#,
            "both",
        ),
        (r#"{{range $i, $e := .Param "list"}}{{$i}}{{$e}}{{end}}"#, "0a1b"),
        (
            r#"{{range .Param "list"}}{{.}}{{$.Machine.Name}} {{end}}"#,
            "amach-01 bmach-01 ",
        ),
        (r#"{{.Machine.Url}} {{.Machine.Name}}"#, "http://h/machines/u mach-01"),
        (r#"{{.Env.PathFor "tftp" .Env.Kernel}}"#, "tftp:vmlinuz0"),
        (r#"{{.Env.OS.Name}}"#, "sledgehammer"),
        (r#"{{(index (.Param "net") "prov").vlan}}"#, "1020"),
        (r#"{{with .Param "net"}}{{.prov.vlan}}{{end}}"#, "1020"),
        (r#"{{.Param "list" | join ","}}"#, "a,b"),
        (r#"{{printf "%s-%d" .Machine.Name 3}}"#, "mach-01-3"),
        (r#"{{.Param "net" | toJson}}"#, r#"{"prov":{"vlan":1020}}"#),
        (r#"{{ get (.Param "net") "nope" | default "d" }}"#, "d"),
        (r#"{{ trimSuffix ".x" "a.x" }}{{ upper "b" }}{{ add 1 2 3 }}"#, "aB6"),
        (
            r#"{{ regexMatch "^a+$" "aaa" }} {{ regexFind "b+" "abbb" }}"#,
            "true bbb",
        ),
        (r#"{{ (split "/" "a/b")._1 }}"#, "b"),
        ("a\n  {{- /* cut */ -}}\n b", "ab"),
    ] {
        assert_eq!(go(source).as_deref(), Ok(wanted), "{source}");
    }
}

#[test]
fn errors_say_where() {
    assert_eq!(
        go("one\ntwo {{.Param \"nope\"}}").unwrap_err(),
        "template t, line 2: .Param: no such machine parameter nope"
    );
    assert!(go("a\n\n{{.Nope}}").unwrap_err().starts_with("template t, line 3:"));
    assert!(
        check("t", "a\n{{if}}")
            .unwrap_err()
            .to_string()
            .starts_with("template t, line 2:")
    );
    assert!(
        go("{{template \"gone\" .}}")
            .unwrap_err()
            .contains("template gone does not exist")
    );
}

struct Two;

impl Library for Two {
    fn source(&self, id: &str) -> Option<String> {
        match id {
            "part.tmpl" => Some("[{{.Machine.Name}} {{template \"inner\" .Machine.Name}}]".into()),
            "inner" => Some("<{{.}}>".into()),
            "bad" => Some("\n\n{{.Nope}}".into()),
            "self" => Some("{{template \"self\" .}}".into()),
            _ => None,
        }
    }
}

#[test]
fn templates_draw_in_templates() {
    let go = |source: &str| render("t", source, &dot(), &Two, Limits::default());
    assert_eq!(go("{{template \"part.tmpl\" .}}!").unwrap(), "[mach-01 <mach-01>]!");
    let error = go("{{template \"bad\" .}}").unwrap_err();
    assert_eq!((error.template.as_str(), error.line), ("bad", 3));
    assert!(go("{{template \"self\" .}}").is_err(), "endless recursion ends");
}

#[test]
fn nothing_runs_for_ever_or_fills_the_memory() {
    let small = Limits {
        output: 1000,
        turns: 10_000,
        templates: 10,
    };
    let big: Value = (0..200).collect();
    let dot = Dot::new().data("L", big);
    let nested = "{{range .L}}{{range $.L}}{{range $.L}}{{end}}{{end}}{{end}}";
    assert!(
        render("t", nested, &dot, &NoLibrary, small)
            .unwrap_err()
            .message
            .contains("budget")
    );
    let wordy = "{{range .L}}0123456789{{end}}";
    assert!(
        render("t", wordy, &dot, &NoLibrary, small)
            .unwrap_err()
            .message
            .contains("over 1000 bytes")
    );
}

proptest! {
    #[test]
    fn arbitrary_sources_never_panic(source in "(\\{\\{|\\}\\}|[.$|()\" a-z0-9]|if |end|range |with |template |Param ){0,40}") {
        let _ = go(&source);
    }
}
