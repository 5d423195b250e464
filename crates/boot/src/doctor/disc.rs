//! The test disc: a few sectors with an attempt of their own, so that the file plane tells who reads them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use isobar_image::{AttemptId, Base, BaseFile, BaseSpec, BlobDir, BuildError, Content, FileRole, Image};
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
const TEXT: &str = "A test disc of Isobar. It boots nothing: eject it if you see it in a machine.";

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

/// One small file, as small as a disc can be: a BMC may copy it whole over a slow line.
fn base(id: &str, blobs: &BlobDir) -> Result<Base, BuildError> {
    // Two discs are never the same: a BMC that keeps what it has read reads again.
    let file = BaseFile {
        path: "README.TXT".to_owned(),
        content: Content::Bytes(Bytes::from(format!("{TEXT}\r\n{id}\r\n"))),
        role: FileRole::Other,
    };
    let spec = BaseSpec {
        volume_id: "ISOBAR_DOCTOR".to_owned(),
        files: vec![file],
        compact: true,
        ..BaseSpec::default()
    };
    Base::build(&spec, blobs)
}

fn commit(inner: &Inner, uuid: &str, reached: &[IpAddr]) -> Result<(Attempt, Txn), Reason> {
    let id = AttemptId(rand::rng().random());
    let base = Arc::new(base(&id.to_string(), inner.bases.blobs()).map_err(defect)?);
    let image: Image = isobar_image::plan(&base, &[]).map_err(defect)?;
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_as_small_as_a_disc_can_be_and_whole() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = BlobDir::open(folder.path()).unwrap();
        let base = Arc::new(base("one", &blobs).unwrap());
        let image = isobar_image::plan(&base, &[]).unwrap();
        assert!(image.len() < 60 << 10, "{} bytes", image.len());
        let mut disc = Vec::new();
        image.write_range(0..image.len(), &blobs, &mut disc).unwrap();
        assert_eq!(&disc[0x8001..0x8006], b"CD001");
        // Volume space size (ECMA-119 §8.4.8): the disc ends where it says.
        let sectors = u32::from_le_bytes(disc[0x8050..0x8054].try_into().unwrap());
        assert_eq!(u64::from(sectors) * 2048, image.len());
        let file = base.file("README.TXT").unwrap();
        let text = String::from_utf8_lossy(&disc).into_owned();
        assert!(file.len > 0 && text.contains(TEXT) && text.contains("one\r\n"));
    }
}
