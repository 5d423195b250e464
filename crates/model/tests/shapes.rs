//! The shapes that clients of DRP rely on: members, their order and their empty values.
#![allow(clippy::unwrap_used)]

use isobar_model::noun;
use serde_json::{Value, json};

const HEAD: &str =
    r#""Validated":true,"Available":true,"Errors":[],"ReadOnly":false,"Meta":{},"Endpoint":"","Bundle":"","#;

#[track_caller]
fn has_shape(name: &str, members: &str) {
    let empty = serde_json::to_string(&noun(name).unwrap().empty()).unwrap();
    assert_eq!(empty, format!("{{{HEAD}{members}}}"));
}

#[test]
fn empty_objects() {
    has_shape(
        "machines",
        concat!(
            r#""Partial":false,"Name":"","Description":"","Uuid":"","CurrentJob":"","Address":"","Stage":"","BootEnv":"","#,
            r#""Profiles":[],"Params":{},"Tasks":[],"CurrentTask":0,"RetryTaskAttempt":0,"TaskErrorStacks":null,"#,
            r#""Runnable":false,"Secret":"","OS":"","HardwareAddrs":[],"Workflow":"","Arch":"amd64","Locked":false,"#,
            r#""Context":"","Fingerprint":{"SSNHash":null,"CSNHash":null,"CloudInstanceID":"","SystemUUID":"","MemoryIds":null},"#,
            r#""Pool":"","PoolAllocated":false,"PoolStatus":"","WorkflowComplete":false"#
        ),
    );
    has_shape(
        "params",
        r#""Name":"","Description":"","Documentation":"","Secure":false,"Schema":null"#,
    );
    has_shape(
        "profiles",
        r#""Partial":false,"Name":"","Description":"","Documentation":"","Params":{},"Profiles":[]"#,
    );
    has_shape(
        "bootenvs",
        concat!(
            r#""Name":"","Description":"","Documentation":"","OS":{"Name":"","Family":"","Codename":"","Version":"","#,
            r#""IsoFile":"","IsoSha256":"","IsoUrl":"","SupportedArchitectures":{}},"Templates":[],"Kernel":"","Initrds":[],"#,
            r#""BootParams":"","RequiredParams":[],"OptionalParams":[],"OnlyUnknown":false,"Loaders":{}"#
        ),
    );
    has_shape("templates", r#""ID":"","Description":"","Contents":"""#);
    has_shape(
        "stages",
        concat!(
            r#""Partial":false,"Name":"","Description":"","Documentation":"","Templates":[],"RequiredParams":[],"OptionalParams":[],"#,
            r#""BootEnv":"","Tasks":[],"Profiles":[],"Reboot":false,"RunnerWait":true,"Params":{}"#
        ),
    );
    has_shape(
        "workflows",
        r#""Name":"","Description":"","Documentation":"","Stages":[]"#,
    );
    has_shape(
        "tasks",
        concat!(
            r#""Name":"","Description":"","Documentation":"","Templates":[],"RequiredParams":[],"OptionalParams":[],"#,
            r#""Prerequisites":[]"#
        ),
    );
    has_shape("users", r#""Name":"","Description":"","Secret":"","Roles":[]"#);
}

#[test]
fn nested_structures_are_completed() {
    let input = json!({"Name": "be", "os": {"name": "os", "supportedarchitectures": {"arm64": {"kernel": "k"}}},
        "Templates": [{"name": "ipxe", "path": "p", "contents": "c"}]});
    let bootenv = noun("bootenvs").unwrap().canonical(&input).unwrap();
    let arch =
        r#"{"arm64":{"IsoFile":"","Sha256":"","IsoUrl":"","Kernel":"k","Initrds":[],"BootParams":"","Loader":""}}"#;
    assert_eq!(bootenv["OS"]["SupportedArchitectures"].to_string(), arch);
    let template = r#"[{"Name":"ipxe","Path":"p","ID":"","Contents":"c","Meta":{},"Link":""}]"#;
    assert_eq!(bootenv["Templates"].to_string(), template);
}

#[test]
fn indexes_are_listed_as_they_were_for_older_clients() {
    let of = |name: &str| Value::Object(noun(name).unwrap().indexes_body());
    let index = |typ: &str, unique: bool| json!({"Type": typ, "Unique": unique});
    let mut want = json!({
        "Address": index("IP Address", false), "Available": index("boolean", false), "BootEnv": index("string", false),
        "Bundle": index("string", false), "Key": index("string", true), "Name": index("string", true),
        "ReadOnly": index("boolean", false), "Runnable": index("boolean", false), "Stage": index("string", false),
        "Uuid": index("UUID string", true), "Valid": index("boolean", false), "Workflow": index("string", false),
    });
    assert_eq!(of("machines"), want);
    want = json!({
        "Available": index("boolean", false), "Bundle": index("string", false), "Key": index("string", true),
        "Name": index("string", true), "OnlyUnknown": index("boolean", false), "OsName": index("string", false),
        "ReadOnly": index("boolean", false), "Valid": index("boolean", false),
    });
    assert_eq!(of("bootenvs"), want);
}

#[test]
fn every_noun_has_its_verbs() {
    let machines = noun("machines").unwrap().verbs();
    for verb in [
        "create",
        "set",
        "add",
        "remove",
        "bootenv",
        "workflow",
        "stage",
        "runaction",
        "actions",
        "addprofile",
        "meta",
        "wait",
    ] {
        assert!(machines.contains(&verb), "{verb}");
    }
    assert!(!noun("params").unwrap().verbs().contains(&"runaction"));
}
