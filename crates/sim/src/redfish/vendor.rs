//! What vendors do otherwise: how their resources look, and their own actions.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Answer, put_in, schemes_of};
use crate::bmc::{Bmc, SlotId};
use crate::manners::Slots;
use crate::redfish::Refused;

const MEDIA: &str = "/redfish/v1/Managers/1/VirtualMedia";

/// Ids of the slots that are listed.
pub(crate) fn slots(bmc: &Bmc) -> &'static [&'static str] {
    let manners = &bmc.config.manners;
    match manners.slots {
        Slots::Config | Slots::Empty | Slots::Absent => &[],
        _ if manners.enable_first && !bmc.media_enabled() => &[],
        _ if manners.dead_slots => &["0", "1", "2"],
        _ => &["1", "2"],
    }
}

pub(crate) fn dress_collection(bmc: &Bmc, mut collection: Value) -> Value {
    if bmc.config.manners.slots == Slots::Config {
        collection["Oem"] = json!({"Supermicro": {"VirtualMediaConfig": {"@odata.id": format!("{MEDIA}/CfgCD")}}});
        if let Some(members) = collection.as_object_mut() {
            members.remove("Members");
            members.remove("Members@odata.count");
        }
    }
    collection
}

pub(crate) fn dress_manager(bmc: &Bmc, manager: &mut Value) {
    let manners = &bmc.config.manners;
    let mut own = Map::new();
    if manners.enable_first {
        let target = "/redfish/v1/Managers/1/Actions/Oem/AMIVirtualMedia.EnableRMedia";
        own.insert("#AMIVirtualMedia.EnableRMedia".into(), json!({ "target": target }));
    }
    if manners.boot_by_profile {
        let target = "/redfish/v1/Managers/1/Actions/Oem/EID_674_Manager.ImportSystemConfiguration";
        own.insert(
            "#OemManager.ImportSystemConfiguration".into(),
            json!({ "target": target }),
        );
    }
    if !own.is_empty() {
        manager["Actions"]["Oem"] = own.into();
    }
    if let Some(members) = manager.as_object_mut()
        && manners.slots == Slots::Absent
    {
        members.remove("VirtualMedia");
    }
}

/// Vendors' words for what is in a slot.
pub(crate) fn dress_slot(bmc: &Bmc, id: SlotId, slot: &mut Value) {
    let manners = &bmc.config.manners;
    if id == SlotId::Cd {
        if manners.dvd_only {
            slot["MediaTypes"] = json!(["DVD"]);
        }
        if manners.stale_image && slot["Image"].is_null() {
            slot["Image"] = bmc.last_image().into();
        }
    }
    if manners.none_image {
        for name in ["Image", "ImageName"] {
            if slot[name].is_null() {
                slot[name] = "None".into();
            }
        }
    }
    if manners.string_booleans {
        for name in ["Inserted", "WriteProtected"] {
            slot[name] = slot[name].to_string().into();
        }
    }
    let listed = &manners.image_protocols;
    if !listed.is_empty() && slot["Actions"]["#VirtualMedia.InsertMedia"].is_object() {
        slot["Actions"]["#VirtualMedia.InsertMedia"]["TransferProtocolType@Redfish.AllowableValues"] = json!(listed);
    }
    if matches!(manners.slots, Slots::Vmm | Slots::Config) {
        slot["Actions"] = json!({});
    }
    if manners.slots == Slots::Vmm && id == SlotId::Cd {
        let vendor = &manners.manufacturer;
        let target = format!("{MEDIA}/2/Oem/{vendor}/Actions/VirtualMedia.VmmControl");
        let control = json!({"#VirtualMedia.VmmControl": {"target": target}});
        slot["Oem"] = Map::from_iter([(vendor.clone(), json!({ "Actions": control }))]).into();
    }
}

/// What somebody's browser fills.
pub(crate) fn dead_slot() -> Value {
    json!({
        "@odata.type": "#VirtualMedia.v1_6_0.VirtualMedia",
        "@odata.id": format!("{MEDIA}/0"),
        "Id": "0", "Name": "KVM mapped", "MediaTypes": ["CD", "DVD"],
        "Image": null, "Inserted": false, "ConnectedVia": "NotConnected", "WriteProtected": true,
    })
}

pub(crate) fn config(bmc: &Bmc) -> Value {
    let (host, path) = bmc.share();
    let target = |verb: &str| json!({"target": format!("{MEDIA}/CfgCD/Actions/IsoConfig.{verb}")});
    json!({
        "@odata.id": format!("{MEDIA}/CfgCD"),
        "Id": "CfgCD", "Name": "CfgCD", "Host": host, "Path": path, "Username": "", "Password": "",
        "Actions": {"#IsoConfig.Mount": target("Mount"), "#IsoConfig.UnMount": target("UnMount")},
    })
}

/// A baseboard of GPUs, or another node behind the same BMC.
pub(crate) fn other_system(id: &str) -> Value {
    json!({
        "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
        "@odata.id": format!("/redfish/v1/Systems/{id}"),
        "Id": id, "Name": id, "SystemType": "Physical", "PowerState": "On",
        "Boot": {"BootOptions": {"@odata.id": format!("/redfish/v1/Systems/{id}/BootOptions")}},
    })
}

pub(crate) fn task(bmc: &Bmc, id: &str) -> Option<Value> {
    let worked = bmc.task(id.parse().ok()?)?;
    Some(json!({
        "@odata.type": "#Task.v1_7_4.Task",
        "@odata.id": format!("/redfish/v1/TaskService/Tasks/{id}"),
        "Id": id, "Name": format!("Task {id}"),
        "TaskState": if worked { "Completed" } else { "Exception" },
        "TaskStatus": if worked { "OK" } else { "Critical" },
    }))
}

fn promised(number: usize) -> Answer {
    let location = format!("/redfish/v1/TaskService/Tasks/{number}");
    let mut answer = Answer::json(202, json!({ "@odata.id": location }));
    answer.headers.push(("Location", location));
    answer
}

/// Huawei's connect and disconnect.
pub(crate) async fn vmm(bmc: &Arc<Bmc>, body: &Map<String, Value>) -> Result<Answer, Refused> {
    const ACTION: &str = "VirtualMedia.VmmControl";
    match body.get("VmmControlType").and_then(Value::as_str) {
        Some("Disconnect") => {
            bmc.eject(SlotId::Cd).await;
            Ok(Answer::empty())
        }
        Some("Connect") => {
            let image = body
                .get("Image")
                .ok_or_else(|| Refused::parameter_missing(ACTION, "Image"))?;
            let scheme = image
                .as_str()
                .and_then(|text| text.split("://").next())
                .unwrap_or_default();
            if !schemes_of(bmc).iter().any(|known| known == scheme) {
                let id = "iBMC.1.0.FileTransferProtocolMismatch";
                let text = "The specified file transfer protocol is not supported.";
                return Err(Refused::with(400, Some(id), Some(text)));
            }
            if bmc.is_flaky() {
                return Ok(promised(bmc.new_task(false)));
            }
            let unusable = Refused::parameter_value(ACTION, "Image", image);
            let done = put_in(bmc, SlotId::Cd, image, unusable).await;
            Ok(promised(bmc.new_task(done.is_ok())))
        }
        _ => Err(Refused::parameter_missing(ACTION, "VmmControlType")),
    }
}

/// Supermicro X10: where the image is.
pub(crate) fn configure(bmc: &Bmc, body: &Map<String, Value>) -> Result<Answer, Refused> {
    let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
    let host = text("Host").ok_or_else(|| Refused::property_missing("Host"))?;
    let path = text("Path").ok_or_else(|| Refused::property_missing("Path"))?;
    bmc.set_share(host, path);
    Ok(Answer::empty())
}

pub(crate) async fn mount(bmc: &Arc<Bmc>) -> Result<Answer, Refused> {
    let (host, path) = bmc.share();
    let image = Value::from(host + &path);
    put_in(bmc, SlotId::Cd, &image, Refused::property_value("Host", &image)).await?;
    Ok(Answer::empty())
}

pub(crate) async fn unmount(bmc: &Arc<Bmc>) -> Result<Answer, Refused> {
    bmc.eject(SlotId::Cd).await;
    Ok(Answer::empty())
}

/// Dell's configuration profile, of which the one-time boot alone is understood.
pub(crate) fn import_profile(bmc: &Bmc, body: &Map<String, Value>) -> Result<Answer, Refused> {
    const ACTION: &str = "OemManager.ImportSystemConfiguration";
    let profile = body.get("ImportBuffer").and_then(Value::as_str);
    let profile = profile.ok_or_else(|| Refused::parameter_missing(ACTION, "ImportBuffer"))?;
    let has = |name: &str, value: &str| profile.contains(&format!("ServerBoot.1#{name}\">{value}</Attribute>"));
    // White space between elements makes the job fail.
    let tight = !profile.split('>').any(|part| part.starts_with(char::is_whitespace));
    let works = tight && has("BootOnce", "Enabled") && has("FirstBootDevice", "VCD-DVD");
    if works {
        bmc.boot_virtual_cd_once();
    }
    Ok(promised(bmc.new_task(works)))
}
