//! Jobs: what a machine does next, and what became of it.

use std::sync::Arc;

use isobar_model::tasks::Entry;
use isobar_model::{ApiError, Lookup, NO_TIME, Noun, Object, jobs, list, noun, number, text};
use isobar_store::{Delete, Expect, IndexEntry, Put};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::core::{Draft, Order, store_failed};
use crate::read::public;
use crate::render::{Rendered, ServedAt};
use crate::view::{Place, View};
use crate::write::How;
use crate::{Objects, Principal};

const NO_JOB: &str = "00000000-0000-0000-0000-000000000000";
/// Kind of the pieces that logs are kept in.
const LOGS: &str = "_joblogs";
const OF_JOB: &str = "Job";
/// A piece that is longer gets no more: appending rewrites one piece, never the whole log.
const PIECE: usize = 64 * 1024;
/// Longest log in bytes; what comes after is dropped.
const MAX_LOG: usize = 8 << 20;

/// The answer to "what next?".
#[derive(Clone, Debug)]
pub enum NextJob {
    /// A new job.
    Made(Arc<Object>),
    /// The job before, which was left incomplete: run it again.
    Again(Arc<Object>),
    /// Nothing for now: all is done, or the machine was changed and has to look at itself.
    Nothing,
}

/// Why an action in a task list fails.
const NOT_RUN: &str = "actions are not run out of task lists: a machine's agent may change the list, and has no right to the \
                       action. Run it with `isobar machines runaction`, or from a task by a user's token";

fn unknown(what: &str, key: &str) -> ApiError {
    ApiError::validation("", "", format!("{what} {key} does not exist"))
}

fn row(name: &str) -> Result<&'static Noun, ApiError> {
    crate::objects::row(name)
}

impl Objects {
    /// Makes the next job of a machine, and does on the way what the server does itself: entering stages and boot
    /// environments. `input` has `Machine` and may have `Uuid`.
    ///
    /// # Errors
    /// 422 for a machine that is not there, 409 when it is not runnable or has a job already.
    pub fn next_job(&self, input: &Value, by: &Principal) -> Result<NextJob, ApiError> {
        let (jobs, machines) = (row("jobs")?, row("machines")?);
        let wanted = jobs.canonical(input).map_err(|e| e.with_type("CREATE"))?;
        let uuid = text(&wanted, "Machine").to_owned();
        if by.machine().is_some_and(|own| own != uuid) {
            return Err(ApiError::token_refused());
        }
        if !by.sees("machines", &uuid) {
            return Err(unknown("Machine", &uuid));
        }
        self.core
            .write(Order::Shared, &format!("machines/{uuid}"), |view, draft| {
                let machine = view.find(machines, &uuid).ok_or_else(|| unknown("Machine", &uuid))?;
                let old = machine.object.as_ref();
                let yes = |member: &str| old.get(member) == Some(&Value::Bool(true));
                if !yes("Runnable") || !yes("Available") {
                    return Err(ApiError::conflict(format!("Machine {uuid} is not runnable")));
                }
                let index = match self.where_to_go_on(view, draft, old, by)? {
                    Ok(index) => index,
                    Err(job) => return Ok(NextJob::Again(job)),
                };
                let tasks: Vec<String> = list(old, "Tasks").map(str::to_owned).collect();
                let mut new = old.clone();
                let mut at = index;
                let mut made = None;
                while let Some(entry) = tasks.get(at) {
                    match Entry::parse(entry) {
                        Some(Entry::Stage(stage)) if stage == text(old, "Stage") => {}
                        Some(Entry::BootEnv(bootenv)) if bootenv == text(old, "BootEnv") => {}
                        Some(Entry::Context(context)) => {
                            new.insert("Context".to_owned(), context.into());
                        }
                        Some(Entry::Chroot(_)) => {}
                        parsed => {
                            let job = self.job(&wanted, &new, entry, at, parsed, by);
                            made = Some((
                                job,
                                parsed.is_some_and(|e| matches!(e, Entry::Stage(_) | Entry::BootEnv(_))),
                            ));
                            if let Some(Entry::Stage(stage)) = parsed {
                                new.insert("Stage".to_owned(), stage.into());
                            }
                            if let Some(Entry::BootEnv(bootenv)) = parsed {
                                new.insert("BootEnv".to_owned(), bootenv.into());
                            }
                            break;
                        }
                    }
                    at += 1;
                }
                new.insert("CurrentTask".to_owned(), at.into());
                let (job, ours) = match made {
                    Some((job, ours)) => (Some(job), ours),
                    None => (None, false),
                };
                if let Some(job) = &job {
                    new.insert("CurrentJob".to_owned(), text(job, "Uuid").into());
                } else if !text(old, "Workflow").is_empty() {
                    new.insert("WorkflowComplete".to_owned(), true.into());
                }
                let how = How {
                    runner: true,
                    ..How::of(by)
                };
                self.finish(view, draft, machines, &uuid, Some(&machine), new, how)?;
                let Some(job) = job else { return Ok(NextJob::Nothing) };
                self.retire(view, draft, text(old, "CurrentJob"), by)?;
                let key = text(&job, "Uuid").to_owned();
                if view.find(jobs, &key).is_some() {
                    return Err(ApiError::already_exists("jobs", &key));
                }
                let job = self.finish(view, draft, jobs, &key, None, job, How::of(by))?;
                let first = format!("Log for Job: {key}\n");
                let entry = match Entry::parse(text(&job, "Task")) {
                    _ if ours => format!("{first}{}\n", text(&job, "Task")),
                    Some(Entry::Action(_)) => format!("{first}{}: {NOT_RUN}\n", text(&job, "Task")),
                    _ => first,
                };
                draft.txn.puts.push(piece(&key, 0, entry.into_bytes(), Expect::Any));
                Ok(if ours {
                    NextJob::Nothing
                } else {
                    NextJob::Made(job.object)
                })
            })
    }

    /// The position that comes next, or the job that is to be run again.
    fn where_to_go_on(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        machine: &Object,
        by: &Principal,
    ) -> Result<Result<usize, Arc<Object>>, ApiError> {
        let position = number(machine, "CurrentTask");
        let fresh = || usize::try_from(position).unwrap_or(0);
        let jobs = row("jobs")?;
        let Some(job) = view.find(jobs, text(machine, "CurrentJob")) else {
            return Ok(Ok(fresh()));
        };
        let state = text(&job.object, "State").to_owned();
        if number(&job.object, "CurrentIndex") != position {
            if !jobs::is_over(&state) {
                let mut failed = Object::clone(&job.object);
                failed.insert("State".to_owned(), "failed".into());
                let key = text(machine, "CurrentJob");
                self.finish(view, draft, jobs, key, Some(&job), failed, How::of(by))?;
            }
            return Ok(Ok(fresh()));
        }
        match state.as_str() {
            "finished" => Ok(Ok(usize::try_from(number(&job.object, "NextIndex")).unwrap_or(0))),
            "failed" => Ok(Ok(fresh())),
            "incomplete" => Ok(Err(public(jobs, &job.object))),
            _ => Err(ApiError::conflict(format!(
                "Machine {} already has running or created job",
                text(machine, "Uuid")
            ))),
        }
    }

    fn job(
        &self,
        wanted: &Object,
        machine: &Object,
        entry: &str,
        at: usize,
        parsed: Option<Entry<'_>>,
        _by: &Principal,
    ) -> Object {
        let now = self.written_now();
        // What the server does itself is done by the time that anybody sees it.
        let (state, exit) = match parsed {
            Some(Entry::Task(_)) => ("created", ""),
            Some(Entry::Stage(_) | Entry::BootEnv(_)) => ("finished", "complete"),
            // Nobody here runs it.
            _ => ("failed", "failed"),
        };
        let given = text(wanted, "Uuid");
        let uuid = if given.is_empty() {
            uuid::Uuid::new_v4().to_string()
        } else {
            given.to_owned()
        };
        let previous = match text(machine, "CurrentJob") {
            "" => NO_JOB,
            job => job,
        };
        let made = json!({
            "Uuid": uuid, "Previous": previous, "Machine": text(machine, "Uuid"), "Task": entry,
            "Stage": text(machine, "Stage"), "BootEnv": text(machine, "BootEnv"), "Workflow": text(machine, "Workflow"),
            "State": state, "ExitState": exit, "StartTime": now, "Current": true, "CurrentIndex": at, "NextIndex": at + 1,
            "EndTime": if state == "created" { NO_TIME.to_owned() } else { now.clone() },
            "Context": text(machine, "Context"),
        });
        noun("jobs")
            .and_then(|jobs| jobs.canonical(&made).ok())
            .unwrap_or_default()
    }

    /// The machine's job before is no longer its newest.
    fn retire(&self, view: &View<'_>, draft: &mut Draft, key: &str, by: &Principal) -> Result<(), ApiError> {
        let jobs = row("jobs")?;
        let Some(job) = view.find(jobs, key) else { return Ok(()) };
        let mut old = Object::clone(&job.object);
        old.insert("Current".to_owned(), false.into());
        let pending = draft
            .txn
            .puts
            .iter()
            .position(|put| put.kind == "jobs" && put.key == key);
        let expect = pending.map(|at| draft.txn.puts.remove(at).expect);
        let place = job.place;
        self.finish(view, draft, jobs, key, Some(&job), old, How::of(by))?;
        // Failed and retired in one change: one write, against what was read.
        if let (Some(expect), Some(put)) = (
            expect,
            draft
                .txn
                .puts
                .iter_mut()
                .find(|put| put.kind == "jobs" && put.key == key),
        ) {
            put.expect = expect;
        }
        debug_assert!(place != Place::Content);
        Ok(())
    }

    fn written_now(&self) -> String {
        let now = OffsetDateTime::from_unix_timestamp_nanos(self.core.clock.now_ns());
        now.ok()
            .and_then(|now| now.format(&Rfc3339).ok())
            .unwrap_or_else(|| NO_TIME.to_owned())
    }

    /// When a job began to run and when it ended.
    pub(crate) fn clock_job(&self, old: Option<&Object>, new: &mut Object) {
        let Some(old) = old.filter(|old| old.get("State") != new.get("State")) else {
            return;
        };
        let state = text(new, "State").to_owned();
        if state == "running" {
            new.insert("StartTime".to_owned(), self.written_now().into());
        }
        if jobs::is_over(&state) && !jobs::is_over(text(old, "State")) {
            new.insert("EndTime".to_owned(), self.written_now().into());
        }
    }

    /// A job is deleted with its log: one that is over, that another one followed, or whose machine is gone.
    pub(crate) fn forget_job(
        &self,
        view: &View<'_>,
        draft: &mut Draft,
        key: &str,
        job: &Object,
    ) -> Result<(), ApiError> {
        let state = text(job, "State");
        let current = job.get("Current") == Some(&Value::Bool(true));
        let machine = Lookup::get(view, "machines", text(job, "Machine"));
        if !jobs::is_over(state) && current && machine.is_some() {
            let text = format!("Jobs {key} is not in a deletable state: {state}");
            return Err(ApiError::validation("jobs", key, text));
        }
        let pieces = self.core.store.find(LOGS, OF_JOB, key).map_err(|e| store_failed(&e))?;
        draft.txn.deletes.extend(pieces.into_iter().map(|doc| Delete {
            kind: LOGS.to_owned(),
            key: doc.key,
            expect: Expect::Any,
        }));
        Ok(())
    }

    /// A job for those whose errors say that it does not exist.
    fn existing_job(&self, key: &str, by: &Principal) -> Result<Arc<Object>, ApiError> {
        let job = self.find("jobs", key)?.ok_or_else(|| unknown("Job", key))?;
        match by.machine() {
            Some(own) if own != text(&job, "Machine") => Err(ApiError::token_refused()),
            _ if !by.sees("machines", text(&job, "Machine")) => Err(unknown("Job", key)),
            _ => Ok(job),
        }
    }

    /// The log of a job.
    ///
    /// # Errors
    /// 422 for a job that is not there.
    pub fn job_log(&self, key: &str, by: &Principal) -> Result<Vec<u8>, ApiError> {
        let job = self.existing_job(key, by)?;
        let pieces = self
            .core
            .store
            .find(LOGS, OF_JOB, text(&job, "Uuid"))
            .map_err(|e| store_failed(&e))?;
        let mut pieces: Vec<_> = pieces.into_iter().map(|doc| (doc.key, doc.body)).collect();
        pieces.sort();
        Ok(pieces.iter().flat_map(|(_, body)| body.iter().copied()).collect())
    }

    /// Appends to the log of a job; what is beyond the longest log is dropped.
    ///
    /// # Errors
    /// 422 for a job that is not there.
    pub fn append_job_log(&self, key: &str, text_: &[u8], by: &Principal) -> Result<(), ApiError> {
        let job = self.existing_job(key, by)?;
        let uuid = text(&job, "Uuid").to_owned();
        self.core.write(Order::Shared, &format!("jobs/{uuid}/log"), |_, draft| {
            let mut pieces = self
                .core
                .store
                .find(LOGS, OF_JOB, &uuid)
                .map_err(|e| store_failed(&e))?;
            pieces.sort_by(|a, b| a.key.cmp(&b.key));
            let length: usize = pieces.iter().map(|doc| doc.body.len()).sum();
            let room = MAX_LOG.saturating_sub(length).min(text_.len());
            if room == 0 {
                return Ok(());
            }
            let added = &text_[..room];
            let put = match pieces.last() {
                Some(last) if last.body.len() < PIECE => {
                    let body = [last.body.as_ref(), added].concat();
                    piece(&uuid, pieces.len() - 1, body, Expect::Rev(last.rev))
                }
                _ => piece(&uuid, pieces.len(), added.to_vec(), Expect::Absent),
            };
            draft.txn.puts.push(put);
            Ok(())
        })
    }

    /// What the agent does for a job: the files to write and the scripts to run, in order. `os` leaves out those for
    /// other operating systems.
    ///
    /// # Errors
    /// 422 when job, task or machine is gone, or a template does not render.
    pub fn job_actions(&self, key: &str, os: &str, at: &ServedAt, by: &Principal) -> Result<Vec<Value>, ApiError> {
        let job = self.existing_job(key, by)?;
        let name = text(&job, "Task");
        if !matches!(Entry::parse(name), Some(Entry::Task(_))) {
            return Ok(Vec::new());
        }
        let task = self.find("tasks", name)?.ok_or_else(|| unknown("Task", name))?;
        let uuid = text(&job, "Machine");
        let machine = self.find("machines", uuid)?.ok_or_else(|| unknown("Machine", uuid))?;
        let rendered = Rendered::for_task(self, &machine, &task, (os, at), by)?;
        let templates = task.get("Templates").and_then(Value::as_array).into_iter().flatten();
        let fits = |info: &&Value| {
            let wanted = info.get("Meta").and_then(|meta| meta.get("OS")).and_then(Value::as_str);
            let wanted = wanted.unwrap_or_default();
            os.is_empty() || wanted.is_empty() || wanted.split(',').any(|one| one.trim() == os)
        };
        let action = |info: &Value| {
            let refused = |e: String| ApiError::validation("jobs", key, e);
            let member = |name: &str| info.get(name).and_then(Value::as_str).unwrap_or_default();
            let path = rendered
                .text(&format!("{name}/{}/Path", member("Name")), member("Path"))
                .map_err(refused)?;
            let content = rendered.content(name, info).map_err(refused)?;
            Ok(json!({ "Name": member("Name"), "Path": path, "Content": content, "Meta": info.get("Meta") }))
        };
        let actions = templates.filter(fits).map(action).collect();
        if rendered.took_secrets() {
            self.note(by.audit("getSecure", "machines", uuid, format!("the templates of task {name}")));
        }
        actions
    }

    /// Deletes the finished jobs of a machine; returns how many.
    ///
    /// # Errors
    /// Of the store.
    pub fn delete_jobs(&self, machine: &str, by: &Principal) -> Result<usize, ApiError> {
        let view = View::new(&self.core);
        let keys = Lookup::find(&view, "jobs", "Machine", machine);
        view.sound()?;
        let deleted = keys.iter().map(|key| self.delete("jobs", key, by));
        Ok(deleted.filter(Result::is_ok).count())
    }
}

fn piece(job: &str, number: usize, body: Vec<u8>, expect: Expect) -> Put {
    Put {
        kind: LOGS.to_owned(),
        key: format!("{job}/{number:06}"),
        body: body.into(),
        expect,
        indexes: vec![IndexEntry {
            name: OF_JOB,
            value: job.to_owned(),
            unique: false,
        }],
    }
}
