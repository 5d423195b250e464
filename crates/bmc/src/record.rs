//! Recorded exchanges, without secrets.

/// One request and its answer.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Exchange {
    /// Method.
    pub method: String,
    /// Path on the BMC.
    pub path: String,
    /// Request body, redacted at construction.
    pub request: Option<serde_json::Value>,
    /// Status; none when no answer came.
    pub status: Option<u16>,
    /// Answer, redacted and cut to a few KB.
    pub response: Option<serde_json::Value>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

/// Is given every exchange of a conversation.
pub trait Recorder: Send + Sync {
    /// Keeps (or drops) one.
    fn record(&self, exchange: Exchange);
}
