//! Files of a machine that boots from its virtual CD: their address, and the token in them, are in the machine's own hands.

#![allow(clippy::unwrap_used)]

mod stage;

use isobar_client::{Auth, Client, Secret, TlsTrust};
use serde_json::{Value, json};
use stage::{MACHINE, Server, Stage};

fn get(server: &Server, url: &str) -> (u16, String) {
    let (status, body) = server.get_image(url, None);
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[test]
fn a_booting_machine_fetches_its_token_by_the_address_on_its_own_disc() {
    let stage = Stage::new(|_| {});
    stage.import();
    let pack = stage.client().get::<Value>("/api/v3/bootenvs/sledgehammer").unwrap();
    let bootenv = json!({"Name": "seeded", "Kernel": pack["Kernel"], "Initrds": pack["Initrds"], "OS": {"Name": "sledgehammer"},
        "BootParams": format!("{} url={{{{.Machine.Url}}}}/seed", pack["BootParams"].as_str().unwrap()),
        "Templates": [{"Name": "ipxe", "Path": "{{.Machine.Path}}/seed", "Contents": "{{.GenerateInfiniteToken}}"}]});
    let out = stage.isobar(&["bootenvs", "create", &bootenv.to_string()]);
    assert!(out.ok, "{out}");
    stage.add_machine(&json!({}));
    let out = stage.isobar(&["machines", "bootenv", MACHINE, "seeded", "--wait", "agent"]);
    assert!(out.ok, "{out}");
    let uuid = stage.machine()["Uuid"].as_str().unwrap().to_owned();
    let os = stage.last_os();
    let url = os
        .command_line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("url="))
        .unwrap();
    assert!(url.ends_with(&format!("/machines/{uuid}/seed")), "{url}");
    let (status, token) = get(&stage, url);
    assert_eq!((status, token.len()), (200, 43), "{token}");
    // By the path that anybody can write, or with another pass, there is none.
    let guessed = format!("http://x/machines/{uuid}/seed");
    let (at, rest) = url.split_once("://").unwrap().1.split_once('/').unwrap();
    let mut other = rest.to_owned();
    other.replace_range(..1, if rest.starts_with('A') { "B" } else { "A" });
    for url in [guessed, format!("http://{at}/{other}")] {
        let (status, body) = get(&stage, &url);
        assert!(status == 404 && !body.contains(&token), "{url}: {status} {body}");
    }
    let pass = rest.split('/').next().unwrap();
    assert!(!stage.log().contains(pass), "the log does not know the address");
    // It is the machine's, and ends with the boot.
    let endpoint = format!("https://127.0.0.1:{}", stage.api_port());
    let machine = Client::new(&endpoint, Auth::Token(Secret::new(token.as_str())), TlsTrust::Insecure).unwrap();
    let own = format!("/api/v3/machines/{uuid}");
    assert_eq!(machine.get::<Value>(&own).unwrap()["Name"], stage.machine()["Name"]);
    assert!(machine.get::<Value>("/api/v3/users/rocketskates").is_err());
    let out = stage.isobar(&["machines", "bootenv", MACHINE, "local", "--no-wait"]);
    assert!(out.ok, "{out}");
    stage.wait("the boot is over", |_| machine.get::<Value>(&own).is_err());
    assert_eq!(get(&stage, url).0, 404);
}
