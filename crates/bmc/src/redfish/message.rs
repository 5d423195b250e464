//! A BMC's own words: `ExtendedInfo`, message ids, and what they mean.

use std::time::Duration;

use serde_json::Value;

use super::json;
use crate::error::OF_SCHEME;

/// One message of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Last dotted part of the MessageId.
    pub(crate) id: String,
    pub(crate) text: String,
    pub(crate) resolution: Option<String>,
    /// Members that it is about, without `#/`.
    pub(crate) related: Vec<String>,
    /// The BMC calls it critical.
    pub(crate) critical: bool,
}

impl Message {
    /// Whether it is about a member, by its related properties or in its words.
    pub(crate) fn names(&self, member: &str) -> bool {
        self.related
            .iter()
            .any(|r| json::last_part(r).eq_ignore_ascii_case(member))
            || self.text.contains(member)
    }

    fn has_id(&self, ids: &[&str]) -> bool {
        ids.iter().any(|id| self.id.eq_ignore_ascii_case(id))
    }

    /// Says that something that was sent must not be.
    pub(crate) fn rejects_members(&self) -> bool {
        self.has_id(&[
            "ActionParameterNotSupported",
            "ActionParameterUnknown",
            "ActionParameterDuplicate",
            "PropertyUnknown",
            "PropertyNotWritable",
            "PropertyDuplicate",
            "UnrecognizedRequestBody",
        ])
    }
}

/// All messages of an answer, wherever the BMC put them.
pub(crate) fn messages(body: &Value) -> Vec<Message> {
    let error = json::at(body, &["error"]);
    let mut found = Vec::new();
    for holder in [error, body] {
        match json::at(holder, &["@Message.ExtendedInfo"]) {
            Value::Array(items) => found.extend(items.iter().filter_map(message)),
            one => found.extend(message(one)),
        }
    }
    // Some have nothing but the error's own code and message.
    if found.is_empty() {
        found.extend(message(error));
    }
    found
}

fn message(value: &Value) -> Option<Message> {
    if let Some(text) = value.as_str() {
        return Some(Message {
            text: text.to_owned(),
            ..Message::default()
        });
    }
    let id = json::text(value, &["MessageId"])
        .or(json::text(value, &["code"]))
        .unwrap_or_default();
    let text = json::text(value, &["Message"])
        .or(json::text(value, &["message"]))
        .unwrap_or_default();
    if id.is_empty() && text.is_empty() {
        return None;
    }
    let severity = json::text(value, &["MessageSeverity"])
        .or(json::text(value, &["Severity"]))
        .unwrap_or_default();
    Some(Message {
        id: id.rsplit('.').next().unwrap_or_default().to_owned(),
        text: text.to_owned(),
        resolution: json::text(value, &["Resolution"]).map(str::to_owned),
        related: json::texts(value, &["RelatedProperties"])
            .unwrap_or_default()
            .iter()
            .map(|r| r.trim_start_matches('#').trim_start_matches('/').to_owned())
            .collect(),
        critical: severity.eq_ignore_ascii_case("critical"),
    })
}

/// Conditions that pass by themselves: wait so long, so many times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Passing {
    pub(crate) wait: Duration,
    pub(crate) tries: u32,
}

const fn passing(seconds: u64, tries: u32) -> Passing {
    Passing {
        wait: Duration::from_secs(seconds),
        tries,
    }
}

/// Message ids of passing conditions.
const PASSING: &[(&str, Passing)] = &[
    ("SYS518", passing(10, 12)),                        // iDRAC: not ready
    ("SWC0700", passing(10, 12)),                       // iDRAC: starting up
    ("InvalidOperationForSystemState", passing(5, 6)),  // iLO
    ("UnableToModifyDuringSystemPOST", passing(10, 6)), // iLO: in POST
    ("LC068", passing(15, 35)),                         // iDRAC: configuration pending
    ("RAC0679", passing(15, 35)),                       // iDRAC: a job is running
    ("ConnectionOccupied", passing(4, 3)),              // iBMC
    ("ResourceInUse", passing(5, 6)),                   // DMTF
    ("ServiceTemporarilyUnavailable", passing(5, 6)),   // DMTF
    ("ServiceInUnknownState", passing(5, 3)),           // DMTF
    ("ResourceNotReadyRetry", passing(5, 6)),           // iLO
];

/// Whether an answer says "not now".
pub(crate) fn passes(status: u16, messages: &[Message]) -> Option<Passing> {
    let named = messages.iter().find_map(|m| {
        let holds = |id: &str| m.id.eq_ignore_ascii_case(id) || m.text.contains(id);
        PASSING.iter().find(|(id, _)| holds(id)).map(|(_, p)| *p)
    });
    named.or_else(|| (status == 503).then_some(passing(5, 12)))
}

/// Whether a login was refused because too many are logged in.
pub(crate) fn is_session_limit(messages: &[Message]) -> bool {
    messages.iter().any(|m| {
        let text = m.text.to_ascii_lowercase();
        m.has_id(&["SessionLimitExceeded", "RAC0218"])
            || text.contains("rac0218")
            || (text.contains("session")
                && ["maximum", "limit", "exceed", "too many"]
                    .iter()
                    .any(|w| text.contains(w)))
    })
}

/// Whether it is a matter of licence or rights.
pub(crate) fn is_licence(messages: &[Message]) -> bool {
    messages.iter().any(|m| {
        let text = m.text.to_ascii_lowercase();
        text.contains("licens") || text.contains("licenc") || m.id.to_ascii_lowercase().contains("license")
    })
}

/// Whether the image's scheme is the trouble.
pub(crate) fn is_scheme(messages: &[Message]) -> bool {
    let values = [
        "ActionParameterValueNotInList",
        "ActionParameterValueTypeError",
        "PropertyValueNotInList",
    ];
    messages
        .iter()
        .any(|m| m.has_id(&OF_SCHEME) || (m.has_id(&values) && m.names("TransferProtocolType")))
}

/// Whether nothing more is asked for: power-on of what is on, and such.
pub(crate) fn is_no_operation(messages: &[Message]) -> bool {
    messages.iter().any(|m| m.has_id(&["NoOperation"]))
}

/// The words of an answer, for an error.
pub(crate) fn words(messages: &[Message], body: &Value) -> String {
    let mut words = Vec::new();
    for m in messages
        .iter()
        .filter(|m| !m.text.is_empty() || !m.id.is_empty())
        .take(3)
    {
        let text = if m.text.is_empty() { &m.id } else { &m.text };
        if !words.contains(text) {
            words.push(text.clone());
        }
    }
    if words.is_empty()
        && let Some(text) = body.as_str()
    {
        words.push(text.chars().take(200).collect());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_found_wherever_they_are() {
        let info = json!({"MessageId": "Base.1.8.ActionParameterMissing", "Message": "m",
            "RelatedProperties": ["#/TransferProtocolType"], "Severity": "Critical"});
        for body in [
            json!({"error": {"@Message.ExtendedInfo": [info]}}),
            json!({"error": {"@Message.ExtendedInfo": info}}),
            json!({"@Message.ExtendedInfo": [info]}),
        ] {
            let found = messages(&body);
            assert_eq!(found.len(), 1);
            assert_eq!(
                (found[0].id.as_str(), found[0].critical),
                ("ActionParameterMissing", true)
            );
            assert!(found[0].names("TransferProtocolType"));
        }
        assert_eq!(messages(&json!({"error": {"code": "x.Y", "message": "z"}}))[0].id, "Y");
        assert_eq!(messages(&json!([])), []);
    }

    #[test]
    fn busy_is_told_from_refused() {
        let of = |id: &str| messages(&json!({"@Message.ExtendedInfo": [{"MessageId": id, "Message": "t"}]}));
        assert!(passes(400, &of("iLO.2.14.UnableToModifyDuringSystemPOST")).is_some());
        assert!(passes(500, &of("IDRAC.2.8.SYS518")).is_some());
        assert!(passes(503, &[]).is_some());
        assert_eq!(passes(400, &of("Base.1.8.GeneralError")), None);
        assert!(is_session_limit(&of("IDRAC.2.8.RAC0218")));
        let text = json!({"error": {"message": "The maximum number of user sessions is reached"}});
        assert!(is_session_limit(&messages(&text)));
    }
}
