//! The table of audit rows.

use rusqlite::types::Value;
use rusqlite::{Connection, Row, params, params_from_iter};

use super::StoreOptions;
use super::schema::write_meta;
use crate::{Audit, AuditClass, AuditQuery, Audited};

/// Rows that one transaction forgets at most: a long table is not worth a long pause.
const STEP: u64 = 5_000;
/// Of the rows that are kept of users, programs and those refused get one in so many.
const SHARES: [u64; 3] = [1, 2, 8];
/// Between two looks at the age of rows.
const LOOK_S: i64 = 600;
const SECOND: i64 = 1_000_000_000;

fn number(class: AuditClass) -> usize {
    match class {
        AuditClass::User => 0,
        AuditClass::Program => 1,
        AuditClass::Refused => 2,
    }
}

/// As the column has it.
fn wire(class: usize) -> i64 {
    i64::try_from(class).unwrap_or_default()
}

fn class(number: i64) -> AuditClass {
    match number {
        0 => AuditClass::User,
        1 => AuditClass::Program,
        _ => AuditClass::Refused,
    }
}

/// How much the table holds; the writer's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AuditRows {
    of_class: [u64; 3],
    /// When the age of rows is looked at next.
    look_ns: i64,
}

impl AuditRows {
    pub(super) fn count(conn: &Connection) -> rusqlite::Result<Self> {
        let mut rows = Self::default();
        let mut counted = conn.prepare("SELECT class, count(*) FROM audit GROUP BY class")?;
        let mut counted = counted.query([])?;
        while let Some(row) = counted.next()? {
            rows.of_class[number(class(row.get(0)?))] += row.get::<_, i64>(1)?.cast_unsigned();
        }
        Ok(rows)
    }

    pub(super) fn add(&mut self, conn: &Connection, at_ns: i64, entry: &Audit, times: u32) -> rusqlite::Result<()> {
        let class = number(entry.class);
        conn.prepare_cached(
            "INSERT INTO audit (at_ns, class, times, principal, source, action, kind, key, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            at_ns,
            wire(class),
            times,
            entry.principal,
            entry.source,
            entry.action,
            entry.kind,
            entry.key,
            entry.detail,
        ])?;
        self.of_class[class] += 1;
        Ok(())
    }

    /// Forgets the oldest rows: those that are too old, and those of a class that has too many.
    pub(super) fn trim(&mut self, conn: &Connection, now_ns: i64, options: &StoreOptions) -> rusqlite::Result<()> {
        let most = |class: usize| (options.audit_rows / SHARES[class]).max(1);
        let crowded = (0..SHARES.len()).find(|class| self.of_class[*class] > most(*class));
        let old = now_ns >= self.look_ns;
        if crowded.is_none() && !old {
            return Ok(());
        }
        write_meta(conn, "audit-trim", 1)?;
        if let Some(class) = crowded {
            // A sixteenth more than needed, so that not every commit has to.
            let over = self.of_class[class] - (most(class) - most(class) / 16);
            let gone = conn
                .prepare_cached(
                    "DELETE FROM audit WHERE seq IN
                     (SELECT seq FROM audit WHERE class = ?1 ORDER BY seq LIMIT ?2)",
                )?
                .execute(params![wire(class), over.min(STEP).cast_signed()])?;
            self.of_class[class] = self.of_class[class].saturating_sub(gone as u64);
        }
        if old {
            self.look_ns = now_ns.saturating_add(LOOK_S * SECOND);
            let age = i64::try_from(options.audit_age_s)
                .unwrap_or(i64::MAX)
                .saturating_mul(SECOND);
            // Never the newest: its number is the one that the next row counts on from.
            let gone: Vec<i64> = conn
                .prepare_cached(
                    "DELETE FROM audit WHERE seq IN
                     (SELECT seq FROM audit WHERE seq <
                        (SELECT ifnull(min(seq), 0) FROM (SELECT seq FROM audit WHERE at_ns >= ?1 ORDER BY seq LIMIT 1))
                      ORDER BY seq LIMIT ?2)
                     RETURNING class",
                )?
                .query_map(params![now_ns.saturating_sub(age), STEP.cast_signed()], |row| {
                    row.get(0)
                })?
                .collect::<Result<_, _>>()?;
            if gone.len() as u64 == STEP {
                self.look_ns = now_ns;
            }
            for row in gone {
                let rows = &mut self.of_class[number(class(row))];
                *rows = rows.saturating_sub(1);
            }
        }
        write_meta(conn, "audit-trim", 0)
    }
}

pub(super) fn read(conn: &Connection, query: &AuditQuery) -> rusqlite::Result<Vec<Audited>> {
    let mut conditions = vec!["1".to_owned()];
    let mut values: Vec<Value> = Vec::new();
    let mut ask = |condition: &str, value: Value| {
        values.push(value);
        conditions.push(condition.replace('?', &format!("?{}", values.len())));
    };
    let whole = |n: u64| Value::Integer(i64::try_from(n).unwrap_or(i64::MAX));
    let numbers = [
        ("seq > ?", query.after.map(whole)),
        ("seq < ?", query.before.map(whole)),
        ("at_ns >= ?", query.since_ns.map(Value::Integer)),
        ("at_ns < ?", query.until_ns.map(Value::Integer)),
    ];
    let text = |text: &Option<String>| text.clone().map(Value::Text);
    let texts = [
        ("principal = ?", text(&query.principal)),
        ("source = ?", text(&query.source)),
        ("kind = ?", text(&query.kind)),
        ("key = ?", text(&query.key)),
        (
            "(action = ? OR substr(action, 1, length(?) + 1) = ? || ':')",
            text(&query.action),
        ),
    ];
    for (condition, value) in numbers.into_iter().chain(texts) {
        if let Some(value) = value {
            ask(condition, value);
        }
    }
    let order = if query.after.is_some() { "ASC" } else { "DESC" };
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let sql = format!(
        "SELECT seq, at_ns, class, times, principal, source, action, kind, key, detail FROM audit
         WHERE {} ORDER BY seq {order} LIMIT {limit}",
        conditions.join(" AND ")
    );
    conn.prepare(&sql)?
        .query_map(params_from_iter(values), audited)?
        .collect()
}

fn audited(row: &Row<'_>) -> rusqlite::Result<Audited> {
    Ok(Audited {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        at_ns: row.get(1)?,
        times: row.get(3)?,
        entry: Audit {
            class: class(row.get(2)?),
            principal: row.get(4)?,
            source: row.get(5)?,
            action: row.get(6)?,
            kind: row.get(7)?,
            key: row.get(8)?,
            detail: row.get(9)?,
        },
    })
}
