//! The rows of the model table.

use crate::table::{Access, Default, Field, IndexDef, IndexKind, KeyKind, Noun, Type};

const STRINGS: Type = Type::List(&Type::Str);
const TEXT_MAP: Type = Type::Map(&Type::Str);
const PARAMS: Type = Type::Map(&Type::Any);

const VALIDATED: Field = Field::new("Validated", Type::Bool, "Well-formed; only such objects are stored.")
    .default(Default::Bool(true))
    .access(Access::ReadOnly);
const AVAILABLE: Field = Field::new("Available", Type::Bool, "Usable now.")
    .default(Default::Bool(true))
    .access(Access::ReadOnly);
const ERRORS: Field = Field::new("Errors", STRINGS, "Why it is not valid or not available.").access(Access::ReadOnly);
const READ_ONLY: Field = Field::new("ReadOnly", Type::Bool, "Comes from a content layer.").access(Access::ReadOnly);
const META: Field = Field::new("Meta", TEXT_MAP, "Free-form notes for programs and pages.");
const ENDPOINT: Field =
    Field::new("Endpoint", Type::Str, "Server that owns it; empty for this one.").access(Access::ReadOnly);
const BUNDLE: Field = Field::new(
    "Bundle",
    Type::Str,
    "Content layer it comes from; empty for writable objects.",
)
.access(Access::ReadOnly);
const PARTIAL: Field = Field::new("Partial", Type::Bool, "Params were left out on request.").access(Access::ReadOnly);
const NAME: Field = Field::new("Name", Type::Str, "Unique name.");
const DESCRIPTION: Field = Field::new("Description", Type::Str, "One line for people.");
const DOCUMENTATION: Field = Field::new("Documentation", Type::Str, "Longer text for people.");
const REQUIRED_PARAMS: Field = Field::new("RequiredParams", STRINGS, "Params that must be set.");
const OPTIONAL_PARAMS: Field = Field::new("OptionalParams", STRINGS, "Params that are looked at when set.");

const TEMPLATE_INFO: &[Field] = &[
    Field::new("Name", Type::Str, "Name of the template within its owner."),
    Field::new("Path", Type::Str, "Where the rendered text appears; itself a template."),
    Field::new("ID", Type::Str, "Template object to use, instead of Contents."),
    Field::new("Contents", Type::Str, "Text of the template, instead of ID."),
    Field::new(
        "Meta",
        TEXT_MAP,
        "Notes; OS limits a task's template to operating systems.",
    ),
    Field::new("Link", Type::Str, "File to link to instead of rendering."),
];
const TEMPLATES: Field = Field::new(
    "Templates",
    Type::List(&Type::Struct(TEMPLATE_INFO)),
    "Files to render.",
);

const ARCH_INFO: &[Field] = &[
    Field::new("IsoFile", Type::Str, "Name of the ISO or tar with the files."),
    Field::new("Sha256", Type::Str, "Checksum of IsoFile."),
    Field::new("IsoUrl", Type::Str, "Where IsoFile can be fetched."),
    Field::new("Kernel", Type::Str, "Kernel, as a path within the files."),
    Field::new("Initrds", STRINGS, "Initial RAM disks, in order."),
    Field::new("BootParams", Type::Str, "Kernel arguments; a template."),
    Field::new("Loader", Type::Str, "Boot loader to use."),
];
const OS_INFO: &[Field] = &[
    Field::new("Name", Type::Str, "Operating system; also the folder of its files."),
    Field::new("Family", Type::Str, "Family, such as redhat or debian."),
    Field::new("Codename", Type::Str, "Code name of the release."),
    Field::new("Version", Type::Str, "Version of the release."),
    Field::new("IsoFile", Type::Str, "Name of the ISO or tar for amd64."),
    Field::new("IsoSha256", Type::Str, "Checksum of IsoFile."),
    Field::new("IsoUrl", Type::Str, "Where IsoFile can be fetched."),
    Field::new(
        "SupportedArchitectures",
        Type::Map(&Type::Struct(ARCH_INFO)),
        "Files by processor architecture.",
    ),
];
const FINGERPRINT: &[Field] = &[
    Field::new("SSNHash", Type::Bytes, "Hash of the system's serial number."),
    Field::new("CSNHash", Type::Bytes, "Hash of the chassis' serial number."),
    Field::new("CloudInstanceID", Type::Str, "Identity given by a cloud."),
    Field::new("SystemUUID", Type::Str, "UUID from DMI."),
    Field::new(
        "MemoryIds",
        Type::NullableList(&Type::Bytes),
        "Hashes of the memory modules' serial numbers.",
    ),
];
const TASK_STACK: &[Field] = &[
    Field::new("CurrentTask", Type::Int, "Position to return to."),
    Field::new("TaskList", STRINGS, "Task list to return to."),
];

const CLAIM: &[Field] = &[
    Field::new("scope", Type::Str, "Object types, or *."),
    Field::new("action", Type::Str, "Actions on them, or *."),
    Field::new("specific", Type::Str, "Keys, or *."),
];

const fn index(name: &'static str, kind: IndexKind, path: &'static [&'static str]) -> IndexDef {
    IndexDef {
        name,
        kind,
        unique: false,
        path,
        listed: true,
    }
}
const fn unique(name: &'static str, kind: IndexKind, path: &'static [&'static str]) -> IndexDef {
    IndexDef {
        name,
        kind,
        unique: true,
        path,
        listed: true,
    }
}
const fn quiet(name: &'static str, kind: IndexKind, path: &'static [&'static str]) -> IndexDef {
    IndexDef {
        name,
        kind,
        unique: false,
        path,
        listed: false,
    }
}
const BY_NAME: IndexDef = unique("Name", IndexKind::String, &["Name"]);

/// All object types, sorted by prefix.
pub const NOUNS: &[Noun] = &[
    Noun {
        name: "bootenvs",
        singular: "bootenv",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            Field::new("OS", Type::Struct(OS_INFO), "What is booted."),
            TEMPLATES,
            Field::new(
                "Kernel",
                Type::Str,
                "Kernel for amd64; empty when nothing is booted over the network.",
            ),
            Field::new("Initrds", STRINGS, "Initial RAM disks for amd64, in order."),
            Field::new("BootParams", Type::Str, "Kernel arguments for amd64; a template."),
            REQUIRED_PARAMS,
            OPTIONAL_PARAMS,
            Field::new("OnlyUnknown", Type::Bool, "For hosts that are no machines yet."),
            Field::new("Loaders", TEXT_MAP, "Boot loaders by architecture."),
        ],
        indexes: &[
            BY_NAME,
            index("OnlyUnknown", IndexKind::Bool, &["OnlyUnknown"]),
            index("OsName", IndexKind::String, &["OS", "Name"]),
        ],
        has_params: false,
        has_profiles: false,
        has_actions: true,
        extra_verbs: &["install", "uploadiso"],
        doc: "What a machine boots: kernel, initial RAM disks, arguments and files.",
    },
    Noun {
        name: "machines",
        singular: "machine",
        key: KeyKind::Uuid,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            PARTIAL,
            NAME,
            DESCRIPTION,
            Field::new("Uuid", Type::Uuid, "Identity; made by the server when missing."),
            Field::new("CurrentJob", Type::Uuid, "Newest job."),
            Field::new("Address", Type::Ip, "IP address of the machine."),
            Field::new("Stage", Type::Str, "Stage it is in."),
            Field::new("BootEnv", Type::Str, "Boot environment it boots."),
            Field::new("Profiles", STRINGS, "Profiles that give it params, nearest first."),
            Field::new("Params", PARAMS, "Its own params."),
            Field::new("Tasks", STRINGS, "What is to be done, in order."),
            Field::new("CurrentTask", Type::Int, "Position in Tasks; -1 before the first."),
            Field::new("RetryTaskAttempt", Type::Int, "How often the present task was retried."),
            Field::new(
                "TaskErrorStacks",
                Type::NullableList(&Type::Struct(TASK_STACK)),
                "Task lists to return to after an error was handled.",
            ),
            Field::new("Runnable", Type::Bool, "Jobs may be made for it."),
            Field::new("Secret", Type::Str, "Changing it revokes the machine's tokens."),
            Field::new("OS", Type::Str, "Operating system installed on it."),
            Field::new("HardwareAddrs", STRINGS, "MAC addresses."),
            Field::new("Workflow", Type::Str, "Workflow it follows; empty for none."),
            Field::new("Arch", Type::Str, "Processor architecture.").default(Default::Str("amd64")),
            Field::new(
                "Locked",
                Type::Bool,
                "Refuses every change but unlocking, and is never booted.",
            ),
            Field::new(
                "Context",
                Type::Str,
                "Where its tasks run; empty for the machine itself.",
            ),
            Field::new(
                "Fingerprint",
                Type::Struct(FINGERPRINT),
                "Traits by which it is recognised.",
            ),
            Field::new("Pool", Type::Str, "Pool it belongs to."),
            Field::new("PoolAllocated", Type::Bool, "Allocated from its pool."),
            Field::new("PoolStatus", Type::Str, "State within its pool."),
            Field::new("WorkflowComplete", Type::Bool, "Its workflow has reached the end."),
        ],
        indexes: &[
            unique("Uuid", IndexKind::Uuid, &["Uuid"]),
            BY_NAME,
            index("Address", IndexKind::Ip, &["Address"]),
            index("BootEnv", IndexKind::String, &["BootEnv"]),
            index("Runnable", IndexKind::Bool, &["Runnable"]),
            index("Stage", IndexKind::String, &["Stage"]),
            index("Workflow", IndexKind::String, &["Workflow"]),
            quiet("HardwareAddrs", IndexKind::Mac, &["HardwareAddrs"]),
            quiet("HardwareAddr", IndexKind::Mac, &["HardwareAddrs"]),
            quiet("Profiles", IndexKind::String, &["Profiles"]),
            quiet("OS", IndexKind::String, &["OS"]),
            quiet("Arch", IndexKind::String, &["Arch"]),
            quiet("Locked", IndexKind::Bool, &["Locked"]),
            quiet("Context", IndexKind::String, &["Context"]),
            quiet("Pool", IndexKind::String, &["Pool"]),
            quiet("PoolAllocated", IndexKind::Bool, &["PoolAllocated"]),
            quiet("PoolStatus", IndexKind::String, &["PoolStatus"]),
            quiet("WorkflowComplete", IndexKind::Bool, &["WorkflowComplete"]),
            quiet("CurrentTask", IndexKind::Int, &["CurrentTask"]),
            quiet("CurrentJob", IndexKind::Uuid, &["CurrentJob"]),
        ],
        has_params: true,
        has_profiles: true,
        has_actions: true,
        extra_verbs: &[
            "addtask",
            "bootenv",
            "currentlog",
            "deletejobs",
            "inserttask",
            "inspect",
            "jobs",
            "pause",
            "processjobs",
            "removetask",
            "run",
            "stage",
            "tasks",
            "whoami",
            "workflow",
        ],
        doc: "A computer that is managed.",
    },
    Noun {
        name: "params",
        singular: "param",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            Field::new("Secure", Type::Bool, "Values are encrypted."),
            Field::new(
                "Schema",
                Type::Any,
                "JSON schema of the values; its default is the param's default.",
            ),
        ],
        indexes: &[BY_NAME, index("Secure", IndexKind::Bool, &["Secure"])],
        has_params: false,
        has_profiles: false,
        has_actions: false,
        extra_verbs: &[],
        doc: "The declaration of a param: its meaning, its schema and its default.",
    },
    Noun {
        name: "profiles",
        singular: "profile",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            PARTIAL,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            Field::new("Params", PARAMS, "Params for everything that has this profile."),
            Field::new("Profiles", STRINGS, "Profiles that are looked at after this one."),
        ],
        indexes: &[BY_NAME],
        has_params: true,
        has_profiles: true,
        has_actions: true,
        extra_verbs: &[],
        doc: "A set of params shared by machines and stages.",
    },
    Noun {
        name: "roles",
        singular: "role",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            Field::new("Claims", Type::List(&Type::Struct(CLAIM)), "What the role allows."),
        ],
        indexes: &[BY_NAME],
        has_params: false,
        has_profiles: false,
        has_actions: true,
        extra_verbs: &[],
        doc: "A named set of rights.",
    },
    Noun {
        name: "stages",
        singular: "stage",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            PARTIAL,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            TEMPLATES,
            REQUIRED_PARAMS,
            OPTIONAL_PARAMS,
            Field::new(
                "BootEnv",
                Type::Str,
                "Boot environment that the stage needs; empty for any.",
            ),
            Field::new("Tasks", STRINGS, "What is done in the stage, in order."),
            Field::new("Profiles", STRINGS, "Profiles that give params while in the stage."),
            Field::new("Reboot", Type::Bool, "Reboot when the stage is entered."),
            Field::new("RunnerWait", Type::Bool, "The agent stays when the tasks are done.")
                .default(Default::Bool(true)),
            Field::new("Params", PARAMS, "Params while in the stage."),
        ],
        indexes: &[
            BY_NAME,
            index("BootEnv", IndexKind::String, &["BootEnv"]),
            index("Reboot", IndexKind::Bool, &["Reboot"]),
        ],
        has_params: false,
        has_profiles: true,
        has_actions: true,
        extra_verbs: &["addtask", "bootenv", "removetask"],
        doc: "A step of a workflow: a boot environment and tasks.",
    },
    Noun {
        name: "tasks",
        singular: "task",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            TEMPLATES,
            REQUIRED_PARAMS,
            OPTIONAL_PARAMS,
            Field::new("Prerequisites", STRINGS, "Tasks that must have run before."),
            Field::new("ExtraRoles", STRINGS, "Roles that its jobs get in addition.").omit_if_empty(),
            Field::new(
                "ExtraClaims",
                Type::List(&Type::Struct(CLAIM)),
                "Rights that its jobs get in addition.",
            )
            .omit_if_empty(),
        ],
        indexes: &[BY_NAME],
        has_params: false,
        has_profiles: false,
        has_actions: true,
        extra_verbs: &[],
        doc: "Scripts and files for one thing to be done on a machine.",
    },
    Noun {
        name: "templates",
        singular: "template",
        key: KeyKind::Id,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            Field::new("ID", Type::Str, "Unique name."),
            DESCRIPTION,
            Field::new("Contents", Type::Str, "Its text."),
        ],
        indexes: &[unique("ID", IndexKind::String, &["ID"])],
        has_params: false,
        has_profiles: false,
        has_actions: true,
        extra_verbs: &["upload"],
        doc: "A text that is rendered for machines, shared by bootenvs, stages and tasks.",
    },
    Noun {
        name: "users",
        singular: "user",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            NAME,
            DESCRIPTION,
            Field::new("PasswordHash", Type::Any, "Hash of the password.").access(Access::Hidden),
            Field::new("Secret", Type::Str, "Changing it revokes the user's tokens."),
            Field::new("Roles", STRINGS, "Roles that the user has."),
        ],
        indexes: &[BY_NAME],
        has_params: false,
        has_profiles: false,
        has_actions: true,
        extra_verbs: &["password", "token"],
        doc: "Somebody who may log in.",
    },
    Noun {
        name: "workflows",
        singular: "workflow",
        key: KeyKind::Name,
        fields: &[
            VALIDATED,
            AVAILABLE,
            ERRORS,
            READ_ONLY,
            META,
            ENDPOINT,
            BUNDLE,
            NAME,
            DESCRIPTION,
            DOCUMENTATION,
            Field::new("Stages", STRINGS, "Stages, in order."),
        ],
        indexes: &[BY_NAME],
        has_params: false,
        has_profiles: false,
        has_actions: true,
        extra_verbs: &["addstage", "removestage"],
        doc: "Stages that follow one another.",
    },
];
