//! The test disc: a few sectors with an attempt of their own, so that the file plane tells who reads them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isobar_image::{AttemptId, Base, BaseFile, BaseSpec, Content, FileRole, Image, OwnFile};
use isobar_store::{Delete, Expect, Put, Txn};
use rand::RngExt as _;

use super::{LOOK, QUIET};
use crate::attempts::{hash, random_token};
use crate::kernel_args;
use crate::reads::AttemptReads;
use crate::reason::Reason;
use crate::record::{Attempt, kind};
use crate::settings::Settings;
use crate::state::{Inner, STORE, member};

/// Stands for a bootenv: no bootenv can be called so.
pub(crate) const NAME: &str = "(doctor)";
const TEXT: &str = "A test disc. It boots nothing: eject it if you see it in a machine.\r\n";

fn defect(error: impl std::fmt::Display) -> Reason {
    Reason::new(
        "plan",
        format!("the test disc cannot be made: {error}"),
        "report this as a defect",
    )
}

fn store(error: isobar_store::StoreError) -> Reason {
    Reason::new(STORE, error.to_string(), "look at the server's log")
}

/// Makes the disc of this examination, commits it, and begins to watch who reads it.
pub(super) async fn plan(
    inner: &Arc<Inner>,
    settings: &Settings,
    reached: &[IpAddr],
) -> Result<(Attempt, Arc<AttemptReads>), Reason> {
    let uuid = settings.uuid.clone();
    let (planned, txn) = {
        let (inner, reached) = (Arc::clone(inner), reached.to_vec());
        inner
            .objects
            .clone()
            .run(move |_| commit(&inner, &uuid, &reached))
            .await?
    };
    inner.store.submit(txn).await.map_err(store)?;
    let attempt = inner.place(planned, reached).await?;
    let reads = inner.follow(&attempt)?;
    Ok((attempt, reads))
}

fn commit(inner: &Inner, uuid: &str, reached: &[IpAddr]) -> Result<(Attempt, Txn), Reason> {
    let id = AttemptId(rand::rng().random());
    let file = BaseFile {
        path: "README.TXT".to_owned(),
        content: Content::Bytes(Bytes::from_static(TEXT.as_bytes())),
        role: FileRole::Other,
    };
    let spec = BaseSpec {
        volume_id: "ISOBAR_DOCTOR".to_owned(),
        files: vec![file],
        ..BaseSpec::default()
    };
    let base = Arc::new(Base::build(&spec, inner.bases.blobs()).map_err(defect)?);
    // Two discs are never the same: a BMC that keeps what it has read reads again.
    let own = OwnFile {
        path: "ATTEMPT.TXT".to_owned(),
        bytes: Bytes::from(format!("{id}\r\n")),
        role: FileRole::Other,
    };
    let image: Image = isobar_image::plan(&base, &[own]).map_err(defect)?;
    let settings = inner.settings(uuid)?;
    let machine = inner
        .objects
        .get("machines", uuid)
        .map_err(|e| Reason::new(STORE, e.to_string(), ""))?;
    let bootenv = inner.objects.find("bootenvs", member(&machine, "BootEnv"));
    let for_bmc = match bootenv {
        Ok(Some(bootenv)) => {
            kernel_args::bmc_address(&inner.objects, &machine, &bootenv, &settings, &inner.options.addr)?
        }
        _ => settings.for_bmc.clone(),
    };
    let authority = inner.options.addr.bmc_url(for_bmc.as_deref());
    let older = inner.attempts.of_machine(uuid).map_err(store)?;
    let older = older.first().map_or(0, |(attempt, _)| attempt.created_ms);
    let (token, key) = (random_token(), id.to_string());
    let attempt = Attempt {
        machine: uuid.to_owned(),
        bootenv: NAME.to_owned(),
        boot: None,
        token_hash: hash(&token),
        token_sealed: inner.attempts.seal(&key, &token),
        // Nobody has this secret: no machine token comes of this disc.
        secret_hash: hash(&random_token()),
        nonce_hash: None,
        machine_token_sealed: None,
        over: false,
        bmc_ips: reached.to_vec(),
        http_boot: false,
        peers: settings.image_peers.clone(),
        size: image.len(),
        etag: image.etag().to_owned(),
        by_route: authority.is_none(),
        authority: authority.unwrap_or_default(),
        api: String::new(),
        strict: settings.strict,
        created_ms: inner.now_ms().max(older + 1),
        first_read_ms: None,
        elsewhere: None,
        agent_up_ms: None,
        id: key,
    };
    let bytes = Put {
        kind: kind::BASE_BYTES.to_owned(),
        key: base.digest().to_string(),
        body: base.to_bytes(),
        expect: Expect::Any,
        indexes: Vec::new(),
    };
    let puts = vec![
        bytes,
        attempt.put(Expect::Absent),
        inner.attempts.put_image(&attempt.id, &image),
    ];
    Ok((attempt, Txn { puts, ..Txn::default() }))
}

/// Nothing of the disc stays: its token answers "not found".
pub(super) async fn remove(inner: &Inner, attempt: &Attempt) {
    let delete = |kind: &str| Delete {
        kind: kind.to_owned(),
        key: attempt.id.clone(),
        expect: Expect::Any,
    };
    let txn = Txn {
        deletes: vec![delete(kind::ATTEMPTS), delete(kind::IMAGES)],
        ..Txn::default()
    };
    if let Err(error) = inner.store.submit(txn).await {
        tracing::error!(machine = attempt.machine, %error, "a test disc cannot be removed");
    }
    let over = Attempt {
        over: true,
        ..attempt.clone()
    };
    inner.attempts.changed(&over);
    inner.book.forget(attempt.attempt_id());
}

/// Until something has been read, or `patience` is over.
pub(super) async fn wait_for_a_read(inner: &Inner, reads: &AttemptReads, patience: Duration) {
    let first = reads.first.notified();
    tokio::pin!(first);
    first.as_mut().enable();
    if reads.now(inner.now()).first.is_none() {
        let _ = tokio::time::timeout(patience, first).await;
    }
}

/// Until nothing new is read for a while, for what has begun.
pub(super) async fn wait_for_silence(inner: &Inner, reads: &AttemptReads, at_most: Duration) {
    let end = tokio::time::Instant::now() + at_most;
    let (mut seen, mut since) = (0, tokio::time::Instant::now());
    while reads.now(inner.now()).first.is_some() && tokio::time::Instant::now() < end {
        let bytes = reads.now(inner.now()).bytes;
        if bytes != seen {
            (seen, since) = (bytes, tokio::time::Instant::now());
        } else if since.elapsed() >= QUIET {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
}
