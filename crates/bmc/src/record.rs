//! Recorded exchanges, without secrets.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::Value;

/// Longest answer that is kept, in bytes of JSON.
const LONGEST_RESPONSE: usize = 64 * 1024;
/// And by those who keep many.
const SHORT_RESPONSE: usize = 8 * 1024;

/// One request and its answer.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Exchange {
    /// Method.
    pub method: String,
    /// Path on the BMC.
    pub path: String,
    /// Request body, redacted at construction.
    pub request: Option<Value>,
    /// Status; none when no answer came.
    pub status: Option<u16>,
    /// Answer, redacted and cut to some KB.
    pub response: Option<Value>,
    /// Where the answer says that something is: a new session, a task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Seconds after which to ask again, where the answer says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
    /// Why there was no answer, or none to be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Milliseconds that it took.
    pub took_ms: u64,
}

impl Exchange {
    /// Redacts and cuts. `answer` is the status and the body, if an answer came.
    #[must_use]
    pub fn new(
        method: &str,
        path: &str,
        request: Option<&Value>,
        answer: Option<(u16, &Value)>,
        took: Duration,
        redactor: &Redactor,
    ) -> Self {
        Self {
            method: method.to_owned(),
            path: redactor.text(path),
            request: request.map(|v| redactor.value(v)),
            status: answer.map(|(status, _)| status),
            response: answer
                .filter(|(_, body)| !body.is_null())
                .map(|(_, body)| cut(redactor.value(body), LONGEST_RESPONSE)),
            location: None,
            retry_after_s: None,
            error: None,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Exchange {
    /// The same with an answer of a few KB at most.
    #[must_use]
    pub fn shortened(self) -> Self {
        Self {
            response: self.response.map(|response| cut(response, SHORT_RESPONSE)),
            ..self
        }
    }
}

fn cut(value: Value, longest: usize) -> Value {
    let text = value.to_string();
    match text.char_indices().nth(longest) {
        Some((end, _)) => Value::String(format!("{}…", &text[..end])),
        None => value,
    }
}

/// Is given every exchange of a conversation.
pub trait Recorder: Send + Sync {
    /// Keeps (or drops) one.
    fn record(&self, exchange: Exchange);

    /// Whether one like this would be kept: to redact what is dropped would be most of the work of a look at a BMC. `status`
    /// is none where no answer came.
    fn keeps(&self, _method: &str, _status: Option<u16>) -> bool {
        true
    }

    /// The BMC has answered: the address that the connection used, then the others that its name has and that were
    /// checked with it. A BMC may read an image from any of them.
    fn connected(&self, _addresses: &[IpAddr]) {}

    /// How far the machine has come, where a look at its power has shown it as well.
    fn progress(&self, _state: &str) {}
}

/// Drops everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRecorder;

impl Recorder for NoRecorder {
    fn record(&self, _: Exchange) {}

    fn keeps(&self, _: &str, _: Option<u16>) -> bool {
        false
    }
}

/// Takes secrets out of texts and JSON: by the member's name, by what the secret is, and by the form
/// of an image URL.
#[derive(Clone, Default)]
pub struct Redactor {
    known: Vec<(String, String)>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// From now on `secret` shows as `***` wherever a BMC repeats it. Very short ones are hidden only
    /// where the member's name says so: they would hide half of every text.
    pub fn hide(&mut self, secret: &str) {
        if secret.len() >= 4 && !self.known.iter().any(|(known, _)| known == secret) {
            self.known.push((secret.to_owned(), "***".to_owned()));
        }
    }

    /// [`Redactor::hide`] for a login's password, also as it goes over the wire: HTTP's Basic (RFC 7617 §2) and
    /// percent-encoded (RFC 3986 §2.1), since some BMCs put into an error what they were sent.
    pub fn hide_login(&mut self, user: &str, password: &str) {
        let percent = |upper: bool| -> String {
            let encoded = password.bytes().map(|b| match b {
                b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
                b if upper => format!("%{b:02X}"),
                b => format!("%{b:02x}"),
            });
            encoded.collect()
        };
        // Without padding: with it, it is found as well.
        let basic = STANDARD_NO_PAD.encode(format!("{user}:{password}"));
        for form in [
            &basic,
            &STANDARD_NO_PAD.encode(password),
            &percent(true),
            &percent(false),
        ] {
            self.hide(form);
        }
        self.hide(password);
    }

    /// A text without secrets.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut text = shorten_tokens(&hide_user_info(text));
        for (secret, shown) in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), shown);
            }
        }
        text
    }

    /// JSON without secrets.
    #[must_use]
    pub fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|v| self.value(v)).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, v)| {
                    let hidden = is_secret(name) && matches!(v, Value::String(_) | Value::Number(_));
                    (name.clone(), if hidden { Value::from("***") } else { self.value(v) })
                })
                .collect(),
            other => other.clone(),
        }
    }
}

/// Members that hold secrets in some vendor's JSON.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // `Password@Redfish.AllowableValues`, `PasswordName` and kin are annotations; hiding them does no harm.
    [
        "password",
        "passwd",
        "secret",
        "token",
        "passphrase",
        "privatekey",
        "community",
    ]
    .iter()
    .any(|s| name.contains(s))
}

/// `/TOKEN/boot.iso` becomes `/TOKENx…/boot.iso`: the folder of any file named `*.iso`.
fn shorten_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dot) = find_iso(rest) {
        let (before, after) = rest.split_at(dot);
        let folder = before.rfind('/').and_then(|end| {
            let start = before[..end].rfind('/')? + 1;
            let name = &before[start..end];
            let token = name.len() > 6
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            token.then_some((start, end))
        });
        match folder {
            Some((start, end)) => {
                out.push_str(&before[..start + 6]);
                out.push('…');
                out.push_str(&before[end..]);
            }
            None => out.push_str(before),
        }
        // `.iso` is four bytes of ASCII.
        out.push_str(&after[..4]);
        rest = &after[4..];
    }
    out.push_str(rest);
    out
}

fn find_iso(text: &str) -> Option<usize> {
    text.as_bytes().windows(4).position(|w| w.eq_ignore_ascii_case(b".iso"))
}

/// `http://user:password@host/` becomes `http://***@host/`.
fn hide_user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority = after.find(['/', '?', '#', ' ', '\'', '"']).unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(end) => {
                out.push_str("***");
                &after[end..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_secret_gets_into_an_exchange() {
        let mut redactor = Redactor::default();
        redactor.hide("hunter22");
        let token = "k3jH8sZq0PLm2Nv7Xw4TyB6cRd1Ef9Ga5UiOo_-AaBb";
        let request = json!({
            "UserName": "root", "Password": "x", "Image": format!("http://10.0.0.1:8091/{token}/boot.iso"),
            "Oem": {"Path": format!("/{token}/boot.ISO"), "Other": "http://me:pw@h/x"}
        });
        let answer = json!({
            "error": {"message": format!("cannot read 'http://h/{token}/boot.iso' with hunter22")},
            "Image": format!("10.0.0.1:443/{token}/boot.iso"), "X-Auth-Token": "abc", "Tokens": [{"Token": "abc"}],
            "Big": "x".repeat(20_000)
        });
        let exchange = Exchange::new(
            "POST",
            "/redfish/v1/x",
            Some(&request),
            Some((400, &answer)),
            Duration::ZERO,
            &redactor,
        );
        let text = serde_json::to_string(&exchange.shortened()).unwrap_or_default();
        for secret in [token, "hunter22", "\"x\"", "me:pw", "abc"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
        assert!(text.contains("/k3jH8s…/boot.iso") && text.contains("http://***@h/x") && text.contains("root"));
        assert!(text.len() < 10_000);
    }

    #[test]
    fn a_password_is_hidden_as_it_goes_over_the_wire() {
        let mut redactor = Redactor::default();
        redactor.hide_login("root", "p/ss wörd");
        for sent in [
            "p/ss wörd",
            "Basic cm9vdDpwL3NzIHfDtnJk",
            "cC9zcyB3w7ZyZA==",
            "p%2Fss%20w%C3%B6rd",
            "p%2fss%20w%c3%b6rd",
        ] {
            let shown = redactor.text(&format!("[{sent}] is malformed"));
            assert!(shown.contains("***"), "{shown}");
            assert!(
                !shown.contains("ss") && !shown.contains("3Nz") && !shown.contains("9zcyB"),
                "{shown}"
            );
        }
    }

    #[test]
    fn ordinary_texts_stay() {
        for text in [
            "/redfish/v1/Systems/437XR1138R2",
            "10.0.0.1/x.iso",
            "a.iso",
            "/short/x.iso",
            "ä.iso://",
            "://@",
            "",
        ] {
            assert_eq!(Redactor::default().text(text), text.replace("://@", "://***@"));
        }
    }
}
