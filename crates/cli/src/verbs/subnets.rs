//! Verbs of subnets that change one thing.

use serde_json::{Value, json};

use super::objects::change_object;
use super::{Arity, Call, Verb, verb};
use crate::output::Output;
use crate::session::Session;
use crate::{CliError, input};

pub(super) const VERBS: &[Verb] = &[
    verb(
        "range",
        "[subnet] [start] [end]",
        Arity::Exactly(3),
        |session, call| {
            set(
                session,
                call,
                &[("ActiveStart", call.arg(1).into()), ("ActiveEnd", call.arg(2).into())],
            )
        },
        "Sets the addresses that are given out",
        "subnets range lab 10.0.0.50 10.0.0.200",
    ),
    verb(
        "subnet",
        "[subnet] [cidr]",
        Arity::Exactly(2),
        |session, call| {
            // As drpcli says it. The server refuses it anyway.
            session
                .host
                .note("Command \"subnet\" is deprecated, Changing the subnet CIDR address is not supported.");
            set(session, call, &[("Subnet", call.arg(1).into())])
        },
        "Changes the network; no server allows it",
        "subnets subnet lab 10.0.0.0/24",
    ),
    verb(
        "nextserver",
        "[subnet] [address]",
        Arity::Exactly(2),
        |session, call| set(session, call, &[("NextServer", call.arg(1).into())]),
        "Sets the server that clients boot from",
        "subnets nextserver lab 10.0.0.2",
    ),
    verb(
        "pickers",
        "[subnet] [list]",
        Arity::Exactly(2),
        |session, call| {
            let pickers: Vec<&str> = call.arg(1).split(',').map(str::trim).collect();
            set(session, call, &[("Pickers", json!(pickers))])
        },
        "Sets how a free address is chosen",
        "subnets pickers lab hint,nextFree,mostExpired",
    ),
    verb(
        "leasetimes",
        "[subnet] [active] [reserved]",
        Arity::Exactly(3),
        |session, call| {
            let seconds = |at: usize| {
                let text = call.arg(at);
                text.parse::<u32>()
                    .map_err(|_| call.misuse(format!("{text:?} is no number of seconds")))
            };
            let (active, reserved) = (seconds(1)?, seconds(2)?);
            set(
                session,
                call,
                &[
                    ("ActiveLeaseTime", active.into()),
                    ("ReservedLeaseTime", reserved.into()),
                ],
            )
        },
        "Sets how long leases last, in seconds",
        "subnets leasetimes lab 60 7200",
    ),
    verb(
        "set",
        "[subnet] option [number] to [value]",
        Arity::Exactly(5),
        set_option,
        "Sets a DHCP option; null takes it away",
        "subnets set lab option 6 to 10.0.0.2",
    ),
    verb(
        "get",
        "[subnet] option [number]",
        Arity::Exactly(3),
        get_option,
        "Shows a DHCP option",
        "subnets get lab option 6",
    ),
];

fn set(session: &Session, call: &Call, members: &[(&str, Value)]) -> Result<Output, CliError> {
    change_object(session, call, |object| {
        for (member, value) in members {
            object[*member] = value.clone();
        }
        Ok(())
    })
}

fn code(call: &Call) -> Result<i64, CliError> {
    call.word(1, "option")?;
    let text = call.arg(2);
    text.parse()
        .map_err(|_| call.misuse(format!("{text:?} is no number of an option")))
}

fn set_option(session: &Session, call: &Call) -> Result<Output, CliError> {
    let code = code(call)?;
    call.word(3, "to")?;
    let value = input::value_text(session.host, call.arg(4))?;
    change_object(session, call, |object| {
        let options = object["Options"].as_array_mut();
        let options = options.ok_or_else(|| CliError::text("Options is no list on the server"))?;
        let there = options.iter().position(|option| option["Code"] == code);
        match (there, value.as_str()) {
            (Some(at), "null") => drop(options.remove(at)),
            (None, "null") => {}
            (Some(at), value) => options[at]["Value"] = value.into(),
            (None, value) => options.push(json!({ "Code": code, "Value": value })),
        }
        Ok(())
    })
}

fn get_option(session: &Session, call: &Call) -> Result<Output, CliError> {
    let code = code(call)?;
    let subnet = session.get_object("subnets", call.arg(0))?;
    let options = subnet["Options"].as_array().into_iter().flatten();
    match options.into_iter().find(|option| option["Code"] == code) {
        Some(option) => Ok(Output::Text(format!(
            "Option {code}: {}\n",
            option["Value"].as_str().unwrap_or_default()
        ))),
        None => Err(CliError::text(format!("option {code} does not exist"))),
    }
}
