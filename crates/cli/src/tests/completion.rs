//! What the shells' scripts are answered.

use serde_json::json;

use super::support::{Answer, Server};
use super::{local, run};

fn words(server: &Server, words: &[&str]) -> Vec<String> {
    let ran = run(server, &[&["isobar", "__complete", "words"], words].concat());
    assert_eq!(ran.status, 0, "{}", ran.err);
    let first = |line: &str| line.split('\t').next().unwrap().to_owned();
    ran.out.lines().map(first).collect()
}

#[test]
fn nouns_verbs_flags_and_names_of_objects_are_offered() {
    let server = Server::start(|seen| match seen.target.split('?').next().unwrap() {
        "/api/v3/info" => Answer::ok(json!({})),
        "/api/v3/machines" => Answer::ok(json!([
            {"Name": "mach-01", "Uuid": "u1", "Description": "rack\u{1b} 7"},
            {"Name": "other", "Uuid": "u2"},
        ])),
        "/api/v3/bootenvs" => Answer::ok(json!([{"Name": "local"}, {"Name": "sledgehammer"}])),
        "/api/v3/params" => Answer::ok(json!([{"Name": "ipmi/mode"}, {"Name": "ipmi/address"}])),
        "/api/v3/machines/Name:mach-01/actions" => Answer::ok(json!([
            {"Command": "powerstatus", "RequiredParams": ["ipmi/address"], "OptionalParams": ["ipmi/mode"]}])),
        "/isobar/v1/operations" => Answer::ok(json!([{"id": "op-1", "kind": "boot", "what": "local"}])),
        "/api/v3/isos" => Answer::ok(json!(["debian-12.iso"])),
        _ => Answer::error(404, "GET", "", "", &["Not Found"]),
    });
    for (typed, offered) in [
        (&["mach"][..], &["machines"][..]),
        (&["machines", "run"], &["run", "runaction"]),
        (&["-F", "ya"], &["yaml"]),
        (&["machines", "list", "--lim"], &["--limit"]),
        (&["machines", "list", "--limit", "3", "Runn"], &["Runnable="]),
        (&["machines", "show", "Name:m"], &["Name:mach-01"]),
        (&["machines", "show", "Name:mach-01", ""], &[]),
        (
            &["-F", "json", "machines", "bootenv", "Name:mach-01", "s"],
            &["sledgehammer"],
        ),
        (&["machines", "set", "Name:mach-01", "p"], &["param"]),
        (
            &["machines", "set", "Name:mach-01", "param", "ipmi/a"],
            &["ipmi/address"],
        ),
        (&["machines", "set", "Name:mach-01", "param", "ipmi/a", ""], &["to"]),
        (&["machines", "runaction", "Name:mach-01", ""], &["powerstatus"]),
        (
            &["machines", "runaction", "Name:mach-01", "powerstatus", "ipmi/"],
            &["ipmi/address", "ipmi/mode"],
        ),
        (
            &["machines", "runaction", "Name:mach-01", "powerstatus", "ipmi/mode", ""],
            &[],
        ),
        (&["bmc", "doctor", "Name:m"], &["Name:mach-01"]),
        (&["bmc", "doctor", "Name:mach-01", "Name:o"], &["Name:other"]),
        (&["bmc", "log", "Name:m"], &["Name:mach-01"]),
        (&["operations", "cancel", "op"], &["op-1"]),
        (&["machines", "meta", "se"], &["set"]),
        (&["machines", "meta", "set", "Name:mach-01", ""], &["key"]),
        (&["machines", "meta", "Name:mach-01", ""], &[]),
        (&["machines", "addprofile", "Name:mach-01", "a", "b"], &[]),
        (&["isos", "destroy", "deb"], &["debian-12.iso"]),
        (&["completion", "f"], &["fish"]),
        (&["extended", "-l", "profil"], &["profiles"]),
    ] {
        assert_eq!(words(&server, typed), offered, "{typed:?}");
    }
    let ran = run(
        &server,
        &["isobar", "__complete", "line", "isobar machines show 'Name:ma"],
    );
    assert_eq!(ran.out, "Name:mach-01\track\u{fffd} 7\n");
}

#[test]
fn without_a_server_there_are_still_the_words_of_the_table() {
    let (status, out, _) = local(&["isobar", "__complete", "words", "ser"]);
    assert_eq!((status, out.as_str()), (0, "serve\tServes\n"));
    let (status, out, _) = local(&["isobar", "__complete", "words", "serve", "--da"]);
    assert_eq!(
        (status, out.as_str()),
        (0, "--data-dir\tWhere all is\n"),
        "its own options, and no others"
    );
    let (status, out, _) = local(&["drpcli", "__complete", "words", "boots"]);
    assert_eq!((status, out.as_str()), (0, ""), "drpcli has no commands of ours");
}

/// The script as bash itself runs it: it cuts words at colons.
#[test]
fn bash_takes_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let (_, script, _) = local(&["isobar", "completion", "bash"]);
    let test = format!(
        "isobar() {{ printf '%s\\n' \"Name:mach-01\tabout\" \"Name:mach-02\tabout\"; printf '%s|' \"$@\" >&2; }}\n{}\n\
         COMP_LINE='isobar machines show Name:ma'; COMP_POINT=${{#COMP_LINE}}\n_isobar\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        script.replace("2>/dev/null", "")
    );
    let file = folder.path().join("test.bash");
    std::fs::write(&file, test).unwrap();
    let ran = std::process::Command::new("bash")
        .arg("--norc")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(
        (
            String::from_utf8_lossy(&ran.stdout).as_ref(),
            String::from_utf8_lossy(&ran.stderr).as_ref()
        ),
        ("mach-01\nmach-02\n", "__complete|line|isobar machines show Name:ma|")
    );
}
