//! Completion codes (IPMI 2.0 §5.2, table 5-2).

use isobar_bmc::ErrorClass;

/// Node busy.
pub const BUSY: u8 = 0xc0;
/// Invalid command: not implemented.
pub const INVALID_COMMAND: u8 = 0xc1;
/// Request data length invalid.
pub const LENGTH: u8 = 0xc7;
/// Parameter out of range.
pub const RANGE: u8 = 0xc9;
/// Requested number of bytes cannot be returned.
pub const TOO_MANY: u8 = 0xca;
/// Requested record or sensor is not there.
pub const NOT_PRESENT: u8 = 0xcb;
/// Invalid data field.
pub const INVALID_DATA: u8 = 0xcc;
/// Insufficient privilege.
pub const PRIVILEGE: u8 = 0xd4;
/// Not in the present state.
pub const STATE: u8 = 0xd5;

const CODES: &[(u8, ErrorClass, &str)] = &[
    (BUSY, ErrorClass::Busy, "node busy"),
    (INVALID_COMMAND, ErrorClass::Unsupported, "invalid command"),
    (0xc2, ErrorClass::Unsupported, "command invalid for given LUN"),
    (0xc3, ErrorClass::Busy, "timeout while processing command"),
    (0xc4, ErrorClass::Busy, "out of space"),
    (0xc5, ErrorClass::Refused, "reservation cancelled"),
    (0xc6, ErrorClass::Refused, "request data truncated"),
    (LENGTH, ErrorClass::Refused, "request data length invalid"),
    (0xc8, ErrorClass::Refused, "request data field length limit exceeded"),
    (RANGE, ErrorClass::Refused, "parameter out of range"),
    (
        TOO_MANY,
        ErrorClass::Refused,
        "cannot return number of requested data bytes",
    ),
    (
        NOT_PRESENT,
        ErrorClass::Unsupported,
        "requested sensor, data, or record not present",
    ),
    (INVALID_DATA, ErrorClass::Refused, "invalid data field in request"),
    (
        0xcd,
        ErrorClass::Unsupported,
        "command illegal for specified sensor or record type",
    ),
    (0xce, ErrorClass::Failing, "command response could not be provided"),
    (0xcf, ErrorClass::Busy, "cannot execute duplicated request"),
    (0xd0, ErrorClass::Busy, "SDR repository in update mode"),
    (0xd1, ErrorClass::Busy, "device in firmware update mode"),
    (0xd2, ErrorClass::Busy, "BMC initialization in progress"),
    (0xd3, ErrorClass::Failing, "destination unavailable"),
    (PRIVILEGE, ErrorClass::Forbidden, "insufficient privilege level"),
    (STATE, ErrorClass::Refused, "command not supported in present state"),
    (0xd6, ErrorClass::Forbidden, "command sub-function disabled"),
    (0xff, ErrorClass::Failing, "unspecified error"),
];

/// What kind of failure a code is.
#[must_use]
pub fn class(code: u8) -> ErrorClass {
    let row = CODES.iter().find(|(known, ..)| *known == code);
    row.map_or(ErrorClass::Refused, |(_, class, _)| *class)
}

/// The code in the specification's words.
#[must_use]
pub fn words(code: u8) -> String {
    let row = CODES.iter().find(|(known, ..)| *known == code);
    let words = row.map_or("completion code", |(_, _, words)| words);
    format!("{words} ({code:02X}h)")
}
