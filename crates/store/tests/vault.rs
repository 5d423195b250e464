//! Sealed bytes and sealed params.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use isobar_store::Vault;
use isobar_store::vault::{SealedParam, VaultError, seal_for};

#[test]
fn seals_and_opens_only_with_the_same_context_and_key() {
    let vault = Vault::ephemeral();
    let sealed = vault.seal("_exchanges/1", b"calvin");
    assert_eq!(vault.open_sealed("_exchanges/1", &sealed).unwrap(), b"calvin");
    assert!(!sealed.windows(6).any(|w| w == b"calvin"));
    assert_ne!(sealed, vault.seal("_exchanges/1", b"calvin"), "nonces differ");
    vault.open_sealed("_exchanges/2", &sealed).unwrap_err();
    Vault::ephemeral().open_sealed("_exchanges/1", &sealed).unwrap_err();
    for n in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[n] ^= 1;
        vault.open_sealed("_exchanges/1", &damaged).unwrap_err();
        vault.open_sealed("_exchanges/1", &sealed[..n]).unwrap_err();
    }
}

#[test]
fn keeps_its_key_in_a_private_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.key");
    let sealed = Vault::open(&path).unwrap().seal("x", b"secret");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read(&path).unwrap().len(), 32);
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing left over"
    );
    assert_eq!(
        Vault::open(&path).unwrap().open_sealed("x", &sealed).unwrap(),
        b"secret"
    );
    assert!(!format!("{:?}", Vault::open(&path).unwrap()).contains(|c: char| c.is_ascii_digit()));

    for mode in [0o640, 0o604, 0o660] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let refused = Vault::open(&path).unwrap_err();
        assert!(
            matches!(refused, VaultError::Exposed { mode: m, .. } if m == mode),
            "{refused}"
        );
        assert!(refused.to_string().contains("chmod 600"));
    }
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&path, [0; 31]).unwrap();
    assert!(matches!(Vault::open(&path), Err(VaultError::NotAKey { len: 31, .. })));
    let missing = Vault::open(&folder.path().join("no/vault.key")).unwrap_err();
    assert!(missing.to_string().contains("no/vault.key"));
}

#[test]
fn makes_one_key_however_many_open_it_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vault.key");
    let keys: Vec<_> = std::thread::scope(|scope| {
        let opening: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Vault::open(&path).unwrap().param_public_key("machines", "m")))
            .collect();
        opening.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(keys.iter().all(|k| k == &keys[0]));
}

#[test]
fn opens_params_of_the_one_object_they_were_sealed_for() {
    let vault = Vault::ephemeral();
    let key = vault.param_public_key("machines", "m1");
    assert_eq!(key, vault.param_public_key("machines", "m1"));
    assert_ne!(key, vault.param_public_key("machines", "m2"));
    assert_ne!(vault.param_public_key("a", "bc"), vault.param_public_key("ab", "c"));
    let sealed = seal_for(key, br#""calvin""#);
    assert_eq!(vault.open_param("machines", "m1", &sealed).unwrap(), br#""calvin""#);
    vault.open_param("machines", "m2", &sealed).unwrap_err();
    let ours = vault.seal_param("machines", "m1", b"1");
    assert_eq!(vault.open_param("machines", "m1", &ours).unwrap(), b"1");

    let json = serde_json::to_value(&sealed).unwrap();
    assert_eq!(
        json.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["Key", "Nonce", "Payload"]
    );
    for member in ["Key", "Nonce", "Payload"] {
        for wrong in ["", "!", "AAAA"] {
            let mut json = json.clone();
            json[member] = wrong.into();
            let damaged: SealedParam = serde_json::from_value(json).unwrap();
            vault.open_param("machines", "m1", &damaged).unwrap_err();
        }
    }
}

/// The `crypto_box` vector of NaCl's own tests (`tests/box.c`): what DRP's clients make must open here.
#[test]
fn boxes_are_nacl_boxes() {
    use crypto_box::aead::Aead;
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap())
            .collect()
    };
    let array = |hex: &str| <[u8; 32]>::try_from(bytes(hex)).unwrap();
    let alice = array("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    let bob = array("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    let nonce = <[u8; 24]>::try_from(bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")).unwrap();
    let clear = bytes(
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f4\
         1db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52\
         f0a089bc76897040e082f937763848645e0705",
    );
    let boxed = bytes(
        "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b\
         4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da\
         99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5",
    );
    let nacl = crypto_box::SalsaBox::new(&bob.into(), &alice.into());
    assert_eq!(nacl.encrypt(&nonce.into(), clear.as_slice()).unwrap(), boxed);
    assert_eq!(nacl.decrypt(&nonce.into(), boxed.as_slice()).unwrap(), clear);
}
