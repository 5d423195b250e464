//! The audit log, for reading. There is no route that changes it.

use http::Method;
use isobar_model::ApiError;
use isobar_store::{AuditQuery, Audited};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::doc::{Shape, query};
use super::{On, Table, right};
use crate::call::Call;
use crate::reply::{self, Answer};

/// Rows of an answer, when nobody says how many, and at most.
const LIMIT: (usize, usize) = (100, 1000);

pub(super) fn add(table: &mut Table) {
    table
        .add(Method::GET, "/isobar/v1/audit", right("audit", "list", On::All), list)
        .is("Shows who did what, newest first.")
        .asks(&[
            query("after", "integer", "Rows after this one, oldest first."),
            query("before", "integer", "Rows before this one."),
            query("limit", "integer", "Rows to give, at most 1000; 100 without it."),
            query("since", "string", "Rows of this time (RFC 3339, or 24h ago) or later."),
            query("until", "string", "Rows before this time."),
            query("principal", "string", "Who: user:NAME, machine:UUID, system."),
            query("source", "string", "Address that they came from."),
            query("action", "string", "What; action stands for all action:NAME."),
            query("type", "string", "On what type of object."),
            query("key", "string", "On which object."),
        ])
        .gives(200, Shape::list("Map"))
        .refuses(&[400]);
}

async fn list(call: Call) -> Answer {
    let query = asked(&call)?;
    let rows = call.objects(move |objects, _| objects.audit_log(&query)).await?;
    reply::ok(&rows.iter().map(shown).collect::<Vec<_>>())
}

fn asked(call: &Call) -> Result<AuditQuery, ApiError> {
    let mut query = AuditQuery {
        limit: LIMIT.0,
        ..AuditQuery::default()
    };
    for (name, value) in call.query.pairs() {
        let number = || {
            let number = value.parse::<u64>();
            number.map_err(|_| call.bad_request(format!("{name} must be a whole number, not {value}")))
        };
        let time = || {
            if let Some(ago) = ago(value) {
                let now = call.app.objects.clock().now_ns();
                return Ok(i64::try_from(now.saturating_sub(ago)).unwrap_or(i64::MAX));
            }
            let time = OffsetDateTime::parse(value, &Rfc3339);
            let time = time.map_err(|_| {
                call.bad_request(format!(
                    "{name} must be a time as 2030-01-31T08:00:00Z or 24h, not {value}"
                ))
            })?;
            // Before 1678 or after 2262: as far as can be said.
            Ok::<_, ApiError>(i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX))
        };
        let text = || Some(value.clone());
        match name.as_str() {
            "after" => query.after = Some(number()?),
            "before" => query.before = Some(number()?),
            "limit" => query.limit = usize::try_from(number()?).unwrap_or(LIMIT.1).clamp(1, LIMIT.1),
            "since" => query.since_ns = Some(time()?),
            "until" => query.until_ns = Some(time()?),
            "principal" => query.principal = text(),
            "source" => query.source = text(),
            "action" => query.action = text(),
            "type" => query.kind = text(),
            "key" => query.key = text(),
            // A filter that is misspelt would show everything.
            _ => return Err(call.bad_request(format!("the audit log has no filter {name}"))),
        }
    }
    Ok(query)
}

/// Nanoseconds of `90s`, `30m`, `24h`, `7d`.
fn ago(text: &str) -> Option<i128> {
    let (number, seconds) = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)))?;
    let number: u32 = number.parse().ok()?;
    Some(i128::from(number) * seconds * 1_000_000_000)
}

fn shown(row: &Audited) -> Value {
    let at = OffsetDateTime::from_unix_timestamp_nanos(row.at_ns.into()).ok();
    let entry = &row.entry;
    json!({
        "seq": row.seq,
        "time": at.and_then(|at| at.format(&Rfc3339).ok()),
        "principal": entry.principal,
        "source": entry.source,
        "action": entry.action,
        "type": entry.kind,
        "key": entry.key,
        "detail": entry.detail,
        "times": row.times,
    })
}
