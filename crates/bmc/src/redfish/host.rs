//! What the machine behind the BMC is like: boot mode, override, Secure Boot, how far it has come; and the BMC's own
//! reset.

use serde_json::{Value, json};

use super::boot;
use super::discover::Found;
use super::json;
use super::power::{self, listed_types};
use super::task;
use super::transport::Transport;
use crate::{BmcError, ErrorClass, HostState, SecureBoot};

pub(crate) async fn state(http: &mut Transport, found: &Found) -> Result<HostState, BmcError> {
    let system = http.get(&found.system_uri).await?.body;
    let secure = match json::link(&system, &["SecureBoot"]) {
        Some(uri) => http.get_if_there(&uri).await?.map(|reply| secure_boot(&reply.body)),
        None => None,
    };
    let mut state = HostState {
        power: power::state_of(&system),
        secure_boot: secure,
        boot_progress: progress(&system),
        ..HostState::default()
    };
    boot::describe(http, found, &mut state).await?;
    Ok(state)
}

fn secure_boot(body: &Value) -> SecureBoot {
    let current = json::text(body, &["SecureBootCurrentBoot"]).map(|now| now.eq_ignore_ascii_case("Enabled"));
    SecureBoot {
        enabled: json::flag(body, &["SecureBootEnable"]),
        in_force: current,
        mode: json::text(body, &["SecureBootMode"]).map(str::to_owned),
    }
}

/// Tells whoever records how far the machine has come, where the system that was read says so.
pub(crate) fn tell_progress(http: &Transport, system: &Value) {
    if let Some(state) = progress(system) {
        http.recorder().progress(&state);
    }
}

/// `BootProgress.LastState`; where that is `OEM`, the vendor's own word. HPE has a word of its own alone.
fn progress(system: &Value) -> Option<String> {
    let standard = match json::text(system, &["BootProgress", "LastState"]) {
        Some(state) if state.eq_ignore_ascii_case("OEM") => {
            json::text(system, &["BootProgress", "OemLastState"]).or(Some(state))
        }
        other => other,
    };
    let hpe = || {
        ["Hpe", "Hp"]
            .iter()
            .find_map(|key| json::text(system, &["Oem", key, "PostState"]))
    };
    standard.or_else(hpe).map(str::to_owned)
}

/// Restarts the BMC itself. What is in its virtual CD is lost on most.
pub(crate) async fn reset_bmc(http: &mut Transport, found: &Found) -> Result<(), BmcError> {
    let none = |http: &Transport| http.error(ErrorClass::Unsupported, "its manager has no reset action");
    let Some(uri) = &found.manager_uri else {
        return Err(none(http));
    };
    let reset = json::at(&found.manager, &["Actions", "#Manager.Reset"]).clone();
    let target = json::action_target(&reset).ok_or_else(|| none(http))?;
    let listed = listed_types(http, &reset).await?;
    // Softly first; whatever it has for the rest.
    let kinds: Vec<&str> = ["GracefulRestart", "ForceRestart"]
        .into_iter()
        .filter(|kind| listed.as_ref().is_none_or(|listed| listed.iter().any(|l| l == kind)))
        .collect();
    let mut refused = None;
    for kind in kinds {
        let reply = http.post(&target, Some(&json!({"ResetType": kind}))).await?;
        let reply = task::finish(http, reply).await?;
        if reply.is_good() {
            // Its sessions went with it.
            http.forget_login();
            return Ok(());
        }
        let error = http.refusal("POST", &target, &reply);
        if !matches!(error.class, ErrorClass::Refused | ErrorClass::Unsupported) {
            return Err(error);
        }
        refused.get_or_insert(error);
    }
    Err(refused.unwrap_or_else(|| {
        let listed = listed.unwrap_or_default().join(", ");
        http.error(
            ErrorClass::Unsupported,
            format!("{uri} offers no restart but: {listed}"),
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_and_secure_boot_as_vendors_write_them() {
        for (system, want) in [
            (json!({"BootProgress": {"LastState": "OSRunning"}}), Some("OSRunning")),
            (
                json!({"BootProgress": {"LastState": "OEM", "OemLastState": "UEFI: 0x42"}}),
                Some("UEFI: 0x42"),
            ),
            (
                json!({"BootProgress": {"LastState": "None"}, "Oem": {"Hpe": {"PostState": "FinishedPost"}}}),
                Some("FinishedPost"),
            ),
            (json!({"BootProgress": null, "Oem": 3}), None),
        ] {
            assert_eq!(progress(&system).as_deref(), want, "{system}");
        }
        let on = secure_boot(
            &json!({"SecureBootEnable": "true", "SecureBootCurrentBoot": "Enabled", "SecureBootMode": "UserMode"}),
        );
        assert_eq!(
            (on.enabled, on.in_force, on.mode.as_deref()),
            (Some(true), Some(true), Some("UserMode"))
        );
        assert_eq!(secure_boot(&json!("odd")), SecureBoot::default());
    }
}
