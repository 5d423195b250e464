//! QEMU's monitor (QMP): commands with answers, and why the machine went down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A monitor that does not answer for this long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// The monitor of one QEMU process.
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<(u64, OwnedWriteHalf)>,
    waiting: Waiting,
}

/// Reads the monitor until QEMU ends; the `reason` of the last SHUTDOWN event.
pub(crate) type Shutdown = JoinHandle<Option<String>>;

impl Qmp {
    /// Takes a fresh connection out of its negotiation mode.
    pub(crate) async fn open(stream: UnixStream) -> Result<(Arc<Self>, Shutdown), String> {
        let (reader, writer) = stream.into_split();
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            let mut reason = None;
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(message) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                if let Some(event) = message["event"].as_str() {
                    tracing::debug!(event, data = %message["data"], "QEMU");
                    if event == "SHUTDOWN" {
                        reason = message["data"]["reason"].as_str().map(str::to_owned);
                    }
                    continue;
                }
                let Some(id) = message["id"].as_u64() else { continue };
                let answer = match message["error"]["desc"].as_str() {
                    Some(error) => Err(error.to_owned()),
                    None => Ok(message["return"].clone()),
                };
                let asked = answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                if let Some(asked) = asked {
                    // Nobody waits any more: fine.
                    let _ = asked.send(answer);
                }
            }
            answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
            reason
        });
        let qmp = Arc::new(Self {
            writer: tokio::sync::Mutex::new((0, writer)),
            waiting,
        });
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok((qmp, reading))
    }

    /// Runs a command.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, String> {
        let (answer, answered) = oneshot::channel();
        {
            let mut writer = self.writer.lock().await;
            writer.0 += 1;
            let id = writer.0;
            self.waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(id, answer);
            let line = json!({"execute": command, "arguments": arguments, "id": id}).to_string() + "\n";
            writer
                .1
                .write_all(line.as_bytes())
                .await
                .map_err(|e| format!("{command}: {e}"))?;
        }
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer.map_err(|e| format!("{command}: {e}")),
            Ok(Err(_)) => Err(format!("{command}: QEMU ended")),
            Err(_) => Err(format!("{command}: no answer for {} s", PATIENCE.as_secs())),
        }
    }
}
