//! What a BMC says before a login: whether it is one at all.

use std::sync::Arc;

use serde::Serialize;

use super::transport::{ROOT, Transport};
use super::{Options, json};
use crate::{BmcError, Endpoint, ErrorClass, Recorder};

/// The service root, as anybody may read it (DSP0266 §13.3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Greeting {
    /// `RedfishVersion`.
    pub version: String,
    /// `Vendor`.
    pub vendor: String,
    /// `Product`.
    pub product: String,
    /// UUID of the service.
    pub uuid: String,
}

/// Reads the service root of what may be a BMC. Nothing of the login is sent.
///
/// # Errors
/// As [`super::connect`]; [`ErrorClass::Protocol`] for what is there and is no Redfish.
pub async fn greet(endpoint: Endpoint, recorder: Arc<dyn Recorder>, options: Options) -> Result<Greeting, BmcError> {
    let mut http = Transport::open(endpoint, recorder, options).await?;
    http.begin("look who is there");
    let root = match http.get(ROOT).await {
        Ok(reply) => reply.body,
        // Against the standard, some want a login even here; they say so in Redfish's words.
        Err(error) if matches!(error.status, Some(401 | 403)) && error.message_id.is_some() => {
            return Ok(Greeting::default());
        }
        Err(error) => return Err(error),
    };
    let text = |name: &str| json::text(&root, &[name]).unwrap_or_default().to_owned();
    if text("RedfishVersion").is_empty() && json::link(&root, &["Systems"]).is_none() {
        return Err(http.error(ErrorClass::Protocol, "what answers there is no Redfish service"));
    }
    Ok(Greeting {
        version: text("RedfishVersion"),
        vendor: text("Vendor"),
        product: text("Product"),
        uuid: text("UUID"),
    })
}
