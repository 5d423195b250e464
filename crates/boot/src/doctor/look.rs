//! From what a BMC answered to a row of the report: pure functions.

use std::time::{Duration, SystemTime};

use isobar_bmc::redfish::Profile;
use isobar_bmc::{BootTarget, Endpoint, HostState, PowerState, Probe, TlsTrust};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Row, TELLING};
use crate::gate::Verb;
use crate::reads::AttemptReads;
use crate::reason::Reason;
use crate::record::Attempt;
use crate::settings::param;
use crate::state::Inner;
use crate::verdict::{self, Facts};

/// A clock that is off by more makes certificates look expired or not valid yet, and logs hard to read.
const SKEW: i64 = 300;

/// Vendor, and words of a licence that includes virtual media.
pub(super) type Licence = (&'static str, &'static [&'static str]);

/// Where virtual media is licensed (vendors' documentation; docs/bmc-support.md).
pub(super) const LICENCES: &[Licence] = &[
    ("dell", &["enterprise", "datacenter"]),
    ("hpe", &["advanced", "scale-out", "essentials"]),
    ("lenovo", &["enterprise", "platinum", "premier"]),
    ("supermicro", &["sft-dcms-single", "sft-oob-lic"]),
];

pub(super) fn reach_row(endpoint: &Endpoint, by: &str, probe: &Probe) -> Row {
    let ipmi = probe.redfish_version.is_empty() && probe.system.is_empty();
    let name = match ipmi {
        true => endpoint.ipmi_name(),
        false => endpoint.url.origin().ascii_serialization(),
    };
    let tls = match (&endpoint.tls, endpoint.url.scheme()) {
        _ if ipmi => "over IPMI: it has no Redfish, or was set to go without",
        (_, "http") => "over plain HTTP: its login can be overheard",
        (TlsTrust::Insecure, _) => "TLS, any certificate (isobar/bmc-tls is `any`)",
        (TlsTrust::FirstUse, _) => "TLS, its certificate was pinned at first use",
        (TlsTrust::Authority(_), _) => "TLS, its certificate is signed by the CA in isobar/bmc-ca",
        (TlsTrust::Pinned(_), _) => "TLS, its certificate is the pinned one",
    };
    Row::good("reach", format!("{name} answers from {by}; {tls}"))
}

/// What is known from earlier inserts on this maker, model and firmware.
pub(super) fn profile_row(known: Option<&Profile>) -> Row {
    let Some(known) = known else {
        return Row::note(
            "profile",
            "nothing is known of this maker, model and firmware yet: its first insert finds out",
            "",
        );
    };
    let slot = known
        .slot
        .as_ref()
        .map(|slot| format!(" in {slot}"))
        .unwrap_or_default();
    Row::good(
        "profile",
        format!(
            "an insert on this maker, model and firmware took {}{slot}",
            taken(known)
        ),
    )
}

/// The payload that was taken, and what was refused on the way.
fn taken(known: &Profile) -> String {
    let with = match known.insert_members.as_slice() {
        [] => "Image alone".to_owned(),
        members => format!("Image, {}", members.join(", ")),
    };
    match known.refused_schemes.as_slice() {
        [] => with,
        refused => format!("{with}; refuses {}", refused.join(", ")),
    }
}

pub(super) fn model_row(probe: &Probe) -> Row {
    let or = |text: &str| if text.is_empty() { "?" } else { text }.to_owned();
    let redfish = match probe.redfish_version.as_str() {
        "" => String::new(),
        version => format!(", Redfish {version}"),
    };
    let uuid = match &probe.system_uuid {
        Some(uuid) => format!(", UUID {uuid}"),
        None => String::new(),
    };
    Row::good(
        "model",
        format!(
            "{} {}, firmware {}{redfish}{uuid}",
            or(&probe.vendor),
            or(&probe.model),
            or(&probe.firmware)
        ),
    )
}

/// Time of a BMC, also without an offset in it.
fn time_of(answer: &Value) -> Option<OffsetDateTime> {
    let text = answer.get("DateTime")?.as_str()?;
    let offset = answer.get("DateTimeLocalOffset").and_then(Value::as_str).unwrap_or("Z");
    OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| OffsetDateTime::parse(&format!("{text}{offset}"), &Rfc3339))
        .ok()
}

pub(super) fn clock_row(answer: Result<Value, Reason>, now: SystemTime) -> Row {
    let answer = match answer {
        Ok(answer) => answer,
        Err(reason) => return Row::note("clock", reason.message, ""),
    };
    let Some(time) = time_of(&answer) else {
        return Row::note("clock", format!("its time cannot be read: {}", answer["DateTime"]), "");
    };
    let skew = (time - OffsetDateTime::from(now)).whole_seconds();
    let way = if skew < 0 { "behind" } else { "ahead" };
    match skew.abs() {
        0..=2 => Row::good("clock", "as ours"),
        off @ ..=SKEW => Row::good("clock", format!("{off} s {way}")),
        off => Row::bad(
            "clock",
            format!(
                "{off} s {way} of this server's ({})",
                answer["DateTime"].as_str().unwrap_or_default()
            ),
            "set NTP on the BMC: images over https fail on a clock that is this wrong, and its event log misleads",
        ),
    }
}

pub(super) fn licence_row(answer: Result<Value, Reason>, vendor: &str, table: &[Licence]) -> Row {
    let answer = match answer {
        Ok(answer) => answer,
        Err(reason) => return Row::note("licence", reason.message, reason.hint),
    };
    let names: Vec<&str> = answer
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let vendor = vendor.to_ascii_lowercase();
    let needed = table
        .iter()
        .find(|(name, _)| vendor.contains(name))
        .map(|(_, words)| *words);
    let includes = |words: &[&str]| {
        let said = names.join("\n").to_ascii_lowercase();
        words.iter().any(|word| said.contains(word))
    };
    match needed {
        _ if names.is_empty() => Row::note("licence", "it lists none: many need none, or do not say", ""),
        Some(words) if !includes(words) => Row::note(
            "licence",
            format!("{}: virtual media may not be in it", names.join(", ")),
            format!(
                "if the insert below is refused: this maker has it in {}",
                words.join(" or ")
            ),
        ),
        _ => Row::good("licence", names.join(", ")),
    }
}

pub(super) fn slots_row(answer: &Result<Value, Reason>) -> Row {
    let slots = match answer {
        Ok(slots) => slots,
        Err(reason) => return Row::failed("slots", reason),
    };
    let text = |slot: &Value, name: &str| slot[name].as_str().unwrap_or_default().to_owned();
    let each: Vec<String> = slots
        .as_array()
        .into_iter()
        .flatten()
        .map(|slot| {
            let state = if slot["Inserted"] == Value::Bool(true) {
                "taken"
            } else {
                "empty"
            };
            format!("{} ({}, {state})", text(slot, "Uri"), text(slot, "Way"))
        })
        .collect();
    match each.is_empty() {
        true => Row::note(
            "slots",
            "it lists none until remote media is switched on: the insert does that, and it stays on",
            "",
        ),
        false => Row::good("slots", each.join(", ")),
    }
}

pub(super) fn machine_row(host: &HostState) -> Row {
    let power = match host.power {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::PoweringOn => "powering on",
        PowerState::PoweringOff => "powering off",
        PowerState::Unknown => "its power is not told",
    };
    let mode = host.boot_mode.as_deref().unwrap_or("not told");
    let secure = match host.secure_boot.as_ref().and_then(|s| s.in_force.or(s.enabled)) {
        Some(true) => ", Secure Boot on",
        Some(false) => ", Secure Boot off",
        None => "",
    };
    let http = if host.http_boot { ", UEFI HTTP boot offered" } else { "" };
    Row::good("machine", format!("{power}, boot mode {mode}{secure}{http}"))
}

pub(super) fn insert_row(took: Duration, learnt: Option<&Profile>, authority: &str) -> Row {
    let with = learnt.map_or_else(|| "Image alone".to_owned(), taken);
    let kept = match learnt {
        Some(_) => "; kept for its siblings of this model and firmware",
        None => "",
    };
    Row::good(
        "insert",
        format!(
            "a test disc of {authority} is in after {:.1} s; payload {with}{kept}",
            took.as_secs_f64()
        ),
    )
}

/// Whether it was read, how fast, and from where.
pub(super) fn read_rows(
    inner: &Inner,
    attempt: &Attempt,
    reads: &AttemptReads,
    host: &HostState,
    patience: Duration,
) -> Vec<Row> {
    let now = reads.now(inner.now());
    let (authority, waited) = (&attempt.authority, patience.as_secs_f64());
    let Some(first) = now.first else {
        if let Some(reader) = now.refused {
            let next = format!(
                "if the BMC reads from {reader} (NAT, a second address), add it to {}",
                param::IMAGE_PEERS
            );
            let text = format!("{reader} asked for it and was refused: it is not the BMC's address");
            return vec![Row::bad("read", text, next)];
        }
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(attempt.created_ms);
        let knock = inner.book.knock_of(&attempt.readers(), since);
        if host.power == PowerState::Off && knock.is_none() {
            let text =
                "nothing yet: its machine is off, and many BMCs read only for a machine that asks; a boot will show it";
            return vec![Row::note("read", text, "")];
        }
        let bmc = attempt.bmc_ips.first().map(ToString::to_string).unwrap_or_default();
        let facts = Facts {
            machine: "the machine",
            bmc: &format!("BMC {bmc}"),
            authority,
            touched: reads.touched(),
            knock,
            ..Facts::default()
        };
        let verdict = verdict::never_read(&facts);
        let text = match knock {
            Some(_) => verdict.message,
            None => format!(
                "it says that the disc is in, and has asked {authority} for nothing in {waited:.0} s though its machine is on"
            ),
        };
        let next = match knock {
            Some(_) => verdict.hint,
            None => format!(
                "check that the BMC reaches {authority} (route, VLAN, firewall), else set boot-virtual-iso-url to an \
                 address that it can; a machine that stands in its firmware's setup reads nothing either"
            ),
        };
        return vec![Row::bad("read", text, next)];
    };
    let mut rows = vec![Row::good(
        "read",
        format!("{} bytes, seen by the file plane", now.bytes),
    )];
    let last = now.progress.unwrap_or(first);
    let time = last.duration_since(first).unwrap_or_default().as_secs_f64();
    rows.push(match now.bytes {
        bytes if bytes >= TELLING && time > 0.0 => Row::good(
            "rate",
            format!("{:.1} MB/s over {bytes} bytes", bytes as f64 / time / 1e6),
        ),
        _ => Row::note(
            "rate",
            "too little was read of the small test disc to tell: a boot shows it",
            "",
        ),
    });
    let own = attempt.bmc_ips.first().map(ToString::to_string).unwrap_or_default();
    rows.push(match now.elsewhere {
        Some(reader) if !reads.touched().by_the_bmc => Row::note(
            "from",
            format!("it was read from {reader}, not from the BMC's own {own}: NAT, a proxy, or a second address"),
            format!("add it to {}, so that its reads count as the BMC's", param::IMAGE_PEERS),
        ),
        _ => Row::good("from", format!("the BMC reached us from {own}")),
    });
    rows
}

/// An override that could not be put back is not tried.
pub(super) fn untried_override(before: &HostState) -> Option<Row> {
    let note = |text: &str| Some(Row::note("override", text, ""));
    if before.boot_by_profile {
        return note("set by a configuration profile, which shows nowhere and cannot be taken back: not tried");
    }
    let Some(enabled) = before.boot_enabled.as_deref() else {
        return note("it does not show its one-time boot, so it could not be put back: not tried");
    };
    let target = before.boot_target.as_deref().unwrap_or("None");
    match enabled {
        "Disabled" => None,
        _ if target == "None" || source(target).is_some() => None,
        _ => Some(Row::note(
            "override",
            format!("somebody has set it to {target} ({enabled}), which was left alone"),
            "clear it if nobody wants it, then run this again",
        )),
    }
}

fn source(target: &str) -> Option<BootTarget> {
    match target {
        "Cd" | "UsbCd" | "UefiCd" => Some(BootTarget::Cd),
        "Pxe" => Some(BootTarget::Pxe),
        "Hdd" => Some(BootTarget::Disk),
        _ => None,
    }
}

/// What puts an override back.
pub(super) fn back_to(before: &HostState) -> Verb {
    let target = before.boot_target.as_deref().and_then(source);
    match (before.boot_enabled.as_deref(), target) {
        (Some("Once"), Some(target)) => Verb::BootOnce(target),
        (Some("Continuous"), Some(target)) => Verb::BootAlways(target),
        _ => Verb::ClearOverride,
    }
}

fn shown(host: &HostState) -> String {
    let word = |value: &Option<String>| value.clone().unwrap_or_else(|| "not told".to_owned());
    format!("{} {}", word(&host.boot_target), word(&host.boot_enabled))
}

pub(super) fn override_row(now: &HostState) -> Row {
    let target = now.boot_target.as_deref().unwrap_or_default();
    match (now.boot_enabled.as_deref(), target.contains("Cd")) {
        (Some("Once" | "Continuous"), true) => Row::good("override", format!("taken, and read back as {}", shown(now))),
        _ => Row::bad(
            "override",
            format!("taken, and read back as {}", shown(now)),
            "a pending BIOS change or a locked boot order may stand against it: look at the BMC's own pages",
        ),
    }
}

pub(super) fn back_row(before: &HostState, now: &HostState) -> Row {
    let off = |host: &HostState| {
        host.boot_enabled.as_deref().is_none_or(|e| e == "Disabled") || host.boot_target.as_deref() == Some("None")
    };
    let same = before.boot_enabled == now.boot_enabled && before.boot_target == now.boot_target;
    let mode = before.boot_mode.is_none() || before.boot_mode == now.boot_mode;
    if mode && (same || (off(before) && off(now))) {
        return Row::good("put back", format!("the boot override is as it was ({})", shown(now)));
    }
    Row::bad(
        "put back",
        format!("the boot override was {}, and is {}", shown(before), shown(now)),
        "set it by hand in the BMC's pages before the machine starts next",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::doctor::Finding;

    #[test]
    fn a_clock_is_read_as_bmcs_write_it() {
        let now = SystemTime::from(OffsetDateTime::parse("2026-06-01T12:00:00Z", &Rfc3339).unwrap());
        for (time, offset, wanted) in [
            ("2026-06-01T12:00:01Z", "+00:00", Finding::Good),
            ("2026-06-01T07:00:30-05:00", "-05:00", Finding::Good),
            ("2026-06-01T14:00:00", "+02:00", Finding::Good),
            ("2026-06-01T12:10:00Z", "+00:00", Finding::Bad),
            ("1970-01-01T00:00:00Z", "+00:00", Finding::Bad),
            ("yesterday", "+00:00", Finding::Note),
        ] {
            let answer = json!({"DateTime": time, "DateTimeLocalOffset": offset});
            let row = clock_row(Ok(answer), now);
            assert_eq!(row.finding, wanted, "{time}: {row:?}");
        }
        let row = clock_row(Ok(json!({"DateTime": "2026-06-01T11:00:00Z"})), now);
        assert!(row.text.starts_with("3600 s behind"), "{row:?}");
    }

    #[test]
    fn a_licence_that_lacks_virtual_media_is_told_and_no_more() {
        let row = |names: Value, vendor: &str| licence_row(Ok(names), vendor, LICENCES);
        assert_eq!(
            row(json!(["iDRAC9 Enterprise License"]), "Dell Inc.").finding,
            Finding::Good
        );
        let express = row(json!(["iDRAC9 Express License"]), "Dell Inc.");
        assert!(
            express.finding == Finding::Note && express.next.contains("enterprise"),
            "{express:?}"
        );
        assert_eq!(row(json!(["iLO Standard"]), "HPE").finding, Finding::Note);
        assert_eq!(row(json!([]), "OpenBMC").finding, Finding::Note);
        assert_eq!(row(json!(["anything"]), "OpenBMC").finding, Finding::Good);
    }

    #[test]
    fn an_override_that_could_not_be_put_back_is_not_tried() {
        let host = |enabled: Option<&str>, target: &str| HostState {
            boot_enabled: enabled.map(str::to_owned),
            boot_target: Some(target.to_owned()),
            ..HostState::default()
        };
        assert!(untried_override(&host(Some("Disabled"), "BiosSetup")).is_none());
        assert!(untried_override(&host(Some("Once"), "BiosSetup")).is_some());
        assert!(untried_override(&host(None, "None")).is_some());
        let profile = HostState {
            boot_by_profile: true,
            ..host(Some("Disabled"), "None")
        };
        assert!(untried_override(&profile).is_some());
        assert_eq!(back_to(&host(Some("Disabled"), "None")), Verb::ClearOverride);
        assert_eq!(back_to(&host(Some("Once"), "Pxe")), Verb::BootOnce(BootTarget::Pxe));
        assert_eq!(
            back_to(&host(Some("Continuous"), "Hdd")),
            Verb::BootAlways(BootTarget::Disk)
        );
        let was = host(Some("Disabled"), "None");
        assert_eq!(back_row(&was, &host(Some("Disabled"), "Cd")).finding, Finding::Good);
        assert_eq!(back_row(&was, &host(Some("Once"), "Cd")).finding, Finding::Bad);
    }
}
