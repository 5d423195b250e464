//! Verbs of machines, stages and workflows that change one member.

use isobar_client::Method;
use serde_json::{Value, json};

use super::objects::change_object;
use super::{Arity, Call, Verb, option, verb};
use crate::CliError;
use crate::output::Output;
use crate::session::Session;

/// Verbs of whatever has such lists.
pub(super) const LIST_VERBS: &[Verb] = &[
    verb(
        "addprofile",
        "[id] [profile...]",
        Arity::AtLeast(2),
        |session, call| add(session, call, "Profiles"),
        "Adds profiles",
        "{noun} addprofile {id} global",
    ),
    verb(
        "removeprofile",
        "[id] [profile...]",
        Arity::AtLeast(2),
        |session, call| remove(session, call, "Profiles"),
        "Takes profiles away",
        "{noun} removeprofile {id} global",
    ),
    verb(
        "addtask",
        "[id] [task...]",
        Arity::AtLeast(2),
        |session, call| add(session, call, "Tasks"),
        "Adds tasks at the end",
        "{noun} addtask {id} inventory",
    ),
    verb(
        "removetask",
        "[id] [task...]",
        Arity::AtLeast(2),
        |session, call| remove(session, call, "Tasks"),
        "Takes tasks away",
        "{noun} removetask {id} inventory",
    ),
    INSERT,
];

const INSERT: Verb = verb(
    "inserttask",
    "[id] [task...]",
    Arity::AtLeast(2),
    |session, call| {
        let at = match call.option("at") {
            None => 0,
            Some(text) => text
                .parse()
                .map_err(|_| call.misuse(format!("{text:?} is no position")))?,
        };
        insert(session, call, Some(at), 1)
    },
    "Puts tasks before the one that runs next",
    "{noun} inserttask {id} inventory --at 1",
)
.flags(&[option("at", "N", "Counted from the task that runs next [default: 0]")]);

pub(super) const VERBS: &[Verb] = &[
    verb(
        "addtask",
        "[id] [task...]",
        Arity::AtLeast(2),
        |session, call| insert(session, call, None, 1),
        "Adds tasks at the end of the present stage",
        "machines addtask Name:mach-01 inventory",
    ),
    verb(
        "removetask",
        "[id] [task...]",
        Arity::AtLeast(2),
        remove_once,
        "Takes tasks away that have not been run yet, once for each time that they are named",
        "machines removetask Name:mach-01 inventory",
    ),
    verb(
        "bootenv",
        "[id] [bootenv]",
        Arity::Exactly(2),
        |session, call| set(session, call, "BootEnv", call.arg(1).into()),
        "Changes what the machine boots, and boots it over its BMC where boot-virtual-iso is true",
        "machines bootenv Name:mach-01 sledgehammer",
    ),
    verb(
        "stage",
        "[id] [stage]",
        Arity::Exactly(2),
        |session, call| set(session, call, "Stage", call.arg(1).into()),
        "Changes the stage; \"\" for none",
        "machines stage Name:mach-01 discover",
    ),
    verb(
        "workflow",
        "[id] [workflow]",
        Arity::Exactly(2),
        |session, call| set(session, call, "Workflow", call.arg(1).into()),
        "Changes the workflow; \"\" for none",
        "machines workflow Name:mach-01 discover-base",
    ),
    verb(
        "pause",
        "[id]",
        Arity::Exactly(1),
        |session, call| set(session, call, "Runnable", false.into()),
        "Keeps the agent from starting further tasks",
        "machines pause Name:mach-01",
    ),
    verb(
        "run",
        "[id]",
        Arity::Exactly(1),
        run,
        "Lets the agent go on, with one more task first where that is asked for",
        "machines run Name:mach-01 --task inventory",
    )
    .flags(&[option("task", "TASK", "Run this next")]),
    verb(
        "inspect",
        "tasks [id] | jobs [id]",
        Arity::Exactly(2),
        inspect,
        "Shows what became of each task of a machine, or its jobs in the order that they ran",
        "machines inspect tasks Name:mach-01",
    ),
    verb(
        "tasks",
        "add [id] [at POSITION] [task...] | del [id] [task...]",
        Arity::AtLeast(3),
        tasks,
        "Changes the task list",
        "machines tasks add Name:mach-01 at 0 inventory",
    ),
];

pub(super) const STAGE_VERBS: &[Verb] = &[verb(
    "bootenv",
    "[id] [bootenv]",
    Arity::Exactly(2),
    |session, call| set(session, call, "BootEnv", call.arg(1).into()),
    "Changes the stage's boot environment",
    "stages bootenv discover sledgehammer",
)];

pub(super) const WORKFLOW_VERBS: &[Verb] = &[
    verb(
        "addstage",
        "[id] [stage...]",
        Arity::AtLeast(2),
        |session, call| add(session, call, "Stages"),
        "Adds stages at the end",
        "{noun} addstage {id} finish",
    ),
    verb(
        "removestage",
        "[id] [stage...]",
        Arity::AtLeast(2),
        |session, call| remove(session, call, "Stages"),
        "Takes stages away",
        "{noun} removestage {id} finish",
    ),
];

fn set(session: &Session, call: &Call, member: &str, value: Value) -> Result<Output, CliError> {
    change_object(session, call, |object| {
        object[member] = value;
        Ok(())
    })
}

fn list<'a>(object: &'a mut Value, member: &str) -> Result<&'a mut Vec<Value>, CliError> {
    let member_value = &mut object[member];
    if member_value.is_null() {
        *member_value = json!([]);
    }
    member_value
        .as_array_mut()
        .ok_or_else(|| CliError::text(format!("{member} is no list on the server")))
}

fn add(session: &Session, call: &Call, member: &str) -> Result<Output, CliError> {
    change_object(session, call, |object| {
        let names = call.args.iter().skip(1);
        list(object, member)?.extend(names.map(|name| Value::from(name.as_str())));
        Ok(())
    })
}

fn remove(session: &Session, call: &Call, member: &str) -> Result<Output, CliError> {
    change_object(session, call, |object| {
        let gone = |item: &Value| call.args.iter().skip(1).any(|name| item == name);
        list(object, member)?.retain(|item| !gone(item));
        Ok(())
    })
}

fn tasks(session: &Session, call: &Call) -> Result<Output, CliError> {
    let (what, rest) = (call.arg(0).to_owned(), call.args[1..].to_vec());
    let inner = Call {
        args: rest,
        usage: call.usage.clone(),
        example: call.example.clone(),
        ..*call
    };
    match what.as_str() {
        "del" => remove_once(session, &inner),
        "add" if inner.arg(1) == "at" => {
            let at = inner
                .arg(2)
                .parse()
                .map_err(|_| inner.misuse(format!("{:?} is no position", inner.arg(2))))?;
            insert(session, &inner, Some(at), 3)
        }
        "add" => insert(session, &inner, None, 1),
        other => Err(call.misuse(format!("{other:?} is neither add nor del"))),
    }
}

fn run(session: &Session, call: &Call) -> Result<Output, CliError> {
    change_object(session, call, |machine| {
        if let Some(task) = call.option("task") {
            put_in(machine, Some(0), vec![task.into()])?;
        }
        machine["Runnable"] = true.into();
        Ok(())
    })
}

fn inspect(session: &Session, call: &Call) -> Result<Output, CliError> {
    let machine = session.get_object("machines", call.arg(1))?;
    let request = session.client()?.request(Method::GET, "/api/v3/jobs");
    let uuid = machine["Uuid"].as_str().unwrap_or_default();
    let jobs: Vec<Value> = request
        .query("Machine", uuid)
        .query("sort", "StartTime")
        .send()?
        .json()?;
    match call.arg(0) {
        "jobs" => Ok(Output::Json {
            value: jobs.into(),
            columns: ["CurrentIndex", "Task", "State", "ExitState", "StartTime", "Uuid"]
                .map(str::to_owned)
                .to_vec(),
        }),
        "tasks" => Ok(Output::Json {
            value: progress_of(&machine, &jobs),
            columns: ["Index", "Task", "State", "Job"].map(str::to_owned).to_vec(),
        }),
        other => Err(call.misuse(format!("{other:?} is neither tasks nor jobs"))),
    }
}

/// A row for each entry of the task list, with the newest job that was made of it.
fn progress_of(machine: &Value, jobs: &[Value]) -> Value {
    let current = machine["CurrentTask"].as_i64().unwrap_or(-1);
    let tasks = machine["Tasks"].as_array().into_iter().flatten();
    let rows = (0_i64..).zip(tasks).map(|(index, task)| {
        let job = jobs
            .iter()
            .rfind(|job| job["CurrentIndex"] == index && job["Task"] == *task);
        let state = match job {
            Some(job) => job["State"].clone(),
            // Entries that say what is so already need no job.
            None if index <= current => "passed".into(),
            None => "to do".into(),
        };
        json!({ "Index": index, "Task": task, "State": state, "Job": job.map_or(&Value::Null, |job| &job["Uuid"]) })
    });
    rows.collect()
}

/// Puts the tasks named from argument `first` on at a position counted from the task that runs next, by
/// default after the present stage's. Tasks that stand there already are not put there again.
fn insert(session: &Session, call: &Call, at: Option<usize>, first: usize) -> Result<Output, CliError> {
    let new = call.args.iter().skip(first).map(|name| Value::from(name.as_str()));
    let new: Vec<Value> = new.collect();
    change_object(session, call, |machine| put_in(machine, at, new))
}

fn put_in(machine: &mut Value, at: Option<usize>, new: Vec<Value>) -> Result<(), CliError> {
    let next = next_task(machine);
    let tasks = list(machine, "Tasks")?;
    let next = next.min(tasks.len());
    let is_stage = |task: &Value| task.as_str().is_some_and(|task| task.starts_with("stage:"));
    let end = tasks[next..]
        .iter()
        .position(is_stage)
        .map_or(tasks.len(), |stage| next + stage);
    let (at, there) = match at {
        Some(at) => {
            let at = next.saturating_add(at).min(end);
            (at, tasks[at..].starts_with(&new))
        }
        None => (end, tasks[next..end].ends_with(&new)),
    };
    if !there {
        tasks.splice(at..at, new);
    }
    Ok(())
}

/// Position of the task that runs next: the one after `CurrentTask`.
fn next_task(machine: &Value) -> usize {
    let current = machine["CurrentTask"].as_i64().unwrap_or(-1);
    usize::try_from(current.saturating_add(1)).unwrap_or(0)
}

/// Each name takes the first task of that name away, as often as it is given.
fn remove_once(session: &Session, call: &Call) -> Result<Output, CliError> {
    change_object(session, call, |machine| {
        let done = next_task(machine);
        let tasks = list(machine, "Tasks")?;
        for name in call.args.iter().skip(1) {
            if let Some(at) = tasks.iter().skip(done).position(|task| task == name) {
                tasks.remove(done + at);
            }
        }
        Ok(())
    })
}
