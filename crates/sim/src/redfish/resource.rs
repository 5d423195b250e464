//! The resource tree: which paths there are and what they show. Types are versions that DMTF's
//! 2024 schemas (DSP8010) have.

use serde_json::{Value, json};

use super::{inventory, vendor};
use crate::bmc::{Bmc, Power, SlotId};
use crate::log::BootLog;
use crate::manners::{Manners, Slots};

const SETTINGS: &str = "/redfish/v1/Systems/1/Settings";

/// Something with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Versions,
    Root,
    Odata,
    Metadata,
    SessionService,
    Sessions,
    Session(String),
    AccountService,
    Accounts,
    Account,
    Roles,
    Role,
    Systems,
    System,
    Settings,
    Reset,
    SystemNics,
    SystemNic,
    ChassisCollection,
    Chassis,
    Managers,
    Manager,
    ManagerReset,
    VirtualMedia,
    Slot(SlotId),
    Insert(SlotId),
    Eject(SlotId),
    DeadSlot,
    Vmm,
    Config,
    Mount,
    Unmount,
    EnableMedia,
    ImportProfile,
    OtherSystem(String),
    Task(String),
    /// What never changes: [`inventory`].
    Part(&'static str),
    Registries,
    Registry,
    TaskService,
    Tasks,
}

impl Resource {
    /// By path; case and a slash at the end do not matter.
    pub(crate) fn find(path: &str) -> Option<Self> {
        let mut parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
        // A session's id keeps its case; all others are ours.
        let lower: Vec<String> = parts.iter().map(|p| p.to_ascii_lowercase()).collect();
        let id = parts.pop().unwrap_or_default();
        let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
        let ["redfish", rest @ ..] = lower.as_slice() else {
            return None;
        };
        let ["v1", rest @ ..] = rest else {
            return rest.is_empty().then_some(Self::Versions);
        };
        let slot = |id: &str| match id {
            "1" => Some(SlotId::Floppy),
            "2" => Some(SlotId::Cd),
            _ => None,
        };
        Some(match rest {
            [] => Self::Root,
            ["odata"] => Self::Odata,
            ["$metadata"] => Self::Metadata,
            ["sessionservice"] => Self::SessionService,
            ["sessionservice", "sessions"] => Self::Sessions,
            ["sessionservice", "sessions", _] => Self::Session(id.to_owned()),
            ["accountservice"] => Self::AccountService,
            ["accountservice", "accounts"] => Self::Accounts,
            ["accountservice", "accounts", "1"] => Self::Account,
            ["accountservice", "roles"] => Self::Roles,
            ["accountservice", "roles", "administrator"] => Self::Role,
            ["systems"] => Self::Systems,
            ["systems", "1"] => Self::System,
            ["systems", "1", "settings"] => Self::Settings,
            ["systems", "1", "actions", "computersystem.reset"] => Self::Reset,
            ["systems", "1", "ethernetinterfaces"] => Self::SystemNics,
            ["systems", "1", "ethernetinterfaces", "1"] => Self::SystemNic,
            ["chassis"] => Self::ChassisCollection,
            ["chassis", "1"] => Self::Chassis,
            ["managers"] => Self::Managers,
            ["managers", "1"] => Self::Manager,
            ["managers", "1", "actions", "manager.reset"] => Self::ManagerReset,
            ["managers", "1", "virtualmedia"] => Self::VirtualMedia,
            ["managers", "1", "virtualmedia", "0"] => Self::DeadSlot,
            ["managers", "1", "virtualmedia", "cfgcd"] => Self::Config,
            ["managers", "1", "virtualmedia", "cfgcd", "actions", "isoconfig.mount"] => Self::Mount,
            ["managers", "1", "virtualmedia", "cfgcd", "actions", "isoconfig.unmount"] => Self::Unmount,
            ["managers", "1", "virtualmedia", "cd1"] => Self::Slot(SlotId::Cd),
            [
                "managers",
                "1",
                "virtualmedia",
                "2",
                "oem",
                _,
                "actions",
                "virtualmedia.vmmcontrol",
            ] => Self::Vmm,
            ["managers", "1", "actions", "oem", "amivirtualmedia.enablermedia"] => Self::EnableMedia,
            [
                "managers",
                "1",
                "actions",
                "oem",
                "eid_674_manager.importsystemconfiguration",
            ] => Self::ImportProfile,
            ["managers", "1", "virtualmedia", n] => Self::Slot(slot(n)?),
            [
                "managers",
                "1",
                "virtualmedia",
                n,
                "actions",
                "virtualmedia.insertmedia",
            ] => Self::Insert(slot(n)?),
            ["managers", "1", "virtualmedia", n, "actions", "virtualmedia.ejectmedia"] => Self::Eject(slot(n)?),
            ["registries"] => Self::Registries,
            ["registries", "base"] => Self::Registry,
            ["taskservice"] => Self::TaskService,
            ["taskservice", "tasks"] => Self::Tasks,
            ["taskservice", "tasks", _] => Self::Task(id.to_owned()),
            _ if inventory::find(path).is_some() => Self::Part(inventory::find(path)?),
            ["systems", _] => Self::OtherSystem(id.to_owned()),
            _ => return None,
        })
    }

    /// Readable without login (DSP0266 §13.3.1).
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Versions | Self::Root | Self::Odata | Self::Metadata)
    }

    /// Whether a BMC of these manners has it at all.
    pub(crate) fn is_there(&self, manners: &Manners) -> bool {
        match self {
            Self::SessionService | Self::Sessions | Self::Session(_) => manners.sessions,
            Self::VirtualMedia => manners.slots != Slots::Absent,
            Self::Slot(_) => manners.has_media(),
            Self::Insert(_) | Self::Eject(_) => manners.slots == Slots::Standard && !manners.slots_by_patch,
            Self::DeadSlot => manners.dead_slots,
            Self::Vmm => manners.slots == Slots::Vmm,
            Self::Config | Self::Mount | Self::Unmount => manners.slots == Slots::Config,
            Self::EnableMedia => manners.enable_first,
            Self::ImportProfile => manners.boot_by_profile,
            Self::OtherSystem(id) => manners.other_systems.iter().any(|other| other.eq_ignore_ascii_case(id)),
            _ => true,
        }
    }

    /// Methods for the Allow header.
    pub(crate) fn allow(&self, manners: &Manners) -> &'static str {
        match self {
            Self::Slot(_) if manners.slots_by_patch => "GET, HEAD, PATCH",
            Self::Config => "GET, HEAD, PATCH",
            Self::Vmm | Self::Mount | Self::Unmount | Self::EnableMedia | Self::ImportProfile => "POST",
            Self::Sessions => "GET, HEAD, POST",
            Self::Session(_) => "GET, HEAD, DELETE",
            Self::System | Self::Settings => "GET, HEAD, PATCH",
            Self::Reset | Self::ManagerReset | Self::Insert(_) | Self::Eject(_) => "POST",
            _ => "GET, HEAD",
        }
    }

    /// What GET shows; none for actions and for what is not there.
    pub(crate) fn show(&self, bmc: &Bmc) -> Option<Value> {
        Some(match self {
            Self::Versions => json!({"v1": "/redfish/v1/"}),
            Self::Root => inventory::link("/redfish/v1/", root(bmc)),
            Self::Odata => odata(),
            // Not JSON: served apart.
            Self::Metadata | Self::Reset | Self::ManagerReset | Self::Insert(_) | Self::Eject(_) => return None,
            Self::Vmm | Self::Mount | Self::Unmount | Self::EnableMedia | Self::ImportProfile => return None,
            Self::DeadSlot => vendor::dead_slot(),
            Self::Config => vendor::config(bmc),
            Self::Part(path) => inventory::show(path)?,
            Self::OtherSystem(id) => vendor::other_system(id),
            Self::Task(id) => vendor::task(bmc, id)?,
            Self::SessionService => json!({
                "@odata.type": "#SessionService.v1_1_8.SessionService",
                "@odata.id": "/redfish/v1/SessionService",
                "Id": "SessionService", "Name": "Session Service", "Status": enabled(), "ServiceEnabled": true,
                "SessionTimeout": bmc.config.manners.session_timeout_s.clamp(30, 86400),
                "Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"},
            }),
            Self::Sessions => {
                let ids: Vec<String> = bmc.sessions().into_iter().map(|(id, _)| id).collect();
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                collection(
                    "SessionCollection",
                    "/redfish/v1/SessionService/Sessions",
                    "Sessions",
                    &ids,
                )
            }
            Self::Session(id) => {
                let (id, user) = bmc.sessions().into_iter().find(|(known, _)| known == id)?;
                session(&id, &user)
            }
            Self::AccountService => json!({
                "@odata.type": "#AccountService.v1_13_0.AccountService",
                "@odata.id": "/redfish/v1/AccountService",
                "Id": "AccountService", "Name": "Account Service", "Status": enabled(), "ServiceEnabled": true,
                "Accounts": {"@odata.id": "/redfish/v1/AccountService/Accounts"},
                "Roles": {"@odata.id": "/redfish/v1/AccountService/Roles"},
            }),
            Self::Accounts => collection(
                "ManagerAccountCollection",
                "/redfish/v1/AccountService/Accounts",
                "Accounts",
                &["1"],
            ),
            Self::Account => json!({
                "@odata.type": "#ManagerAccount.v1_11_0.ManagerAccount",
                "@odata.id": "/redfish/v1/AccountService/Accounts/1",
                "Id": "1", "Name": "User Account", "UserName": bmc.config.user, "Password": null,
                "RoleId": "Administrator", "Enabled": true, "Locked": false, "AccountTypes": ["Redfish"],
                "Links": {"Role": {"@odata.id": "/redfish/v1/AccountService/Roles/Administrator"}},
            }),
            Self::Roles => collection(
                "RoleCollection",
                "/redfish/v1/AccountService/Roles",
                "Roles",
                &["Administrator"],
            ),
            Self::Role => json!({
                "@odata.type": "#Role.v1_3_1.Role",
                "@odata.id": "/redfish/v1/AccountService/Roles/Administrator",
                "Id": "Administrator", "Name": "Administrator", "RoleId": "Administrator", "IsPredefined": true,
                "AssignedPrivileges": ["Login", "ConfigureManager", "ConfigureUsers", "ConfigureSelf", "ConfigureComponents"],
            }),
            Self::Systems => {
                let others = bmc.config.manners.other_systems.iter().map(String::as_str);
                let ids: Vec<&str> = others.chain(["1"]).collect();
                collection("ComputerSystemCollection", "/redfish/v1/Systems", "Systems", &ids)
            }
            Self::System => inventory::link("/redfish/v1/Systems/1", system(bmc)),
            Self::Settings if bmc.config.manners.boot_at_settings => settings(bmc),
            Self::Settings => return None,
            Self::SystemNics => collection(
                "EthernetInterfaceCollection",
                "/redfish/v1/Systems/1/EthernetInterfaces",
                "Ethernet Interfaces",
                &["1"],
            ),
            Self::SystemNic => json!({
                "@odata.type": "#EthernetInterface.v1_9_0.EthernetInterface",
                "@odata.id": "/redfish/v1/Systems/1/EthernetInterfaces/1",
                "Id": "1", "Name": "NIC 1", "Status": enabled(),
                "MACAddress": bmc.config.mac, "PermanentMACAddress": bmc.config.mac,
            }),
            Self::ChassisCollection => collection("ChassisCollection", "/redfish/v1/Chassis", "Chassis", &["1"]),
            Self::Chassis => inventory::link(
                "/redfish/v1/Chassis/1",
                json!({
                    "@odata.type": "#Chassis.v1_22_0.Chassis",
                    "@odata.id": "/redfish/v1/Chassis/1",
                    "Id": "1", "Name": "Chassis", "ChassisType": "RackMount", "Status": enabled(),
                    "Manufacturer": bmc.config.manners.manufacturer, "Model": bmc.config.manners.model,
                    "PowerState": bmc.power(),
                    "Links": {
                        "ComputerSystems": [{"@odata.id": "/redfish/v1/Systems/1"}],
                        "ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}],
                    },
                }),
            ),
            Self::Managers => collection("ManagerCollection", "/redfish/v1/Managers", "Managers", &["1"]),
            Self::Manager => inventory::link("/redfish/v1/Managers/1", manager(bmc)),
            Self::VirtualMedia => {
                let ids = vendor::slots(bmc);
                let path = "/redfish/v1/Managers/1/VirtualMedia";
                vendor::dress_collection(bmc, collection("VirtualMediaCollection", path, "Virtual Media", ids))
            }
            // There while something is in.
            Self::Slot(id) if bmc.config.manners.slots == Slots::Config && !bmc.slot_view(*id).inserted => return None,
            Self::Slot(id) => slot(bmc, *id),
            Self::Registries => collection(
                "MessageRegistryFileCollection",
                "/redfish/v1/Registries",
                "Registries",
                &["Base"],
            ),
            Self::Registry => json!({
                "@odata.type": "#MessageRegistryFile.v1_1_3.MessageRegistryFile",
                "@odata.id": "/redfish/v1/Registries/Base",
                "Id": "Base", "Name": "Base Message Registry File", "Languages": ["en"],
                "Registry": "Base.1.18",
                "Location": [{
                    "Language": "en",
                    "PublicationUri": format!("https://redfish.dmtf.org/registries/{}.json", super::message::REGISTRY),
                }],
            }),
            Self::TaskService => json!({
                "@odata.type": "#TaskService.v1_2_0.TaskService",
                "@odata.id": "/redfish/v1/TaskService",
                "Id": "TaskService", "Name": "Task Service", "Status": enabled(), "ServiceEnabled": true,
                "Tasks": {"@odata.id": "/redfish/v1/TaskService/Tasks"},
            }),
            Self::Tasks => {
                let ids: Vec<String> = (1..=bmc.tasks()).map(|n| n.to_string()).collect();
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                collection("TaskCollection", "/redfish/v1/TaskService/Tasks", "Tasks", &ids)
            }
        })
    }
}

fn enabled() -> Value {
    json!({"State": "Enabled", "Health": "OK"})
}

fn collection(kind: &str, path: &str, name: &str, ids: &[&str]) -> Value {
    let members: Vec<Value> = ids
        .iter()
        .map(|id| json!({"@odata.id": format!("{path}/{id}")}))
        .collect();
    json!({
        "@odata.type": format!("#{kind}.{kind}"),
        "@odata.id": path,
        "Name": format!("{name} Collection"),
        "Members@odata.count": members.len(),
        "Members": members,
    })
}

pub(crate) fn session(id: &str, user: &str) -> Value {
    json!({
        "@odata.type": "#Session.v1_5_0.Session",
        "@odata.id": format!("/redfish/v1/SessionService/Sessions/{id}"),
        "Id": id, "Name": "User Session", "UserName": user,
    })
}

fn root(bmc: &Bmc) -> Value {
    let mut root = json!({
        "@odata.type": "#ServiceRoot.v1_15_0.ServiceRoot",
        "@odata.id": "/redfish/v1/",
        "Id": "RootService", "Name": "Root Service", "RedfishVersion": "1.15.0",
        "UUID": bmc.config.uuid, "Vendor": bmc.config.manners.manufacturer, "Product": "Simulated BMC",
        "ProtocolFeaturesSupported": {
            "ExcerptQuery": false, "FilterQuery": false, "OnlyMemberQuery": false, "SelectQuery": false,
            "ExpandQuery": {"ExpandAll": false, "Levels": false, "Links": false, "NoLinks": false},
        },
        "Systems": {"@odata.id": "/redfish/v1/Systems"},
        "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
        "Managers": {"@odata.id": "/redfish/v1/Managers"},
        "Registries": {"@odata.id": "/redfish/v1/Registries"},
        "Tasks": {"@odata.id": "/redfish/v1/TaskService"},
        "SessionService": {"@odata.id": "/redfish/v1/SessionService"},
        "AccountService": {"@odata.id": "/redfish/v1/AccountService"},
        "Links": {"Sessions": {"@odata.id": "/redfish/v1/SessionService/Sessions"}},
    });
    if let Some(members) = root.as_object_mut()
        && !bmc.config.manners.sessions
    {
        members.remove("SessionService");
        members.remove("Links");
    }
    root
}

fn boot(bmc: &Bmc) -> Value {
    let (boot, manners) = (bmc.boot_override(), &bmc.config.manners);
    let mut shown = json!({
        "BootSourceOverrideEnabled": boot.enabled,
        "BootSourceOverrideEnabled@Redfish.AllowableValues": ["Once", "Continuous", "Disabled"],
        "BootSourceOverrideMode": boot.mode,
        "BootSourceOverrideMode@Redfish.AllowableValues": [bmc.config.firmware.mode()],
        "BootSourceOverrideTarget": boot.target,
        "BootSourceOverrideTarget@Redfish.AllowableValues": manners.boot_targets,
    });
    if manners.boots_by_http() {
        shown["HttpBootUri"] = boot.http_uri.into();
    }
    shown
}

/// What the system is to be like after its next start.
fn settings(bmc: &Bmc) -> Value {
    json!({
        "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
        "@odata.id": SETTINGS,
        "Id": "Settings", "Name": "System's pending settings",
        "Boot": boot(bmc),
    })
}

fn system(bmc: &Bmc) -> Value {
    let manners = &bmc.config.manners;
    let mut system = json!({
        "@odata.type": "#ComputerSystem.v1_20_0.ComputerSystem",
        "@odata.id": "/redfish/v1/Systems/1",
        "Id": "1", "Name": "System", "SystemType": "Physical", "Status": enabled(),
        "Manufacturer": manners.manufacturer, "Model": manners.model, "SerialNumber": bmc.config.serial_number(),
        "AssetTag": bmc.asset_tag(), "UUID": bmc.config.uuid, "PowerState": bmc.power(), "BiosVersion": "1.0",
        "Boot": boot(bmc),
        "MemorySummary": {"TotalSystemMemoryGiB": f64::from(bmc.config.memory_mib) / 1024.0},
        "ProcessorSummary": {"Count": 1},
        "EthernetInterfaces": {"@odata.id": "/redfish/v1/Systems/1/EthernetInterfaces"},
        "Links": {
            "Chassis": [{"@odata.id": "/redfish/v1/Chassis/1"}],
            "ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}],
        },
        "Actions": {"#ComputerSystem.Reset": {
            "target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset",
            "ResetType@Redfish.AllowableValues": manners.reset_types,
        }},
    });
    if manners.boot_progress {
        system["BootProgress"] = json!({"LastState": progress(bmc)});
    }
    if manners.boot_at_settings {
        system["@Redfish.Settings"] = json!({
            "@odata.type": "#Settings.v1_3_5.Settings",
            "SettingsObject": {"@odata.id": SETTINGS},
        });
    }
    system
}

/// `BootProgress.LastState` (DSP2046) of what the machine has come to.
fn progress(bmc: &Bmc) -> &'static str {
    const STATES: &[(&str, &str)] = &[
        ("os-up", "OSRunning"),
        ("loader", "OSBootStarted"),
        ("no-bootable-device", "OEM"),
        ("firmware", "MemoryInitializationStarted"),
    ];
    let boots = bmc.log.boots();
    let last = boots
        .last()
        .filter(|boot| boot.ended.is_none() && bmc.power() != Power::Off);
    let reached = |boot: &BootLog| STATES.iter().find(|(stage, _)| boot.reached(stage));
    last.and_then(reached).map_or("None", |(_, state)| state)
}

fn manager(bmc: &Bmc) -> Value {
    let now = time::OffsetDateTime::now_utc()
        .replace_nanosecond(0)
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let mut manager = json!({
        "@odata.type": "#Manager.v1_17_0.Manager",
        "@odata.id": "/redfish/v1/Managers/1",
        "Id": "1", "Name": "Manager", "ManagerType": "BMC", "Status": enabled(), "PowerState": "On",
        "Manufacturer": bmc.config.manners.manufacturer, "Model": bmc.config.manners.manager_model,
        "FirmwareVersion": bmc.config.manners.firmware_version,
        "UUID": bmc.config.uuid, "ServiceEntryPointUUID": bmc.config.uuid,
        "DateTime": now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
        "DateTimeLocalOffset": "+00:00",
        "VirtualMedia": {"@odata.id": "/redfish/v1/Managers/1/VirtualMedia"},
        "Links": {
            "ManagerForServers": [{"@odata.id": "/redfish/v1/Systems/1"}],
            "ManagerForChassis": [{"@odata.id": "/redfish/v1/Chassis/1"}],
        },
        "Actions": {"#Manager.Reset": {
            "target": "/redfish/v1/Managers/1/Actions/Manager.Reset",
            "ResetType@Redfish.AllowableValues": ["GracefulRestart", "ForceRestart"],
        }},
    });
    vendor::dress_manager(bmc, &mut manager);
    manager
}

fn slot(bmc: &Bmc, id: SlotId) -> Value {
    let view = bmc.slot_view(id);
    let (number, name, types) = match id {
        SlotId::Floppy => ("1", "Virtual Removable Media", ["Floppy", "USBStick"]),
        SlotId::Cd => ("2", "Virtual CD", ["CD", "DVD"]),
    };
    let path = format!("/redfish/v1/Managers/1/VirtualMedia/{number}");
    let image_name = view.image.as_deref().and_then(|image| image.rsplit('/').next());
    let mut slot = json!({
        "@odata.type": "#VirtualMedia.v1_6_0.VirtualMedia",
        "@odata.id": path,
        "Id": number, "Name": name, "MediaTypes": types, "Status": enabled(),
        "Image": view.image, "ImageName": image_name, "Inserted": view.inserted,
        "ConnectedVia": if view.inserted { "URI" } else { "NotConnected" },
        "WriteProtected": true, "TransferMethod": "Stream",
        "Actions": {
            "#VirtualMedia.InsertMedia": {"target": format!("{path}/Actions/VirtualMedia.InsertMedia")},
            "#VirtualMedia.EjectMedia": {"target": format!("{path}/Actions/VirtualMedia.EjectMedia")},
        },
    });
    let manners = &bmc.config.manners;
    if let Some(members) = slot.as_object_mut()
        && manners.slots_by_patch
    {
        members.remove("Actions");
    }
    if let Some(actions) = slot["Actions"].as_object_mut()
        && manners.eject_hidden
        && !view.inserted
    {
        actions.remove("#VirtualMedia.EjectMedia");
    }
    vendor::dress_slot(bmc, id, &mut slot);
    slot
}

fn odata() -> Value {
    let set = |name: &str, path: &str| json!({"name": name, "kind": "Singleton", "url": path});
    json!({
        "@odata.context": "/redfish/v1/$metadata",
        "value": [
            set("Service", "/redfish/v1/"),
            set("Systems", "/redfish/v1/Systems"),
            set("Chassis", "/redfish/v1/Chassis"),
            set("Managers", "/redfish/v1/Managers"),
            set("Registries", "/redfish/v1/Registries"),
            set("TaskService", "/redfish/v1/TaskService"),
            set("SessionService", "/redfish/v1/SessionService"),
            set("AccountService", "/redfish/v1/AccountService"),
            set("Sessions", "/redfish/v1/SessionService/Sessions"),
        ],
    })
}

/// Schemas of the tree: unversioned name, and version if it has one.
const SCHEMAS: &[(&str, Option<&str>)] = &[
    ("ServiceRoot", Some("v1_15_0")),
    ("SessionService", Some("v1_1_8")),
    ("SessionCollection", None),
    ("Session", Some("v1_5_0")),
    ("AccountService", Some("v1_13_0")),
    ("ManagerAccountCollection", None),
    ("ManagerAccount", Some("v1_11_0")),
    ("RoleCollection", None),
    ("Role", Some("v1_3_1")),
    ("ComputerSystemCollection", None),
    ("ComputerSystem", Some("v1_20_0")),
    ("EthernetInterfaceCollection", None),
    ("EthernetInterface", Some("v1_9_0")),
    ("ChassisCollection", None),
    ("Chassis", Some("v1_22_0")),
    ("ManagerCollection", None),
    ("Manager", Some("v1_17_0")),
    ("VirtualMediaCollection", None),
    ("VirtualMedia", Some("v1_6_0")),
    ("MessageRegistryFileCollection", None),
    ("MessageRegistryFile", Some("v1_1_3")),
    ("TaskService", Some("v1_2_0")),
    ("TaskCollection", None),
    ("ProcessorCollection", None),
    ("Processor", Some("v1_10_0")),
    ("MemoryCollection", None),
    ("Memory", Some("v1_10_0")),
    ("StorageCollection", None),
    ("Storage", Some("v1_10_0")),
    ("Drive", Some("v1_12_0")),
    ("Bios", Some("v1_1_0")),
    ("ManagerNetworkProtocol", Some("v1_6_0")),
    ("LogServiceCollection", None),
    ("LogService", Some("v1_2_0")),
    ("LogEntryCollection", None),
    ("ThermalSubsystem", Some("v1_0_0")),
    ("FanCollection", None),
    ("Fan", Some("v1_3_0")),
    ("PowerSubsystem", Some("v1_1_0")),
    ("PowerSupplyCollection", None),
    ("PowerSupply", Some("v1_3_0")),
    ("SensorCollection", None),
    ("Sensor", Some("v1_5_0")),
    ("UpdateService", Some("v1_8_0")),
    ("SoftwareInventoryCollection", None),
    ("SoftwareInventory", Some("v1_3_0")),
    ("Task", Some("v1_7_4")),
];

/// The OData metadata document (DSP0266 §8.4.2).
pub(crate) fn metadata() -> String {
    use std::fmt::Write as _;
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <edmx:Edmx xmlns:edmx=\"http://docs.oasis-open.org/odata/ns/edmx\" Version=\"4.0\">\n",
    );
    for (name, version) in SCHEMAS.iter().copied() {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  <edmx:Reference Uri=\"http://redfish.dmtf.org/schemas/v1/{name}_v1.xml\">"
        );
        let _ = writeln!(text, "    <edmx:Include Namespace=\"{name}\"/>");
        if let Some(version) = version {
            let _ = writeln!(text, "    <edmx:Include Namespace=\"{name}.{version}\"/>");
        }
        text.push_str("  </edmx:Reference>\n");
    }
    text.push_str(
        "  <edmx:DataServices>\n    <Schema xmlns=\"http://docs.oasis-open.org/odata/ns/edm\" Namespace=\"Service\">\n      \
         <EntityContainer Name=\"Service\" Extends=\"ServiceRoot.v1_15_0.ServiceContainer\"/>\n    </Schema>\n  \
         </edmx:DataServices>\n</edmx:Edmx>\n",
    );
    text
}
