//! Uploaded ISOs: their files are there as soon as the upload is acknowledged, and for as long as it has a name.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::Write as _;

use common::{Files, bench, root, text};
use isobar_image::{BlobDir, BlobId};
use isobar_objects::{BlobKind, InstallFile, ServedAt, uploaded_blobs};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn blobs() -> (tempfile::TempDir, BlobDir) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = BlobDir::open(folder.path()).unwrap();
    (folder, blobs)
}

fn install(sum: &str) -> Value {
    json!({"Name": "debian-12-install", "Kernel": "linux", "Initrds": ["boot/initrd.gz"],
        "OS": {"Name": "debian-12", "IsoFile": "debian.iso", "IsoSha256": sum},
        "Templates": [{"Name": "ipxe", "Path": "{{.Machine.Path}}/ipxe",
            "Contents": "{{.Env.InstallUrl}} {{range .InstallRepos}}{{.Tag}}={{.URL}}{{end}} {{range .MachineRepos}}{{.Tag}}{{end}}"}]})
}

const FILES: &[(&str, &str)] = &[("linux", "kernel"), ("boot/initrd.gz", "initrd")];

fn bytes(blobs: &BlobDir, found: Option<InstallFile>) -> String {
    use std::os::unix::fs::FileExt;
    let Some(InstallFile::File { blob, offset, len }) = found else {
        panic!("{found:?}")
    };
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    blobs.file(&blob).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_bootenv_is_available_while_its_iso_is_there() {
    let (b, (_folder, blobs)) = (bench(), blobs());
    let o = &b.objects;
    o.set_presence(std::sync::Arc::new(Files::default())).unwrap();
    let made = o.create("bootenvs", &install(""), &root()).unwrap();
    assert_eq!(made["Available"], false);
    let state = || {
        let now = o.get("bootenvs", "debian-12-install").unwrap();
        (now["Available"].as_bool().unwrap(), now["Errors"].to_string())
    };
    for packed in [tar(FILES), gzip(&tar(FILES))] {
        o.take_in(BlobKind::Isos, "debian.iso", &mut packed.as_slice(), &blobs, &root())
            .unwrap();
        assert_eq!(state(), (true, "[]".to_owned()));
        assert_eq!(
            bytes(&blobs, o.install_file("debian-12/install/boot/initrd.gz").unwrap()),
            "initrd"
        );
        assert_eq!(
            o.install_file("debian-12/install").unwrap(),
            Some(InstallFile::Folder(vec!["boot/".to_owned(), "linux".to_owned()]))
        );
        for nothing in [
            "debian-12/install/x",
            "debian-12/linux",
            "debian-12",
            "debian-12/install/../../linux",
            "",
        ] {
            assert_eq!(o.install_file(nothing).unwrap(), None, "{nothing}");
        }
        assert!(o.forget_blob(BlobKind::Isos, "debian.iso", &root()).unwrap());
        assert!(!state().0);
        assert_eq!(o.install_file("debian-12/install/linux").unwrap(), None);
        assert_eq!(
            uploaded_blobs(o.store().as_ref()).unwrap().len(),
            0,
            "nothing of it is kept"
        );
    }
}

#[test]
fn an_iso_that_does_not_fit_says_why() {
    let (b, (_folder, blobs)) = (bench(), blobs());
    let o = &b.objects;
    o.set_presence(std::sync::Arc::new(Files::default())).unwrap();
    let iso = tar(FILES);
    let sum = hex::encode(Sha256::digest(&iso));
    o.create("bootenvs", &install(&sum.to_uppercase()), &root()).unwrap();
    let errors = || o.get("bootenvs", "debian-12-install").unwrap()["Errors"].to_string();
    let upload = |bytes: &[u8]| {
        o.take_in(BlobKind::Isos, "debian.iso", &mut &*bytes, &blobs, &root())
            .unwrap()
    };
    // All that is wanted is in it, and it is another one.
    upload(&tar(&[FILES[0], FILES[1], ("more", "x")]));
    assert!(
        errors().contains(&format!("and {} is wanted", sum.to_uppercase())),
        "{}",
        errors()
    );
    upload(&iso);
    assert_eq!(errors(), "[]");
    // Without a sum whatever comes is looked into.
    let mut bootenv = install("");
    bootenv["Name"] = "other".into();
    bootenv["OS"]["IsoFile"] = "o.iso".into();
    o.create("bootenvs", &bootenv, &root()).unwrap();
    let other = |bytes: &[u8]| {
        o.take_in(BlobKind::Isos, "o.iso", &mut &*bytes, &blobs, &root())
            .unwrap();
        o.get("bootenvs", "other").unwrap()["Errors"].to_string()
    };
    let said = other(b"no disc");
    assert!(
        said.contains("the uploaded o.iso is neither an ISO 9660 disc nor a tar"),
        "{said}"
    );
    let gzip = gzip(&iso);
    assert!(other(&gzip[..gzip.len() / 2]).contains("cannot be unpacked"));
    let cut = other(&iso[..1539]);
    assert!(cut.contains("the uploaded o.iso is cut short"), "{cut}");
    assert_eq!(other(&iso), "[]");
}

#[test]
fn bytes_are_needed_for_as_long_as_a_name_means_them() {
    let (b, (_folder, blobs)) = (bench(), blobs());
    let o = &b.objects;
    let needed = || uploaded_blobs(o.store().as_ref()).unwrap();
    let up = |kind, name: &str, bytes: &[u8]| o.take_in(kind, name, &mut &*bytes, &blobs, &root()).unwrap().1;
    let id = |bytes: &[u8]| BlobId(Sha256::digest(bytes).into());
    let packed = gzip(&tar(FILES));
    up(BlobKind::Isos, "a.iso", &packed);
    up(BlobKind::Isos, "b.iso", &packed);
    up(BlobKind::Files, "one", b"text");
    up(BlobKind::Files, "folder/two", b"text");
    let (unpacked, packed, file) = (id(&tar(FILES)), id(&packed), id(b"text"));
    assert_eq!(needed(), [unpacked, packed, file].into());
    o.forget_blob(BlobKind::Isos, "a.iso", &root()).unwrap();
    o.forget_blob(BlobKind::Files, "one", &root()).unwrap();
    assert_eq!(needed(), [unpacked, packed, file].into());
    // Another upload under the name takes its place.
    up(BlobKind::Isos, "b.iso", b"something else");
    o.forget_blob(BlobKind::Files, "folder/two", &root()).unwrap();
    assert_eq!(needed(), [id(b"something else")].into());
    assert!(!o.forget_blob(BlobKind::Files, "folder/two", &root()).unwrap());
}

#[test]
fn isos_of_an_older_database_are_looked_into_at_the_start() {
    let (b, (_folder, blobs)) = (bench(), blobs());
    let o = &b.objects;
    let (id, size) = blobs.import(&mut tar(FILES).as_slice()).unwrap();
    let row = json!({"blob": id.to_string(), "size": size});
    o.store()
        .commit(isobar_store::Txn {
            puts: vec![isobar_store::Put {
                kind: "_isos".to_owned(),
                key: "debian.iso".to_owned(),
                body: row.to_string().into_bytes().into(),
                expect: isobar_store::Expect::Any,
                indexes: Vec::new(),
            }],
            ..isobar_store::Txn::default()
        })
        .unwrap();
    assert_eq!((o.index_isos(&blobs).unwrap(), o.index_isos(&blobs).unwrap()), (1, 0));
    o.create("bootenvs", &install(""), &root()).unwrap();
    assert_eq!(
        bytes(&blobs, o.install_file("debian-12/install/linux").unwrap()),
        "kernel"
    );
}

#[test]
fn templates_know_the_install_tree() {
    let (b, (_folder, blobs)) = (bench(), blobs());
    let o = &b.objects;
    o.create("bootenvs", &install(""), &root()).unwrap();
    o.take_in(
        BlobKind::Isos,
        "debian.iso",
        &mut tar(FILES).as_slice(),
        &blobs,
        &root(),
    )
    .unwrap();
    let far = json!({"tag": "far", "os": ["debian-12"], "arch": "amd64", "url": "http://far", "installSource": true});
    let sec = json!({"tag": "sec", "os": ["debian-12"], "arch": "any", "url": "http://sec", "securitySource": true});
    let at = ServedAt {
        files: "http://here:1".to_owned(),
        ..ServedAt::default()
    };
    let here = "http://here:1/debian-12/install debian-12-install=http://here:1/debian-12/installsec=http://sec sec";
    let rows = [
        ("mach-01", json!([sec]), here),
        // A medium has too few packages for apt to be preferred to a whole repository.
        (
            "mach-02",
            json!([far, sec]),
            "http://far far=http://farsec=http://sec farsec",
        ),
    ];
    for (name, repositories, told) in rows {
        let machine = b.machine(json!({"Name": name, "BootEnv": "debian-12-install", "OS": "debian-12",
            "Params": {"package-repositories": repositories}}));
        let path = format!("machines/{}/ipxe", text(&machine, "Uuid"));
        assert_eq!(o.rendered_file(&path, &at).unwrap().unwrap(), told, "{name}");
    }
}
