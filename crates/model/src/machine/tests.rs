#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::lookup::tests::World;
use crate::{noun, validate};

const UUID: &str = "3e7031fe-3062-45f1-835c-92541bc9cbd3";

fn world() -> World {
    let ipxe = json!([{"Name": "ipxe", "Path": "x.ipxe", "Contents": "y"}]);
    World::default()
        .with("bootenvs", json!({"Name": "local"}))
        .with("bootenvs", json!({"Name": "ignore", "OnlyUnknown": true}))
        .with("bootenvs", json!({"Name": "sledgehammer", "OS": {"Name": "sledgehammer"}, "Kernel": "vmlinuz0", "Templates": ipxe}))
        .with("bootenvs", json!({"Name": "debian-install", "OS": {"Name": "debian-12"}, "Meta": {"feature-flags": "x1"}}))
        .with("bootenvs", json!({"Name": "arms", "OS": {"Name": "arms", "SupportedArchitectures": {"aarch64": {"Kernel": "k"}}}, "Templates": ipxe}))
        .with("profiles", json!({"Name": "jill"}))
        .with("tasks", json!({"Name": "jamie"}))
        .with("tasks", json!({"Name": "justine"}))
        .with("stages", json!({"Name": "none"}))
        .with("stages", json!({"Name": "local", "BootEnv": "local"}))
        .with("stages", json!({"Name": "stage1", "BootEnv": "local", "Tasks": ["jamie", "justine"]}))
        .with("stages", json!({"Name": "stage2", "BootEnv": "local"}))
        .with("stages", json!({"Name": "discover", "BootEnv": "sledgehammer", "Tasks": ["jamie"]}))
        .with("stages", json!({"Name": "sledgehammer-wait", "BootEnv": "sledgehammer"}))
        .with("workflows", json!({"Name": "discover-base", "Stages": ["discover", "sledgehammer-wait"]}))
        .with("workflows", json!({"Name": "wf-local", "Stages": ["stage1", "local"]}))
}

fn unavailable(mut world: World, noun_name: &str, key: &str, reason: &str) -> World {
    let mut object = world.get(noun_name, key).unwrap().as_ref().clone();
    crate::Noun::mark(&mut object, true, false, vec![reason.to_owned()]);
    world.put(noun_name, object);
    world
}

fn create(world: &World, members: Value) -> Result<Object, ApiError> {
    let machines = noun("machines").unwrap();
    let mut object = machines.accept(&members, None).unwrap();
    object.insert("Uuid".to_owned(), UUID.into());
    validate::admit(machines, None, &mut object, world, Change::default())?;
    Ok(object)
}

fn update_as(world: &World, old: &Object, members: Value, change: Change) -> Result<Object, ApiError> {
    let mut new = old.clone();
    for (name, value) in members.as_object().unwrap() {
        new.insert(name.clone(), value.clone());
    }
    validate::admit(noun("machines").unwrap(), Some(old), &mut new, world, change)?;
    Ok(new)
}

fn update(world: &World, old: &Object, members: Value) -> Result<Object, ApiError> {
    update_as(world, old, members, Change::default())
}

fn force(world: &World, old: &Object, members: Value) -> Result<Object, ApiError> {
    update_as(
        world,
        old,
        members,
        Change {
            force: true,
            runner: false,
        },
    )
}

fn refusal(result: Result<Object, ApiError>) -> String {
    result
        .unwrap_err()
        .to_string()
        .replacen(&format!("ValidationError: machines/{UUID}: "), "", 1)
}

#[track_caller]
fn check(machine: &Object, want: Value) {
    for (name, value) in want.as_object().unwrap() {
        assert_eq!(&machine[name], value, "{name} of {machine:#?}");
    }
}

#[test]
fn a_new_machine_gets_the_defaults() {
    let machine = create(&world(), json!({"Name": "mach-01", "Runnable": false, "Arch": ""})).unwrap();
    check(
        &machine,
        json!({"Stage": "none", "BootEnv": "local", "Workflow": "", "Runnable": true, "Arch": "amd64", "Tasks": [],
               "CurrentTask": -1, "Meta": {"feature-flags": "change-stage-v2"}, "Available": true, "Errors": []}),
    );
    let world = world().pref_is("defaultStage", "stage1");
    check(
        &create(&world, json!({"Name": "john"})).unwrap(),
        json!({"Stage": "stage1", "Tasks": ["jamie", "justine"]}),
    );
    let world = world.pref_is("defaultWorkflow", "discover-base");
    check(
        &create(&world, json!({"Name": "john"})).unwrap(),
        json!({"Workflow": "discover-base", "BootEnv": "sledgehammer", "Runnable": true}),
    );
}

#[test]
fn a_workflow_switches_stage_and_bootenv_at_once_and_stops_the_runner() {
    let world = world();
    let machine = create(&world, json!({"Name": "mach-01"})).unwrap();
    let discovering = update(&world, &machine, json!({"Workflow": "discover-base"})).unwrap();
    check(
        &discovering,
        json!({"Stage": "discover", "BootEnv": "sledgehammer", "Runnable": false, "CurrentTask": -1,
               "Tasks": ["stage:discover", "bootenv:sledgehammer", "jamie", "stage:sledgehammer-wait"]}),
    );
    let running = update(&world, &discovering, json!({"Runnable": true})).unwrap();
    check(&running, json!({"Runnable": true}));
    // The same value again changes nothing.
    assert_eq!(
        update(&world, &running, json!({"Workflow": "discover-base"})).unwrap(),
        running
    );
    assert_eq!(
        refusal(update(&world, &running, json!({"Stage": "none"}))),
        "Changing machine stage not allowed"
    );
    assert_eq!(
        refusal(update(&world, &running, json!({"BootEnv": "local"}))),
        "Changing machine bootenv not allowed"
    );
    let mut steered = running.clone();
    steered.insert("Params".to_owned(), json!({"change-stage/map": {}, "kept": 1}));
    let cleared = update(&world, &steered, json!({"Workflow": ""})).unwrap();
    check(
        &cleared,
        json!({"Stage": "none", "BootEnv": "sledgehammer", "Tasks": [], "CurrentTask": -1, "Runnable": true, "Params": {"kept": 1}}),
    );
    check(
        &update(&world, &running, json!({"Workflow": "", "Stage": "none"})).unwrap(),
        json!({"Stage": "none", "BootEnv": "sledgehammer"}),
    );
    check(
        &update(&world, &running, json!({"Workflow": "", "Stage": "stage1"})).unwrap(),
        json!({"Stage": "stage1", "BootEnv": "local", "Runnable": false}),
    );
    check(
        &update(&world, &running, json!({"Workflow": "", "BootEnv": "local"})).unwrap(),
        json!({"Stage": "none", "BootEnv": "local", "Runnable": false}),
    );
}

#[test]
fn a_workflow_that_cannot_be_used_is_refused_with_what_to_do() {
    let world = world().with("workflows", json!({"Name": "wf-bad", "Stages": ["gone"]}));
    let machine = create(&world, json!({"Name": "mach-01"})).unwrap();
    assert_eq!(
        refusal(update(&world, &machine, json!({"Workflow": "gone"}))),
        "Workflow gone does not exist"
    );
    let world = unavailable(world, "workflows", "wf-bad", "Stage gone does not exist");
    let want = format!("Machine {UUID} wants Workflow wf-bad, which is not available");
    assert_eq!(refusal(update(&world, &machine, json!({"Workflow": "wf-bad"}))), want);

    let reason = "bootenv: sledgehammer: missing kernel  (/sledgehammer/vmlinuz0) for arch amd64";
    let world = unavailable(world, "bootenvs", "sledgehammer", reason);
    let world = unavailable(world, "stages", "discover", "BootEnv sledgehammer is not available");
    let world = unavailable(world, "workflows", "discover-base", "Stage discover is not available");
    let error = update(&world, &machine, json!({"Workflow": "discover-base"})).unwrap_err();
    let want = [
        format!("Machine {UUID} wants Workflow discover-base, which is not available"),
        reason.to_owned(),
    ];
    assert_eq!(error.messages, want);
}

#[test]
fn a_stage_brings_its_tasks_and_waits_for_open_ones() {
    let world = world();
    let machine = create(&world, json!({"Name": "john"})).unwrap();
    assert_eq!(
        refusal(update(&world, &machine, json!({"Stage": "john2"}))),
        "Stage john2 does not exist"
    );
    let staged = update(&world, &machine, json!({"Stage": "stage1"})).unwrap();
    check(
        &staged,
        json!({"Stage": "stage1", "Tasks": ["jamie", "justine"], "CurrentTask": -1, "Runnable": true}),
    );
    let want = "Can not change stages with pending tasks unless forced";
    assert_eq!(refusal(update(&world, &staged, json!({"Stage": "stage2"}))), want);
    check(
        &force(&world, &staged, json!({"Stage": "stage2"})).unwrap(),
        json!({"Stage": "stage2", "Tasks": []}),
    );
    check(
        &force(&world, &staged, json!({"Stage": ""})).unwrap(),
        json!({"Stage": "none", "Tasks": []}),
    );
    let mut done = staged;
    done.insert("CurrentTask".to_owned(), 2.into());
    check(
        &update(&world, &done, json!({"Stage": "discover"})).unwrap(),
        json!({"BootEnv": "sledgehammer", "Runnable": false}),
    );
}

#[test]
fn a_bootenv_changes_in_stage_none_only() {
    let world = world();
    let machine = create(&world, json!({"Name": "john"})).unwrap();
    let booted = update(&world, &machine, json!({"BootEnv": "sledgehammer"})).unwrap();
    check(
        &booted,
        json!({"BootEnv": "sledgehammer", "Runnable": false, "OS": "", "Available": true}),
    );
    let installing = update(&world, &machine, json!({"BootEnv": "debian-install"})).unwrap();
    check(
        &installing,
        json!({"OS": "debian-12", "Meta": {"feature-flags": "change-stage-v2,x1"}}),
    );
    assert_eq!(
        refusal(update(&world, &machine, json!({"BootEnv": "john2"}))),
        "Bootenv john2 does not exist"
    );
    let want = "BootEnv ignore does not allow Machine assignments, it has the OnlyUnknown flag.";
    assert_eq!(refusal(update(&world, &machine, json!({"BootEnv": "ignore"}))), want);
    let staged = update(&world, &machine, json!({"Stage": "stage2"})).unwrap();
    let want = "Can not change bootenv while in a stage unless forced. old: local new sledgehammer";
    assert_eq!(
        refusal(update(&world, &staged, json!({"BootEnv": "sledgehammer"}))),
        want
    );
    check(
        &force(&world, &staged, json!({"BootEnv": "sledgehammer"})).unwrap(),
        json!({"Runnable": false}),
    );
    let world = unavailable(world, "bootenvs", "sledgehammer", "bootenv: reason");
    let error = update(&world, &machine, json!({"BootEnv": "sledgehammer"})).unwrap_err();
    assert_eq!(
        error.messages,
        [
            format!("Machine {UUID} wants BootEnv sledgehammer, which is not available"),
            "bootenv: reason".into()
        ]
    );
}

#[test]
fn what_cannot_boot_is_stored_and_says_why() {
    let broken = world().without_file("vmlinuz0");
    let machine = create(&broken, json!({"Name": "john", "BootEnv": "sledgehammer"})).unwrap();
    let reason = "bootenv: sledgehammer: missing kernel  (/sledgehammer/vmlinuz0) for arch amd64";
    check(
        &machine,
        json!({"Validated": true, "Available": false, "Runnable": false, "Errors": [reason]}),
    );
    // It comes back, but the agent has to say so before jobs are made.
    let mut again = machine.clone();
    validate::mark(noun("machines").unwrap(), &mut again, &world()).unwrap();
    check(&again, json!({"Available": true, "Runnable": false, "Errors": []}));
    let arm = create(&world(), json!({"Name": "arm", "Arch": "arm", "BootEnv": "arms"})).unwrap();
    check(
        &arm,
        json!({"Available": false, "Errors": ["BootEnv arms cannot boot Arch arm"]}),
    );
}

#[test]
fn the_task_list_changes_between_the_present_and_the_next_stage() {
    let world = world();
    let start = create(&world, json!({"Name": "john"})).unwrap();
    let listed = update(&world, &start, json!({"Tasks": ["jamie", "justine"]})).unwrap();
    check(&listed, json!({"Tasks": ["jamie", "justine"], "CurrentTask": -1}));
    assert_eq!(
        refusal(update(&world, &start, json!({"Tasks": ["nobody"]}))),
        "Task nobody does not exist"
    );
    assert_eq!(
        refusal(update(&world, &start, json!({"Tasks": ["jamie", "fred:x"]}))),
        "fred:x (at 1) is malformed"
    );

    let mut under_way = update(&world, &start, json!({"Workflow": "wf-local"})).unwrap();
    check(
        &under_way,
        json!({"Tasks": ["stage:stage1", "bootenv:local", "jamie", "justine", "stage:local"]}),
    );
    under_way.insert("CurrentTask".to_owned(), 2.into());
    let with = |tasks: Value| update(&world, &under_way, json!({"Tasks": tasks}));
    let longer = with(json!([
        "stage:stage1",
        "bootenv:local",
        "jamie",
        "justine",
        "jamie",
        "stage:local"
    ]))
    .unwrap();
    check(&longer, json!({"CurrentTask": 2}));
    let want = "Cannot remove tasks that have already executed or are already executing";
    assert_eq!(
        refusal(with(json!(["stage:stage1", "bootenv:local", "justine", "stage:local"]))),
        want
    );
    let want = "Cannot change tasks that are past the next stage transition";
    assert_eq!(
        refusal(with(json!(["stage:stage1", "bootenv:local", "jamie", "justine"]))),
        want
    );
    assert_eq!(
        refusal(with(json!([]))),
        "Cannot remove tasks that have already executed or are already executing"
    );
    let both = update(&world, &under_way, json!({"Tasks": ["stage:stage1"], "CurrentTask": 0}));
    assert_eq!(
        refusal(both),
        "Cannot change task list and current task at the same time"
    );
}

#[test]
fn the_position_goes_back_to_the_last_boot_and_never_forward() {
    let world = world();
    let start = create(&world, json!({"Name": "john", "Workflow": "wf-local"})).unwrap();
    let mut machine = start;
    machine.insert("CurrentTask".to_owned(), 3.into());
    let to = |position: i64| update(&world, &machine, json!({"CurrentTask": position}));
    check(&to(2).unwrap(), json!({"CurrentTask": 2}));
    check(&to(-1).unwrap(), json!({"CurrentTask": 1}));
    assert_eq!(refusal(to(0)), "Cannot change CurrentTask from 3 to 0 past 1");
    assert_eq!(
        refusal(to(4)),
        "Cannot advance CurrentTask from 3 to 4 without running jobs"
    );
    let runner = Change {
        runner: true,
        force: false,
    };
    check(
        &update_as(&world, &machine, json!({"CurrentTask": 4, "Stage": "local"}), runner).unwrap(),
        json!({"CurrentTask": 4, "Stage": "local"}),
    );
}

#[test]
fn prerequisites_come_first_once_per_boot() {
    let mut world = world();
    for (task, prerequisites) in [
        ("foo1", vec![]),
        ("foo2", vec![]),
        ("foo3", vec![]),
        ("foo4", vec![]),
        ("foo5", vec![]),
        ("foo6", vec![]),
        ("foo7", vec![]),
        ("bar1", vec!["foo1", "foo2", "foo3"]),
        ("bar2", vec!["foo3", "foo2", "foo1"]),
        ("bar3", vec!["foo4", "foo5", "foo6"]),
        ("bar4", vec!["bar3", "foo1", "foo5", "foo7"]),
    ] {
        world = world.with("tasks", json!({"Name": task, "Prerequisites": prerequisites}));
    }
    let tasks = json!(["foo1", "foo4", "bar1", "bar2", "bar4"]);
    let world = world
        .with("stages", json!({"Name": "flat1", "Tasks": tasks}))
        .with("stages", json!({"Name": "flat2", "BootEnv": "local", "Tasks": tasks}))
        .with(
            "stages",
            json!({"Name": "flat3", "BootEnv": "sledgehammer", "Tasks": tasks}),
        )
        .with("stages", json!({"Name": "lost", "Tasks": ["lonely"]}))
        .with("tasks", json!({"Name": "lonely", "Prerequisites": ["nobody"]}))
        .with(
            "workflows",
            json!({"Name": "wf", "Stages": ["flat2", "flat1", "flat3"]}),
        );
    let machine = create(&world, json!({"Name": "bob"})).unwrap();
    let expanded = [
        "foo1", "foo4", "foo2", "foo3", "bar1", "bar2", "foo5", "foo6", "bar3", "foo7", "bar4",
    ];
    let flat = update(&world, &machine, json!({"Stage": "flat1"})).unwrap();
    check(&flat, json!({"Tasks": expanded}));
    let mut want = vec!["stage:flat2", "bootenv:local"];
    want.extend(expanded);
    want.extend([
        "stage:flat1",
        "foo1",
        "foo4",
        "bar1",
        "bar2",
        "bar4",
        "stage:flat3",
        "bootenv:sledgehammer",
    ]);
    want.extend(expanded);
    check(
        &update(&world, &flat, json!({"Workflow": "wf"})).unwrap(),
        json!({"Tasks": want}),
    );
    assert_eq!(
        refusal(update(&world, &machine, json!({"Stage": "lost"}))),
        "Task lonely missing prerequisite nobody"
    );
}

#[test]
fn names_addresses_profiles_and_params_are_checked_together() {
    let mut world = world();
    world.put(
        "machines",
        noun("machines")
            .unwrap()
            .canonical(&json!({"Name": "other", "Uuid": "00000000-0000-0000-0000-000000000001", "Address": "10.0.0.1"}))
            .unwrap(),
    );
    let world = world.with("params", json!({"Name": "level", "Schema": {"type": "integer"}}));
    let bad = json!({"Name": "{x", "Address": "10.0.0.1", "Arch": "x86_64", "Profiles": ["jill", "jill", "john"], "Params": {"level": "x"}});
    let want = [
        "Invalid Name `{x`",
        "Machine 00000000-0000-0000-0000-000000000001 already has IP address 10.0.0.1",
        "Please use amd64 for Arch instead of x86_64",
        "Duplicate profile jill: at 0 and 1",
        "Profile john at 2 does not exist",
        "Key 'level': invalid val '\"x\"': (root): Invalid type. Expected: integer, given: string",
    ];
    assert_eq!(create(&world, bad).unwrap_err().messages, want);
    assert!(
        create(&world, json!({"Name": "other"}))
            .unwrap_err()
            .to_string()
            .contains("already has Name other")
    );
    create(&world, json!({"Name": "new", "Address": "0.0.0.0"})).unwrap();
}

#[test]
fn a_locked_machine_takes_nothing_but_its_key() {
    let world = world();
    let locked = create(&world, json!({"Name": "john", "Locked": true})).unwrap();
    assert!(refusal(update(&world, &locked, json!({"Description": "x"}))).contains("is locked"));
    assert!(refusal(update(&world, &locked, json!({"Description": "x", "Locked": false}))).contains("is locked"));
    assert!(refusal(force(&world, &locked, json!({"BootEnv": "sledgehammer"}))).contains("is locked"));
    assert_eq!(update(&world, &locked, json!({})).unwrap(), locked);
    check(
        &update(&world, &locked, json!({"Locked": false})).unwrap(),
        json!({"Locked": false}),
    );
}
