//! A QEMU machine behind the BMC: power, boot order, media changes. One test, since each start of
//! a machine costs seconds where there is no KVM.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Client, ImageServer, SOON, SYSTEM, run};
use isobar_sim::{Firmware, MachineKind, Power, Sim, SimConfig, start};
use tempfile::TempDir;

/// mov al, 0xfe; out 0x64, al: the keyboard controller resets the machine.
const RESET: &[u8] = &[0xB0, 0xFE, 0xE6, 0x64];
/// mov dx, 0x604; mov ax, 0x2000; out dx, ax: ACPI switches it off.
const POWER_OFF: &[u8] = &[0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF];

/// A CD whose boot sector writes `text` to COM1, does `last` and halts.
fn talking_disc(text: &str, last: &[u8]) -> Vec<u8> {
    #[rustfmt::skip]
    let mut sector = vec![
        0x31, 0xC0,             // xor ax, ax
        0x8E, 0xD8,             // mov ds, ax
        0xBE, 0x40, 0x7C,       // mov si, 0x7c40
        0xAC,                   // next: lodsb
        0x84, 0xC0,             // test al, al
        0x74, 0x06,             // jz done
        0xBA, 0xF8, 0x03,       // mov dx, 0x3f8
        0xEE,                   // out dx, al
        0xEB, 0xF5,             // jmp next
    ];
    sector.extend(last);
    sector.extend([0xF4, 0xEB, 0xFD]); // hlt; jmp $-1
    sector.resize(0x40, 0);
    sector.extend(text.as_bytes());
    sector.resize(2048, 0);
    let folder = TempDir::new().unwrap();
    std::fs::create_dir(folder.path().join("tree")).unwrap();
    std::fs::write(folder.path().join("tree/boot.img"), sector).unwrap();
    #[rustfmt::skip]
    run("xorriso", "xorriso", folder.path(), &[
        "-as", "mkisofs", "-quiet", "-R", "-o", "disc.iso",
        "-b", "boot.img", "-no-emul-boot", "-boot-load-size", "4", "tree",
    ]);
    std::fs::read(folder.path().join("disc.iso")).unwrap()
}

async fn expect(sim: &Sim, what: &str, is: impl Fn(&Sim) -> bool) {
    let held = sim.wait_until(3 * SOON, is).await;
    assert!(
        held,
        "{what}: power {:?}, serial {:?}, boots {:#?}",
        sim.power(),
        sim.serial(),
        sim.boots()
    );
}

fn said(text: &str, times: usize) -> impl Fn(&Sim) -> bool {
    move |sim| sim.serial().matches(text).count() == times
}

#[tokio::test]
async fn a_virtual_machine_boots_the_inserted_image_once() {
    let first = ImageServer::start(talking_disc("first disc\n", &[])).await;
    let second = ImageServer::start(talking_disc("second disc\n", RESET)).await;
    let third = ImageServer::start(talking_disc("third disc\n", POWER_OFF)).await;
    let serial = TempDir::new().unwrap();
    let config = SimConfig {
        machine: MachineKind::Qemu,
        firmware: Firmware::Bios,
        memory_mib: 32,
        serial: Some(serial.path().join("serial.log")),
        work_dir: Some(serial.path().join("work")),
        ..SimConfig::quick()
    };
    let sim = start(config).await.unwrap();
    let client = Client::login(&sim).await;
    assert_eq!(sim.power(), Power::Off);

    assert_eq!(client.insert(&first.url()).await.status, 204);
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    assert!(first.seen().is_empty(), "lazy");
    assert_eq!(client.reset("On").await.status, 204);
    expect(&sim, "the first disc boots", said("first disc", 1)).await;
    assert_eq!(client.get(SYSTEM).await.body["PowerState"], "On");
    assert_eq!(sim.boot_override().enabled, "Disabled");
    assert!(sim.media()[0].machine_bytes >= 2048);

    // Nothing is set: the blank disk's turn, although the disc is still in.
    sim.guest_reset();
    expect(&sim, "the guest's reset is another start", |s| s.boots().len() == 2).await;
    assert_eq!(sim.boots()[0].ended.as_deref(), Some("reset"));
    assert_eq!(sim.boots()[1].device, "Hdd");

    // Another disc under the running machine, and an override that its own reset follows. The new
    // disc resets the machine itself: once, for then the override is used up.
    assert_eq!(client.eject().await.status, 204);
    assert_eq!(client.insert(&second.url()).await.status, 204);
    expect(&sim, "the drive asks for the new disc's size", |_| {
        !second.seen().is_empty()
    })
    .await;
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    sim.guest_reset();
    expect(&sim, "the second disc boots", said("second disc", 1)).await;
    expect(&sim, "and resets", |s| s.boots().len() == 4).await;
    let devices: Vec<String> = sim.boots().into_iter().map(|b| b.device).collect();
    assert_eq!(devices, ["Cd", "Hdd", "Cd", "Hdd"]);
    assert_eq!(sim.serial().matches("first disc").count(), 1, "it booted the disc once");

    // This guest does not listen to the power button.
    assert_eq!(client.reset("GracefulShutdown").await.status, 204);
    assert_eq!(client.reset("ForceOff").await.status, 204);
    expect(&sim, "power off", |s| s.power() == Power::Off).await;
    assert_eq!(sim.boots()[3].ended.as_deref(), Some("power-off"));
    let file = std::fs::read_to_string(serial.path().join("serial.log")).unwrap();
    assert!(file.contains("first disc") && file.contains("second disc"));

    // A guest that switches itself off.
    assert_eq!(client.boot("Cd", "Once").await.status, 200);
    client.eject().await;
    assert_eq!(client.insert(&third.url()).await.status, 204);
    assert_eq!(client.reset("On").await.status, 204);
    expect(&sim, "it boots", said("third disc", 1)).await;
    expect(&sim, "and is off", |s| s.power() == Power::Off).await;
    assert_eq!(sim.boots()[4].ended.as_deref(), Some("shutdown"));

    // Continuous boots the disc at every start.
    client.eject().await;
    assert_eq!(client.insert(&second.url()).await.status, 204);
    assert_eq!(client.boot("Cd", "Continuous").await.status, 200);
    assert_eq!(client.reset("On").await.status, 204);
    expect(&sim, "a disc that resets boots again and again", |s| {
        s.serial().matches("second disc").count() >= 3
    })
    .await;
    // Nobody says goodbye: the virtual machine goes with its simulator.
    let work = serial.path().join("work").to_str().unwrap().to_owned();
    wait_for_processes(&work, 1).await;
    drop(sim);
    wait_for_processes(&work, 0).await;
}

async fn wait_for_processes(text: &str, count: usize) {
    let wait = async {
        while processes_of(text) != count {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(SOON, wait).await.is_ok();
    assert!(in_time, "{} processes instead of {count}", processes_of(text));
}

/// Processes that have the text on their command line.
fn processes_of(text: &str) -> usize {
    let lines = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|p| std::fs::read(p.path().join("cmdline")));
    lines
        .flatten()
        .filter(|line| String::from_utf8_lossy(line).contains(text))
        .count()
}
