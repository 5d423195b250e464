//! Machines of the size that real ones have: an inventory and thirty params, 5.9 KB as text.

use serde_json::{Map, Value, json};

/// Params besides the inventory.
const PARAMS: usize = 29;

/// The machine of this number, as a client creates it.
pub(super) fn machine(number: usize) -> Vec<u8> {
    let mut params = Map::new();
    for n in 0..PARAMS {
        let value = match n % 4 {
            0 => json!(format!("value {n} of machine {number}, as long as such values are")),
            1 => json!(number * n),
            2 => json!([format!("first-{number}"), "second", "third"]),
            _ => json!({"rack": number / 40, "unit": number % 40, "powered": true}),
        };
        params.insert(format!("site/param-{n:02}"), value);
    }
    params.insert("gohai-inventory".to_owned(), inventory(number));
    json!({
        "Name": format!("mach-{number:06}"),
        "Uuid": uuid(number),
        "Description": format!("rack {} unit {}", number / 40, number % 40),
        "Address": format!("10.{}.{}.{}", number >> 16 & 255, number >> 8 & 255, number & 255),
        "HardwareAddrs": [mac(number, 0), mac(number, 1)],
        "Workflow": "",
        "Meta": {"color": "black", "icon": "server", "site": format!("site-{}", number % 10)},
        "Params": params,
    })
    .to_string()
    .into_bytes()
}

/// Its key.
pub(super) fn uuid(number: usize) -> String {
    format!("5a1e7000-0000-4000-8000-{number:012x}")
}

fn mac(number: usize, card: usize) -> String {
    let bytes = [number >> 16 & 255, number >> 8 & 255, number & 255];
    format!("52:54:{card:02x}:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2])
}

fn inventory(number: usize) -> Value {
    let nics: Vec<Value> = (0..6)
        .map(|n| {
            json!({"Name": format!("enp{n}s0f{n}"), "MacAddr": mac(number, n), "MTU": 1500, "Driver": "i40e",
                   "SpeedMbps": 25_000, "Link": n < 2, "PciAddress": format!("0000:{n:02x}:00.{n}")})
        })
        .collect();
    let disks: Vec<Value> = (0..6)
        .map(|n| {
            json!({"Name": format!("/dev/nvme{n}n1"), "Size": 3_840_755_982_336_u64, "Model": "PM1733 3.84TB",
                   "Serial": format!("S4YN{number:06}{n:04}"), "PhysicalBlockSize": 4096, "Rotational": false})
        })
        .collect();
    let dimms: Vec<Value> = (0..24)
        .map(|n| {
            json!({"Locator": format!("DIMM_{n}"), "SizeMiB": 32_768, "SpeedMTs": 3200, "Serial": format!("{number:06X}{n:02X}")})
        })
        .collect();
    json!({
        "System": {"Manufacturer": "Contoso", "Product": "R7525", "Serial": format!("CTS{number:07}")},
        "Firmware": {"Vendor": "Contoso", "Version": "2.14.1", "Date": "2024-03-19", "UEFI": true},
        "CPU": {"Sockets": 2, "Cores": 64, "Threads": 128, "Model": "EPYC 7543 32-Core Processor"},
        "Memory": {"TotalMiB": 262_144, "Dimms": dimms},
        "Networking": {"Interfaces": nics},
        "Storage": {"Disks": disks},
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn machines_have_their_size_and_differ() {
        let (first, last) = (machine(0), machine(99_999));
        let value: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(value["Params"].as_object().unwrap().len(), PARAMS + 1);
        assert!((4_500..6_000).contains(&first.len()), "{}", first.len());
        for member in ["Uuid", "Address", "Name"] {
            let other: Value = serde_json::from_slice(&last).unwrap();
            assert_ne!(value[member], other[member]);
        }
    }
}
