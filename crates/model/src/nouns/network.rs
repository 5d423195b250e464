//! Addresses: subnets, reservations, leases.

use super::{
    AVAILABLE, BUNDLE, BY_NAME, DESCRIPTION, DOCUMENTATION, ENDPOINT, ERRORS, META, NAME, READ_ONLY, STRINGS,
    VALIDATED, index, unique,
};
use crate::table::{Default, Field, IndexKind, KeyKind, MadeBy, Noun, Type};

const OPTION: &[Field] = &[
    Field::new("Code", Type::Int, "Number of the DHCP option."),
    Field::new("Value", Type::Str, "Its value; a template."),
];
const OPTIONS: Field = Field::new("Options", Type::List(&Type::Struct(OPTION)), "DHCP options.");
const ADDR: Field = Field::new("Addr", Type::Ip, "The address; in hex it is the key.");
const TOKEN: Field = Field::new(
    "Token",
    Type::Str,
    "What the strategy knows the client by: a MAC address.",
);
const STRATEGY: Field = Field::new("Strategy", Type::Str, "How clients are told apart: MAC.");
const NEXT_SERVER: Field = Field::new("NextServer", Type::Ip, "Server that the client boots from.");

pub(super) const LEASES: Noun = Noun {
    name: "leases",
    singular: "lease",
    key: KeyKind::Addr,
    fields: &[
        VALIDATED,
        AVAILABLE,
        ERRORS,
        READ_ONLY,
        META,
        ENDPOINT,
        BUNDLE,
        ADDR,
        TOKEN,
        Field::new("Duration", Type::Int, "How long it was given for, in seconds."),
        Field::new("ExpireTime", Type::Time, "When it ends."),
        STRATEGY,
        Field::new("State", Type::Str, "OFFER, ACK, EXPIRED, INVALID or PROBE."),
        OPTIONS,
        Field::new(
            "ProvidedOptions",
            Type::List(&Type::Struct(OPTION)),
            "Options that the client was sent.",
        ),
        Field::new("SkipBoot", Type::Bool, "The client was told nothing about booting."),
        NEXT_SERVER,
        Field::new("Via", Type::Ip, "Relay that it came by."),
    ],
    indexes: &[
        index("Addr", IndexKind::Ip, &["Addr"]),
        index("Token", IndexKind::String, &["Token"]),
        index("Strategy", IndexKind::String, &["Strategy"]),
        index("State", IndexKind::String, &["State"]),
        index("ExpireTime", IndexKind::Expiry, &["ExpireTime"]),
    ],
    has_params: false,
    has_profiles: false,
    has_actions: true,
    made_by: MadeBy::Server,
    columns: &["Addr", "Token", "Strategy", "State", "ExpireTime"],
    extra_verbs: &[],
    doc: "An address given to a client for some time.",
};

pub(super) const RESERVATIONS: Noun = Noun {
    name: "reservations",
    singular: "reservation",
    key: KeyKind::Addr,
    fields: &[
        VALIDATED,
        AVAILABLE,
        ERRORS,
        READ_ONLY,
        META,
        ENDPOINT,
        BUNDLE,
        ADDR,
        DESCRIPTION,
        DOCUMENTATION,
        TOKEN,
        Field::new(
            "Subnet",
            Type::Str,
            "Subnet that a scoped reservation belongs to; set by the server.",
        ),
        NEXT_SERVER,
        OPTIONS,
        STRATEGY,
        Field::new("Scoped", Type::Bool, "Holds in its subnet alone."),
        Field::new(
            "Duration",
            Type::Int,
            "How long leases of it last, in seconds; 0: as the subnet says.",
        ),
    ],
    indexes: &[
        index("Addr", IndexKind::Ip, &["Addr"]),
        index("Token", IndexKind::String, &["Token"]),
        index("Strategy", IndexKind::String, &["Strategy"]),
        index("NextServer", IndexKind::Ip, &["NextServer"]),
    ],
    has_params: false,
    has_profiles: false,
    has_actions: true,
    made_by: MadeBy::Clients,
    columns: &["Addr", "Token", "Strategy", "Subnet", "Description"],
    extra_verbs: &[],
    doc: "An address kept for one client.",
};

pub(super) const SUBNETS: Noun = Noun {
    name: "subnets",
    singular: "subnet",
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
        Field::new("Enabled", Type::Bool, "Clients in it are served."),
        Field::new(
            "Proxy",
            Type::Bool,
            "Only booting is served; addresses come from elsewhere.",
        ),
        Field::new("Unmanaged", Type::Bool, "Addresses in it are not given out."),
        Field::new("Subnet", Type::Str, "The network in CIDR form."),
        NEXT_SERVER,
        Field::new("ActiveStart", Type::Ip, "First address that is given out."),
        Field::new("ActiveEnd", Type::Ip, "Last address that is given out."),
        Field::new("ActiveLeaseTime", Type::Int, "How long a lease lasts, in seconds.").default(Default::Int(60)),
        Field::new("ReservedLeaseTime", Type::Int, "The same for reservations.").default(Default::Int(7200)),
        Field::new("OnlyReservations", Type::Bool, "Only reserved addresses are given out."),
        OPTIONS,
        Field::new("Strategy", Type::Str, "How clients are told apart.").default(Default::Str("MAC")),
        Field::new("Pickers", STRINGS, "How a free address is chosen, in order."),
    ],
    indexes: &[
        BY_NAME,
        unique("Subnet", IndexKind::Cidr, &["Subnet"]),
        index("Address", IndexKind::Holds, &["Subnet"]),
        index("ActiveAddress", IndexKind::Holds, &["ActiveStart"]),
        index("NextServer", IndexKind::Ip, &["NextServer"]),
        index("Strategy", IndexKind::String, &["Strategy"]),
        index("Enabled", IndexKind::Bool, &["Enabled"]),
        index("Proxy", IndexKind::Bool, &["Proxy"]),
    ],
    has_params: false,
    has_profiles: false,
    has_actions: true,
    made_by: MadeBy::Clients,
    columns: &["Name", "Subnet", "ActiveStart", "ActiveEnd", "Enabled", "Available"],
    extra_verbs: &["get", "leasetimes", "nextserver", "pickers", "range", "set", "subnet"],
    doc: "A network in which addresses are given out.",
};
