//! Machine and kernel arguments to the files of its own that go on the disc. Pure.

use bytes::Bytes;
use isobar_image::cpio::{Archive, Kind};
use isobar_image::{FileRole, OwnFile};

/// What the agent finds in its initramfs. Shape: see the agent's `boot.json`.
#[derive(Clone)]
pub struct BootSecret {
    /// Machine's UUID.
    pub machine: String,
    /// Attempt, 32 hex digits.
    pub attempt: String,
    /// The secret itself, base64url.
    pub secret: String,
    /// Where the API is, as the machine sees it.
    pub api: Vec<String>,
    /// SHA-256 of the API's certificate, hex.
    pub fingerprint: String,
}

/// What a disc is rendered from.
#[derive(Clone)]
pub struct Disc<'a> {
    /// Title of the menu entry.
    pub title: &'a str,
    /// Path of the kernel on the disc, without leading slash.
    pub kernel: &'a str,
    /// Paths of the initrds.
    pub initrds: &'a [String],
    /// Kernel arguments.
    pub arguments: &'a str,
    /// The boot secret.
    pub secret: &'a BootSecret,
}

/// Path of the machine's own initrd on the disc.
pub const OWN_INITRD: &str = "isobar/own.img";

/// Renders a machine's own files.
#[must_use]
pub fn own_files(disc: &Disc<'_>) -> Vec<OwnFile> {
    let config = Bytes::from(grub_cfg(disc));
    let own = |path: &str, bytes: Bytes, role| OwnFile {
        path: path.to_owned(),
        bytes,
        role,
    };
    vec![
        own("boot/grub/grub.cfg", config.clone(), FileRole::GrubConfig),
        own("EFI/BOOT/grub.cfg", config.clone(), FileRole::GrubConfig),
        own("EFI/BOOT/BOOT.conf", config, FileRole::GrubConfig),
        own(OWN_INITRD, own_initrd(disc.secret), FileRole::OwnInitrd),
        // GRUB builds for CDs look for this file when they cannot tell where they came from.
        own(
            ".disk/info",
            Bytes::from(format!("{} {}\n", disc.title, disc.secret.machine)),
            FileRole::Other,
        ),
    ]
}

/// The menu: one entry, no waiting, kernel and initrds by absolute path on the disc that GRUB came from.
fn grub_cfg(disc: &Disc<'_>) -> String {
    let mut initrds = String::new();
    for path in disc.initrds.iter().map(String::as_str).chain([OWN_INITRD]) {
        initrds.push_str(" /");
        initrds.push_str(path);
    }
    let arguments = disc.arguments.split_whitespace().collect::<Vec<_>>();
    // What stands behind `--` is init's and not the kernel's, consoles included: without a copy in front, a kernel
    // that dies would do so in silence.
    let for_init = arguments
        .iter()
        .position(|word| *word == "--")
        .unwrap_or(arguments.len());
    let consoles = arguments[for_init..].iter().filter(|word| word.starts_with("console="));
    let arguments = [&["BOOTIF=discovery"], &arguments[..for_init]]
        .concat()
        .into_iter()
        .chain(consoles.copied())
        .chain(arguments[for_init..].iter().copied())
        .collect::<Vec<_>>()
        .join(" ");
    // The rescue of a boot that fails in GRUB is a message on the console and a prompt, not a loop.
    format!(
        "set timeout=0\nset default=0\nmenuentry \"{title}\" {{\n  echo \"isobar: loading kernel\"\n  linux /{kernel} \
         {arguments}\n  echo \"isobar: loading initrd\"\n  initrd{initrds}\n  boot\n}}\n",
        title = quoted(disc.title),
        kernel = disc.kernel,
        arguments = escaped(&arguments),
    )
}

/// Text inside double quotes of a GRUB script.
fn quoted(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '"' | '\\' | '$' | '\n')).collect()
}

/// Kernel arguments as words of a GRUB script: what GRUB would interpret goes literal. Double quotes
/// stay quotes for GRUB as the published layout has them (`provisioner.interface="eth10"`).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ';' | '&' | '|' | '<' | '>' | '{' | '}' | '$' | '\\' | '\'' | '#') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// The second initrd: `/etc/isobar/boot.json`, readable by root alone. Not on the kernel command line,
/// which every process may read.
fn own_initrd(secret: &BootSecret) -> Bytes {
    let json = serde_json::json!({
        "version": 1,
        "machine": secret.machine,
        "attempt": secret.attempt,
        "secret": secret.secret,
        "api": secret.api,
        "fingerprint": secret.fingerprint,
    });
    let mut archive = Archive::new();
    archive.add("etc", Kind::Dir, 0o755, &[]);
    archive.add("etc/isobar", Kind::Dir, 0o700, &[]);
    archive.add("etc/isobar/boot.json", Kind::File, 0o600, json.to_string().as_bytes());
    Bytes::from(archive.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disc_with(arguments: &str) -> String {
        let secret = BootSecret {
            machine: "bb1eadf9-4b5e-46a7-a577-d07e2a33138f".into(),
            attempt: "0".repeat(32),
            secret: "s3cr3t".into(),
            api: vec!["https://192.168.77.1:8092".into()],
            fingerprint: "ab".repeat(32),
        };
        let initrds = ["stage1.img".to_owned()];
        let disc = Disc {
            title: "Sledgehammer",
            kernel: "vmlinuz0",
            initrds: &initrds,
            arguments,
            secret: &secret,
        };
        let files = own_files(&disc);
        assert!(
            files
                .iter()
                .filter(|f| f.role == FileRole::GrubConfig)
                .all(|f| f.bytes == files[0].bytes)
        );
        let config = String::from_utf8(files[0].bytes.to_vec()).unwrap_or_default();
        assert!(!config.contains("s3cr3t"), "the secret is not on the command line");
        let own = files
            .iter()
            .find(|f| f.path == OWN_INITRD)
            .map(|f| String::from_utf8_lossy(&f.bytes).into_owned());
        assert!(own.is_some_and(|own| own.contains("s3cr3t")));
        config
    }

    #[test]
    fn the_menu_has_the_arguments_on_one_line() {
        let config = disc_with("ro\n  provisioner.ip=10.0.0.2/24   provisioner.interface=\"eth10\" -- console=tty0");
        assert!(config.contains(
            "linux /vmlinuz0 BOOTIF=discovery ro provisioner.ip=10.0.0.2/24 provisioner.interface=\"eth10\" console=tty0 -- console=tty0\n"
        ));
        assert!(config.contains("initrd /stage1.img /isobar/own.img\n"));
    }

    #[test]
    fn arguments_are_no_script() {
        let config = disc_with("a=$b; halt");
        assert!(config.contains("a=\\$b\\; halt"), "{config}");
    }
}
